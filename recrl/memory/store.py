"""A head's learned weights beside a model, in a file of their own: the model stays one that others can load."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from recrl.errors import UserError
from recrl.memory.head import MemoryHead

FILE = "memory.safetensors"


def save_head(head: MemoryHead, folder: Path) -> None:
    """Write what was learned; nothing where the head learns nothing."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    if tensors:
        save_file(tensors, folder / FILE)


@torch.no_grad()
def load_head(head: MemoryHead, folder: Path) -> None:
    """Take what a folder's head had learned; a folder without one leaves the head at its start.

    Raises:
        UserError: it was learned with another width or other features, or can't be read.
    """
    path = folder / FILE
    if not path.is_file():
        return
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"can't read {path}", why=str(error), fix="restore the file, or train again") from None
    own = {name: tuple(value.shape) for name, value in head.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in found.items()}
    if own != theirs:
        raise UserError(
            f"{path} does not fit [memory]",
            why=f"it holds {theirs or 'nothing'}, and the config makes {own or 'no learned part'}",
            fix="use the memory.scorer and memory.hidden_size that it was trained with",
        )
    head.load_state_dict(found)
