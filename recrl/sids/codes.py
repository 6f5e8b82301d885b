"""The semantic-ID index: one path of codes an item, with a suffix where paths collide."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from recrl.errors import DataError

FORMAT_VERSION = 1
LEVEL_LETTERS = "abcefgh"  # "d" marks the suffix, as in MiniOneRec


@dataclass(frozen=True)
class SidIndex:
    """Codes of every item.

    Attributes:
        codes: [items, levels] int32, from 0.
        suffix: [items] int32: -1 where the path is the item's alone, else 0, 1, ... in row order (papers.md C-1). All
            items of a shared path have one, so no SID is a prefix of another.
        sizes: codebook size of every level.
        meta: how it was built: encoder, quantiser, data set fingerprint, statistics.
    """

    codes: NDArray[np.int32]
    suffix: NDArray[np.int32]
    sizes: tuple[int, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def levels(self) -> int:
        return int(self.codes.shape[1])

    @property
    def num_suffixes(self) -> int:
        return int(self.suffix.max(initial=-1)) + 1

    @property
    def fingerprint(self) -> str:
        """A hash of codes and suffixes: what a model's SID tokens are bound to."""
        return hashlib.sha256(self.codes.tobytes() + self.suffix.tobytes() + repr(self.sizes).encode()).hexdigest()[:16]

    def tokens(self, item: int) -> list[str]:
        """``["<a_3>", "<b_7>", "<c_2>"]``, and ``"<d_0>"`` where the path is shared."""
        names = [level_token(level, int(code)) for level, code in enumerate(self.codes[item])]
        return names if self.suffix[item] < 0 else [*names, suffix_token(int(self.suffix[item]))]

    def vocabulary(self) -> list[str]:
        """Every token that an item of this index, or a later one, can need; level by level."""
        names = [level_token(level, code) for level, size in enumerate(self.sizes) for code in range(size)]
        return names + [suffix_token(number) for number in range(self.num_suffixes)]


def level_token(level: int, code: int) -> str:
    return f"<{LEVEL_LETTERS[level]}_{code}>"


def suffix_token(number: int) -> str:
    return f"<d_{number}>"


def with_suffixes(codes: NDArray[np.int32], sizes: tuple[int, ...], meta: dict[str, Any] | None = None) -> SidIndex:
    """Give every item of a shared path its number in row order; unique paths get none."""
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    order = np.argsort(inverse, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    number = np.empty(len(codes), np.int32)
    number[order] = np.arange(len(codes)) - np.repeat(starts, counts)
    suffix = np.where(counts[inverse] > 1, number, -1).astype(np.int32)
    return SidIndex(np.ascontiguousarray(codes, np.int32), suffix, sizes, meta or {})


def save(index: SidIndex, folder: Path, arrays: dict[str, NDArray[Any]] | None = None) -> None:
    """Write the index; ``arrays`` (codebooks, encoder matrices) go into ``model.safetensors``."""
    save_file({"codes": index.codes, "suffix": index.suffix}, folder / "codes.safetensors")
    if arrays:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "model.safetensors")
    meta = index.meta | {"version": FORMAT_VERSION, "sizes": list(index.sizes), "fingerprint": index.fingerprint}
    (folder / "sid.json").write_text(json.dumps(meta, indent=2, ensure_ascii=False) + "\n")


def load_codebooks(folder: Path) -> list[NDArray[np.float32]] | None:
    """[size, d] centroids of every level; None where the index was not quantised here (``given``)."""
    path = folder / "model.safetensors"
    if not path.is_file():
        return None
    arrays = load_file(path)
    names = sorted(name for name in arrays if name.startswith("quantizer.codebook."))
    return [arrays[name] for name in names] or None


def load(folder: Path) -> SidIndex:
    """Read an index.

    Raises:
        DataError: missing, broken, or changed since it was written.
    """
    fix = "build it with `recrl sid build`"
    try:
        meta = json.loads((folder / "sid.json").read_text())
        arrays = load_file(folder / "codes.safetensors")
        index = SidIndex(arrays["codes"], arrays["suffix"], tuple(meta["sizes"]), meta)
        expected = meta["fingerprint"]
    except FileNotFoundError as error:
        raise DataError(
            f"no SID index at {folder}", why=f"{error.filename or 'codes.safetensors'} is not there", fix=fix
        ) from None
    except KeyError as error:
        raise DataError(f"the SID index at {folder} is broken", why=f"it holds no {error}", fix=fix) from None
    except (ValueError, TypeError, SafetensorError) as error:
        raise DataError(f"the SID index at {folder} is broken", why=str(error), fix=fix) from None
    if index.fingerprint != expected:
        raise DataError(f"the SID index at {folder} is broken", why="its codes do not match their fingerprint", fix=fix)
    return index
