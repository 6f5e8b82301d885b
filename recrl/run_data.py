"""From a config to the things that a run works with: data, SIDs, tokenizer, model, trie."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from recrl.backends.decoder_policy import DecoderPolicy
from recrl.backends.engines import ENGINES
from recrl.backends.ranks import ALONE, Ranks, join
from recrl.baselines import BASELINES, RECALLERS
from recrl.baselines.pools import Retriever
from recrl.config import RunConfig
from recrl.data import dataset as datasets
from recrl.data.dataset import Dataset
from recrl.data.frequency import training_counts
from recrl.data.prepare import HISTORY_LIMITS
from recrl.device.matmul_speed import choose_dtype
from recrl.device.runtime import local_device
from recrl.errors import ConfigError, UserError
from recrl.memory.head import HeadShape, MemoryHead
from recrl.memory.recall import Memory
from recrl.memory.store import load_head
from recrl.models.checkpoint import grow_vocabulary, load_folder, read_folder
from recrl.models.presets import preset_model, preset_tokenizer, start_from_codebooks
from recrl.parts import Choice, resolve
from recrl.processes import local_rank
from recrl.prompts.templates import TEMPLATES
from recrl.prompts.writer import PromptWriter
from recrl.seeding import seed_of
from recrl.sids import codes as sid_codes
from recrl.sids.codes import SidIndex
from recrl.sids.tokens import add_sid_tokens
from recrl.sids.trie import Trie, build_trie

logger = logging.getLogger(__name__)
SIDS_KEY = "recrl_sid_fingerprint"
"""Where a model's config.json names the SIDs that it learned."""


@dataclass(frozen=True)
class RunData:
    """What stays the same through a run.

    Attributes:
        codes: [items, L] SID codes on the policy's device.
        trie: of every item's response, on the policy's device.
        dtype: of matrix products, the same on all ranks.
        ranks: the processes of this run.
    """

    dataset: Dataset
    index: SidIndex
    writer: PromptWriter
    trie: Trie
    codes: Tensor
    device: torch.device
    dtype: str = "float32"
    ranks: Ranks = ALONE


def load_data(config: RunConfig, dataset: Dataset | None = None) -> tuple[Dataset, SidIndex]:
    """The data set and its SIDs, checked against each other.

    Args:
        dataset: of ``data.path``, where it has been read already.

    Raises:
        UserError: the SIDs belong to another data set.
    """
    dataset = datasets.load(config.data.path) if dataset is None else dataset
    index = sid_codes.load(config.sid.path)
    bound = index.meta.get("dataset")
    if bound != dataset.meta["fingerprint"]:
        raise UserError(
            f"the SIDs at {config.sid.path} belong to another data set",
            why=f"they were built on {bound}, and {config.data.path} is {dataset.meta['fingerprint']}",
            fix="build them again with `recrl sid build`",
        )
    return dataset, index


def new_model(config: RunConfig, dataset: Dataset, index: SidIndex) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that SFT starts from, bound to the SIDs that it will learn."""
    model, tokenizer = _unbound_model(config, dataset, index)
    setattr(model.config, SIDS_KEY, index.fingerprint)
    return model, tokenizer


def _unbound_model(
    config: RunConfig, dataset: Dataset, index: SidIndex
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A preset, or a folder whose vocabulary grows by the SIDs."""
    if config.model.path is not None:
        model, tokenizer = load_folder(config.model.path)
        add_sid_tokens(tokenizer, index)
        grow_vocabulary(model, len(tokenizer), seed_of(config.run.seed, "grow"))
        return model, tokenizer
    if config.model.preset is None:
        raise ConfigError(
            "[model] names no model", why="SFT needs one to start from", fix="set model.preset or model.path"
        )
    catalog = dataset.catalog
    texts = itertools.chain(
        catalog.titles,
        catalog.descriptions,
        catalog.brands,
        catalog.categories,
        *(template.texts.values() for template in TEMPLATES.values()),
    )
    tokenizer = preset_tokenizer(texts, config.model.text_vocab_size)
    add_sid_tokens(tokenizer, index)
    seed = seed_of(config.run.seed, "init") % 2**32
    model = preset_model(config.model.preset, config.model.shape, len(tokenizer), seed)
    codebooks = sid_codes.load_codebooks(config.sid.path) if config.model.sid_init == "codebook" else None
    if codebooks is not None:
        start_from_codebooks(model, [tokenizer.convert_tokens_to_ids(name) for name in index.vocabulary()], codebooks)
    return model, tokenizer


def make_run_data(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, index: SidIndex, *, titles: bool = False
) -> RunData:
    """Writer and trie for a tokenizer that knows the SIDs; ``titles`` adds the catalogue's titles as a second root."""
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    device = local_device(config.backend.device, local_rank())
    ranks = join(device, config.backend.tensor_parallel)
    dtype = ranks.broadcast_from_first(choose_dtype(config.backend.dtype, device) if ranks.is_first else "")
    limit = history_limit(config, dataset)
    prompts = config.prompts
    writer = PromptWriter.make(
        tokenizer,
        index,
        dataset.catalog,
        prompts.template,
        limit,
        by_title=prompts.action_space == "title",
        slate_size=prompts.slate_size,
    )
    rows = [writer.responses(), *([writer.titles(np.arange(len(dataset.catalog)))] if titles else [])]
    trie = build_trie(*rows).to(device)
    if prompts.pool:
        writer = replace(writer, retriever=make_retriever(config, dataset, trie, limit))
    if config.memory.weight:
        writer = replace(writer, memory=make_memory(config, dataset, trie))
    if config.eval.beam_width > len(dataset.catalog):
        raise UserError(
            f"eval.beam_width = {config.eval.beam_width}",
            why=f"the catalogue has {len(dataset.catalog)} items",
            fix="set it to that or less",
        )
    return RunData(dataset, index, writer, trie, torch.from_numpy(index.codes).long().to(device), device, dtype, ranks)


def history_limit(config: RunConfig, dataset: Dataset) -> int:
    """Items of history in a prompt: the config's number, or what the data set was prepared with.

    Raises:
        UserError: valid and test do not hold so many.
    """
    usual = HISTORY_LIMITS["leave-one-out"]  # of a data set made in memory, which may not say
    prepared: int = dataset.meta.get("history_limit", usual)
    asked = config.data.history_limit
    if asked is not None and asked > prepared and dataset.meta.get("split") == "chronological":
        raise UserError(
            f"data.history_limit = {asked}",
            why=f"valid and test of {config.data.path} hold {prepared} items of a history",
            fix=f"leave it out, or prepare the data with --history-limit {asked}",
        )
    return asked or prepared


def make_retriever(config: RunConfig, dataset: Dataset, trie: Trie, history_limit: int) -> Retriever:
    """What finds the candidates of prompts, fitted on the training sequences.

    Raises:
        UserError: there is nothing to fit on, or a history leaves fewer items than are wanted.
    """
    prompts, items = config.prompts, len(dataset.catalog)
    left = len(set(trie.canonical.tolist())) - history_limit
    if prompts.pool > left:
        raise UserError(
            f"prompts.pool = {prompts.pool}",
            why=f"the catalogue has {items} items, of which a history of {history_limit} leaves {max(left, 0)}",
            fix="ask for fewer, or shorten the history",
        )
    if not len(dataset.train):
        raise UserError(
            f"prompts.pool = {prompts.pool}",
            why="the data set has no training sequences to fit a retriever on",
            fix="set it to 0, or prepare data with a train split",
        )
    part, options = resolve(BASELINES, prompts.retriever, where="prompts.retriever")
    popularity, plain = resolve(BASELINES, Choice(kind="popularity"), where="prompts.retriever")
    return Retriever(
        part.run(dataset.train, dataset.catalog, options),
        popularity.run(dataset.train, dataset.catalog, plain),
        trie.canonical,
        prompts.pool,
        by_rank=prompts.pool_order == "rank",
    )


def make_memory(config: RunConfig, dataset: Dataset, trie: Trie) -> Memory:
    """What the policy remembers, fitted on the training sequences.

    Raises:
        UserError: there is nothing to fit on.
    """
    if not len(dataset.train):
        raise UserError(
            f"memory.weight = {config.memory.weight}",
            why="the data set has no training sequences to fit a memory on",
            fix="set it to 0, or prepare data with a train split",
        )
    part, options = resolve(RECALLERS, config.memory.scorer, where="memory.scorer")
    scorer = part.run(dataset.train, dataset.catalog, options)
    counts = training_counts(dataset.train, len(dataset.catalog))
    size = min(config.memory.size, len(dataset.catalog))
    memory = Memory(scorer, counts, trie.canonical, size, exclude_history=config.eval.exclude_history)
    return memory.scaled(dataset.train) if config.memory.hidden_size else memory


def _memory_head(config: RunConfig, world: RunData, folder: Path | None) -> MemoryHead | None:
    """What turns the memory into weights; what ``folder``'s had learned, or a new one."""
    if world.writer.memory is None:
        return None
    memory = config.memory
    features = world.writer.memory.num_features
    shape = HeadShape(memory.weight, memory.floor, features, memory.hidden_size)
    head = MemoryHead(shape, seed_of(config.run.seed, "memory") % 2**32)
    if folder is not None:
        load_head(head, folder)
    return head


def start_run_data(
    config: RunConfig, dataset: Dataset, index: SidIndex, *, titles: bool = False
) -> tuple[RunData, DecoderPolicy]:
    """The data, and the model that ``[model]`` names, bound to the SIDs that it will learn."""
    if config.model.path is not None:
        _, tokenizer = read_folder(config.model.path)
        add_sid_tokens(tokenizer, index)
        world = make_run_data(config, tokenizer, dataset, index, titles=titles)
        seed, options = seed_of(config.run.seed, "grow"), _policy_options(config, world)
        engine = _engine(config, world)
        policy = engine.load_grown(config.model.path, tokenizer, seed, world.trie, world.device, **options)
        if policy is not None:
            setattr(policy.config, SIDS_KEY, index.fingerprint)
            return world, policy
    model, tokenizer = new_model(config, dataset, index)
    world = make_run_data(config, tokenizer, dataset, index, titles=titles)
    return world, make_policy(config, world, model, tokenizer)


def make_policy(
    config: RunConfig, world: RunData, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> DecoderPolicy:
    """A model in memory as a policy of the config's engine, with its arithmetic and log-probability space."""
    kind = _engine(config, world)
    return kind.of(model, tokenizer, world.trie, world.device, **_policy_options(config, world))


def _engine(config: RunConfig, world: RunData) -> type[DecoderPolicy]:
    return ENGINES[config.backend.engine](world.device, config.backend.tensor_parallel)


def _policy_options(config: RunConfig, world: RunData, folder: Path | None = None) -> dict[str, Any]:
    """``folder`` may hold what the memory has learned."""
    backend = config.backend
    return {
        "memory": _memory_head(config, world, folder),
        "dtype": world.dtype,
        "token_budget": backend.token_budget,
        "space": backend.logprob_space,
        "kernels": backend.kernels,
    }


def load_run_data(
    config: RunConfig, folder: Path, *, titles: bool = False, dataset: Dataset | None = None
) -> tuple[RunData, DecoderPolicy]:
    """A trained model folder with the data and SIDs of its run; the model is in evaluation mode.

    Args:
        titles: whether titles are responses too.
        dataset: of ``data.path``, where it has been read already.

    Raises:
        UserError: the model learned other SIDs.
    """
    dataset, index = load_data(config, dataset)
    about, tokenizer = read_folder(folder)
    learned = getattr(about, SIDS_KEY, index.fingerprint)  # a folder from elsewhere does not say
    if learned != index.fingerprint:
        raise UserError(
            f"the model at {folder} learned other SIDs",
            why=f"they had the fingerprint {learned}, and {config.sid.path} has {index.fingerprint}",
            fix="put the index back, or train again",
        )
    world = make_run_data(config, tokenizer, dataset, index, titles=titles)
    policy = _engine(config, world).load(folder, world.trie, world.device, **_policy_options(config, world, folder))
    policy.model.eval()
    return world, policy
