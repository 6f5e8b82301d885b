"""Hugging Face folders: load, grow the vocabulary, save."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from recrl.errors import UserError
from recrl.models.shared_prefix import ATTENTION

logger = logging.getLogger(__name__)
transformers_logging.disable_progress_bar()  # a bar for one small file, in the midst of our own
NOISE = 0.02


def load_folder(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A decoder and its tokenizer; weights in float32, no code from the folder is run.

    Raises:
        UserError: not a folder that transformers can load as a decoder.
    """
    with _explained(path):
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model, tokenizer


def read_folder(path: Path) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """What a folder says of its decoder, and its tokenizer; no weights are read.

    Raises:
        UserError: not a folder that transformers can load as a decoder.
    """
    with _explained(path):
        return AutoConfig.from_pretrained(path), AutoTokenizer.from_pretrained(path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what transformers says of a folder that it can't load into words for the user."""
    if not (path / "config.json").is_file():
        raise UserError(f"no model at {path}", why="config.json is not there", fix="name a Hugging Face model folder")
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"can't load the model at {path}", why=str(error).splitlines()[0], fix="check the folder"
        ) from None


def use_layouts(model: PreTrainedModel) -> None:
    """Turn the model's attention into the one that takes a layout (``shared_prefix``)."""
    model.set_attn_implementation(ATTENTION)
    if getattr(model.config, "sliding_window", None) and getattr(model.config, "use_sliding_window", True):
        raise UserError(
            "the model uses sliding-window attention",
            why="responses would lose sight of their prompt",
            fix="choose another model",
        )


@torch.no_grad()
def grow_vocabulary(model: PreTrainedModel, size: int, seed: int) -> int:
    """Give the embedding (and an untied head) at least ``size`` rows; returns how many are new.

    New rows are the mean of the old ones plus noise of a fiftieth of their spread: near enough to be plausible, apart
    enough to be told from each other.
    """
    old = int(model.get_input_embeddings().weight.shape[0])
    if size <= old:
        return 0
    matrices = [model.get_input_embeddings().weight]
    if not model.config.tie_word_embeddings:
        matrices.append(model.get_output_embeddings().weight)
    means = [(matrix.mean(0), matrix.std()) for matrix in matrices]
    model.resize_token_embeddings(size, mean_resizing=False)
    grown = [model.get_input_embeddings().weight]
    if not model.config.tie_word_embeddings:
        grown.append(model.get_output_embeddings().weight)
    generator = torch.Generator().manual_seed(seed)
    for matrix, (mean, spread) in zip(grown, means, strict=True):
        matrix[old:] = new_rows(mean, spread, size - old, generator)
    logger.info("vocabulary grown from %d to %d", old, size)
    return size - old


def new_rows(mean: Tensor, spread: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[count, H] rows around the [H] mean of those that are there; ``spread`` is their entries' standard deviation."""
    noise = torch.randn(count, len(mean), generator=generator)
    return mean + NOISE * spread * noise.to(mean)


def save_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write what ``AutoModelForCausalLM`` and ``AutoTokenizer`` load."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
