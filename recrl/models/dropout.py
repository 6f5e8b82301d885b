"""Dropout on embeddings and on every block's output, for models whose config knows attention dropout alone.

It hangs on forward hooks, so the weights and the saved folder stay stock.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

STEPS = 1 << 16
"""What a rate is a multiple of on CPU, where 16 random bits decide on an entry."""


def add_dropout(model: PreTrainedModel, rate: float) -> None:
    """Drop entries of the embeddings and of what each attention and MLP block adds to the residual stream."""
    if rate == 0:
        return
    targets = [model.get_input_embeddings()]
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in {"self_attn", "mlp"}:
            targets.append(module)

    def hook(module: nn.Module, _: Any, output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, Tensor):
            return dropped(output, rate)
        return (dropped(output[0], rate), *output[1:])

    for target in targets:
        target.register_forward_hook(hook)


def dropped(states: Tensor, rate: float) -> Tensor:
    """Inverted dropout, seeded by torch's generator.

    On CPU torch draws a double for every entry, a tenth of a small model's step; a quarter of a 64-bit word does.

    Args:
        states: any shape.
        rate: in [0, 1); on CPU the nearest multiple of 1 / 65,536, and at most 65,535 of them.
    """
    if states.device.type != "cpu":
        return F.dropout(states, rate)
    count = states.numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    steps = min(round(rate * STEPS), STEPS - 1)
    bits = words.view(torch.int16)[:count]  # from -STEPS / 2 to STEPS / 2 - 1, all equally likely
    factor = torch.ge(bits, steps - STEPS // 2, out=states.new_empty(count)).mul_(STEPS / (STEPS - steps))
    return states * factor.view(states.shape)
