"""From a config to the things that a run works with: data, SIDs, tokenizer, model, trie."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from recrl.backends.device import choose_device
from recrl.backends.torch_backend import TransformersPolicy
from recrl.config import RunConfig
from recrl.data import dataset as datasets
from recrl.data.dataset import Dataset
from recrl.data.prompts import PromptWriter
from recrl.data.templates import TEMPLATES
from recrl.errors import ConfigError, UserError
from recrl.models.checkpoint import grow_vocabulary, load_folder
from recrl.models.presets import preset_model, preset_tokenizer, start_from_codebooks
from recrl.seeding import seed_of
from recrl.sids import codes as sid_codes
from recrl.sids.codes import SidIndex
from recrl.sids.tokens import add_sid_tokens
from recrl.sids.trie import Trie, build_trie

logger = logging.getLogger(__name__)
SIDS_KEY = "recrl_sid_fingerprint"
"""Where a model's config.json names the SIDs that it learned."""


@dataclass(frozen=True)
class World:
    """What stays the same through a run.

    Attributes:
        codes: [items, L] SID codes on the policy's device.
        trie: of every item's response, on the policy's device.
    """

    dataset: Dataset
    index: SidIndex
    writer: PromptWriter
    trie: Trie
    codes: Tensor
    device: torch.device


def load_data(config: RunConfig) -> tuple[Dataset, SidIndex]:
    """The data set and its SIDs, checked against each other.

    Raises:
        UserError: the SIDs belong to another data set.
    """
    dataset = datasets.load(config.data.path)
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


def make_world(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, index: SidIndex, *, titles: bool = False
) -> World:
    """Writer and trie for a tokenizer that knows the SIDs; ``titles`` adds the catalogue's titles as a second root."""
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    device = choose_device(config.backend.device)
    limit = config.data.history_limit
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
    if config.eval.beam_width > len(dataset.catalog):
        raise UserError(
            f"eval.beam_width = {config.eval.beam_width}",
            why=f"the catalogue has {len(dataset.catalog)} items",
            fix="set it to that or less",
        )
    return World(dataset, index, writer, trie, torch.from_numpy(index.codes).long().to(device), device)


def make_policy(
    config: RunConfig, world: World, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> TransformersPolicy:
    """A policy with the config's arithmetic and log-probability space."""
    return TransformersPolicy(
        model,
        tokenizer,
        world.trie,
        world.device,
        dtype=config.backend.dtype,
        token_budget=config.backend.token_budget,
        space=config.backend.logprob_space,
        kernels=config.backend.kernels,
    )


def load_world(config: RunConfig, folder: Path, *, titles: bool = False) -> tuple[World, TransformersPolicy]:
    """A trained model folder with the data and SIDs of its run; the model is in evaluation mode.

    Args:
        titles: whether titles are responses too.

    Raises:
        UserError: the model learned other SIDs.
    """
    dataset, index = load_data(config)
    model, tokenizer = load_folder(folder)
    learned = getattr(model.config, SIDS_KEY, index.fingerprint)  # a folder from elsewhere does not say
    if learned != index.fingerprint:
        raise UserError(
            f"the model at {folder} learned other SIDs",
            why=f"they had the fingerprint {learned}, and {config.sid.path} has {index.fingerprint}",
            fix="put the index back, or train again",
        )
    world = make_world(config, tokenizer, dataset, index, titles=titles)
    model.eval()
    return world, make_policy(config, world, model, tokenizer)
