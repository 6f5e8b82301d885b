"""Any transformers encoder (or decoder) folder on this machine: pooled last hidden states of an item's text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor

from recrl.data.dataset import Catalog, Sequences
from recrl.device.runtime import choose_device
from recrl.errors import ConfigError, UserError
from recrl.parts import Options
from recrl.sids.encoders import Arrays, Encoded, Encoder, Matrix


class HfOptions(Options):
    path: Path
    """A Hugging Face folder with a model and its tokenizer. Nothing is downloaded."""
    pooling: Literal["mean", "last"] = "mean"
    """``mean`` of all tokens (BERT-like encoders), or the ``last`` one (decoders such as Qwen3-Embedding)."""
    batch_size: int = Field(64, ge=1)
    max_tokens: int = Field(128, ge=1)
    """Text beyond this is cut."""
    prompt: str = ""
    """Written before every text, for models that want an instruction."""
    normalise: bool = True
    """Scale every vector to length 1."""
    device: str = "cpu"


def fit(catalog: Catalog, _train: Sequences, options: HfOptions, _seed: int) -> Encoded:
    """Nothing is fitted: the folder is the encoder.

    Raises:
        ConfigError: there is no such folder, or it holds no model.
    """
    embedding = apply(catalog, {}, options)
    empty = sum(not text for text in texts_of(catalog))
    return Encoded(embedding, {}, {"dim": embedding.shape[1], "items_without_text": empty})


def apply(catalog: Catalog, _arrays: Arrays, options: HfOptions) -> Matrix:
    """[items, d] for any items; errors as ``fit``."""
    tokenizer, model = _load(options)
    texts = [options.prompt + text for text in texts_of(catalog)]
    lengths = np.array([len(text) for text in texts])
    order = np.argsort(-lengths, kind="stable")  # batches of like length: less padding
    rows: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(order), options.batch_size):
            batch = [texts[item] for item in order[start : start + options.batch_size]]
            inputs = tokenizer(
                batch, padding=True, truncation=True, max_length=options.max_tokens, return_tensors="pt"
            ).to(model.device)
            hidden = model(**inputs).last_hidden_state.float()
            rows.append(pool(hidden, inputs["attention_mask"], options.pooling).cpu())
    embedding = torch.cat(rows)
    if options.normalise:
        embedding = torch.nn.functional.normalize(embedding, dim=1)
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return np.ascontiguousarray(embedding.numpy()[back], np.float32)


def texts_of(catalog: Catalog) -> list[str]:
    """[items] title, brand and description; the category where there is nothing else."""
    return [catalog.text(item) or catalog.categories[item] for item in range(len(catalog))]


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """[B, T, d] hidden states and [B, T] mask -> [B, d]; padding on either side."""
    if pooling == "mean":
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions * mask).argmax(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def _load(options: HfOptions) -> tuple[Any, Any]:
    if not (options.path / "config.json").is_file():
        raise ConfigError(
            f"sid.encoder.path = {str(options.path)!r}",
            why="there is no model folder (config.json is not there)",
            fix="name a folder that transformers can load, or use sid.encoder.kind = 'fused'",
        )
    try:
        device = choose_device(options.device)
    except UserError as error:
        raise ConfigError(f"sid.encoder.device = {options.device!r}", why=error.why, fix=error.fix) from None
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(options.path, local_files_only=True)
        model = AutoModel.from_pretrained(options.path, local_files_only=True)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConfigError(
            f"sid.encoder.path = {str(options.path)!r}",
            why=f"transformers can't load it: {str(error).splitlines()[0]}",
            fix="check that the folder holds a model and its tokenizer",
        ) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, model.to(device).eval()


HF = Encoder(HfOptions, fit, "", apply=apply)
