"""A data set, SIDs and a fresh model in a folder, made to measure: every prompt has the same length.

All rows are prompts of every step, so a step's prompts are known beforehand. SIDs are distinct random codes, 3 levels
of 256. Weights are random; the embedding is scaled up, since near-uniform probabilities would leave beams to roundings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recrl.config import RunConfig, check
from recrl.config_layers import merge
from recrl.data import dataset as datasets
from recrl.data.dataset import Catalog, Dataset, Examples, Sequences
from recrl.data.ragged import Ragged
from recrl.models.checkpoint import save_folder
from recrl.run_data import load_data, new_model
from recrl.seeding import generator
from recrl.sids import codes as sid_codes
from recrl.sids.codes import SidIndex
from recrl.store.run_folder import StageFolder
from recrl.training.rl import Rl

LEVELS, CODES = 3, 256
TEXT_TOKENS = 428
"""Text entries of the vocabulary; with four marks and 768 codes it has 1,200."""
NAMED_ITEMS = 1000
"""Items with a title; the tokenizer is trained on their titles alone."""
SPREAD = 4.0
"""Factor on the random embedding."""

SHAPES: dict[str, dict[str, int]] = {
    "0.3M": {
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "5M": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8},
    "20M": {"hidden_size": 384, "intermediate_size": 1152, "num_hidden_layers": 10, "num_attention_heads": 6},
    "50M": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 14, "num_attention_heads": 8},
    "100M": {"hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 13, "num_attention_heads": 12},
    "150M": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 11, "num_attention_heads": 16},
}
"""Qwen3 shapes by their number of parameters, in Hugging Face's names."""


@dataclass(frozen=True)
class WorldSize:
    """Sizes of a world.

    Attributes:
        shape: a key of ``SHAPES``.
        prompts: of every step.
        history: items in a prompt, which then has ``1 + 3 x history`` tokens.
        items: of the catalogue, at least ``group``.
        group: responses a prompt.
    """

    shape: str
    prompts: int
    history: int
    items: int
    group: int

    @property
    def prompt_tokens(self) -> int:
        return 1 + LEVELS * self.history

    @property
    def rows(self) -> int:
        """Responses of a step."""
        return self.prompts * self.group


def history_of(prompt_tokens: int) -> int:
    """Items of the longest history whose prompt has at most so many tokens."""
    return (prompt_tokens - 1) // LEVELS


def write_world(folder: Path, size: WorldSize, threads: int) -> RunConfig:
    """Fill an empty folder; the config of an RL run in it."""
    config = make_config(folder, size, threads)
    config.data.path.mkdir()
    config.sid.path.mkdir()
    datasets.save(_dataset(size), config.data.path)
    fingerprint = datasets.load(config.data.path).meta["fingerprint"]
    index = SidIndex(
        random_codes(size.items), np.full(size.items, -1, np.int32), (CODES,) * LEVELS, {"dataset": fingerprint}
    )
    sid_codes.save(index, config.sid.path)
    model, tokenizer = new_model(config, *load_data(config))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(SPREAD)
    save_folder(model, tokenizer, folder / "model")
    return config


def make_config(folder: Path, size: WorldSize, threads: int, **sections: dict[str, Any]) -> RunConfig:
    """The config of an RL run in the world of ``folder``.

    Args:
        sections: keys that differ from the ones below, by section.
    """
    values: dict[str, dict[str, Any]] = {
        "run": {"name": "bench", "dir": str(folder / "runs"), "threads": threads},
        "data": {"path": str(folder / "data"), "history_limit": size.history},
        "sid": {"path": str(folder / "sids")},
        "model": {"preset": "tiny", "shape": SHAPES[size.shape], "text_vocab_size": TEXT_TOKENS},
        "backend": {"device": "cpu", "dtype": "float32"},
        "rl": {
            "init": str(folder / "model"),
            "prompts_per_step": size.prompts,
            "targets": "last",
            "rollout": {"kind": "beam", "group_size": size.group},
            # Rows whose advantage is 0 would be filtered: a random model hits too rarely to have others.
            "signal": {"kind": "group_zscore", "drop_flat": False},
            "lr": 1e-6,
            "warmup_steps": 0,
        },
        "eval": {"k": [1], "beam_width": 10, "valid_beam_width": 10},
    }
    return check(merge(values, sections), "the benchmark's own config")


def make_rl(config: RunConfig) -> Rl:
    """The RL run of a world, ready for its first step."""
    return Rl(config, StageFolder(config.folder / "rl"))


def set_token_budget(rl: Rl, budget: int) -> None:
    """Let the next updates take micro-batches of at most ``budget`` tokens."""
    backend = rl.config.backend.model_copy(update={"token_budget": budget})
    rl.config = rl.config.model_copy(update={"backend": backend})


def random_codes(items: int) -> NDArray[np.int32]:
    """[items, 3] distinct rows of codes below 256."""
    chosen = generator(0, "bench", "codes").choice(CODES**LEVELS, items, replace=False)
    return np.stack(np.unravel_index(chosen, (CODES,) * LEVELS), 1).astype(np.int32)


def _dataset(size: WorldSize) -> Dataset:
    rng = generator(0, "bench", "histories")
    users = np.arange(size.prompts, dtype=np.int32)
    sequences = _rows(rng.integers(0, size.items, (size.prompts, size.history + 1)))
    words = [f"w{number}" for number in rng.integers(0, 4000, (NAMED_ITEMS, 3)).ravel()]
    titles = [" ".join(words[3 * item : 3 * item + 3]) if item < NAMED_ITEMS else "" for item in range(size.items)]
    none = [""] * size.items
    catalog = Catalog([str(item) for item in range(size.items)], titles, none, none, none)
    # An RL run asks for validation examples; none of the measurements scores them.
    valid = Examples.plain(users[:1], sequences.select(np.zeros(1, np.int64)), _rows(np.zeros((1, 1), np.int64)))
    train = Sequences(users, sequences, np.full(size.prompts, size.history, np.int32))
    return Dataset(catalog, [str(user) for user in users], train, Examples.empty(), valid, Examples.empty())


def _rows(values: NDArray[np.int64]) -> Ragged:
    """A matrix as rows of one length."""
    rows, length = values.shape
    return Ragged(values.astype(np.int32).ravel(), np.arange(rows + 1, dtype=np.int64) * length)
