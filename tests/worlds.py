"""Tiny models and catalogues that several tests share."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from recrl.backends.torch_backend import TransformersPolicy
from recrl.groups.prompts import PromptBatch, Targets
from recrl.models.presets import preset_model, preset_tokenizer
from recrl.sids.codes import SidIndex, with_suffixes
from recrl.sids.tokens import add_sid_tokens, sid_token_ids
from recrl.sids.trie import build_trie

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def tiny_model(kind: str, vocab_size: int, seed: int = 0) -> PreTrainedModel:
    """A random decoder of a family, with enough spread in its weights that its beams differ."""
    torch.manual_seed(seed)
    if kind == "qwen3":
        model = preset_model("tiny", dict(SHAPE), vocab_size, seed)
    elif kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(vocab_size=vocab_size, **SHAPE))
    else:
        model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **SHAPE))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model.eval()


def tiny_index(items: int = 40, size: int = 4, seed: int = 0) -> SidIndex:
    """Random codes with collisions, so that some items carry a suffix."""
    codes = np.random.default_rng(seed).integers(0, size, (items, 3)).astype(np.int32)
    return with_suffixes(codes, (size,) * 3)


def tiny_policy(kind: str = "qwen3", *, items: int = 40, seed: int = 0, **options: object) -> TransformersPolicy:
    """A policy over a tiny SID space; its trie holds the items."""
    index = tiny_index(items, seed=seed)
    tokenizer = preset_tokenizer([], 0)
    add_sid_tokens(tokenizer, index)
    trie = build_trie(sid_token_ids(tokenizer, index))
    model = tiny_model(kind, len(tokenizer), seed)
    return TransformersPolicy(model, tokenizer, trie, torch.device("cpu"), **options)  # type: ignore[arg-type]


def tiny_prompts(policy: TransformersPolicy, lengths: list[int], seed: int = 0, items: int = 40) -> PromptBatch:
    """Random prompts of given lengths; every prompt's target is a random item."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, len(policy.tokenizer), (len(lengths), max(lengths)), generator=generator)
    length = torch.tensor(lengths)
    ids = torch.where(torch.arange(max(lengths)) < length[:, None], ids, 0)
    target = torch.randint(0, items, (len(lengths), 1), generator=generator)
    codes = torch.from_numpy(tiny_index(items, seed=seed).codes).long()
    nothing = torch.full((len(lengths), 1), -1)
    return PromptBatch(
        ids, length, Targets(target, codes[target]), nothing, torch.zeros(len(lengths), dtype=torch.long)
    )


def tiny_codes(items: int = 40, seed: int = 0) -> torch.Tensor:
    """[items, 3] codes of ``tiny_index``."""
    return torch.from_numpy(tiny_index(items, seed=seed).codes).long()
