"""Dropout on embeddings and on every block's output, for models whose config knows attention dropout alone.

It hangs on forward hooks, so the weights and the saved folder stay stock.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel


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
            return F.dropout(output, rate)
        return (F.dropout(output[0], rate), *output[1:])

    for target in targets:
        target.register_forward_hook(hook)
