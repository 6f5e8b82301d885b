"""A prepared data set -> embedding -> codes -> an index folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.atomic import new_folder
from recrl.data.dataset import Dataset, fingerprint
from recrl.errors import ConfigError, DataError
from recrl.parts import Choice
from recrl.sids.codes import SidIndex, save, with_suffixes
from recrl.sids.encoders import Arrays, prefixed, resolve_encoder
from recrl.sids.quantizers import Quantizer, resolve_quantizer
from recrl.sids.statistics import statistics
from recrl.sids.threads import one_thread

ITEM_IDS = "item_ids.json"


@dataclass(frozen=True)
class SidPlan:
    """What to build; the fields are those of the config's section ``[sid]``."""

    encoder: Choice
    quantizer: Choice
    levels: int = 3
    codebook_size: int = 256

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.codebook_size,) * self.levels


def build(dataset: Dataset, plan: SidPlan, seed: int) -> tuple[SidIndex, Arrays]:
    """The index, and the arrays that ``assign`` needs.

    Raises:
        ConfigError: an unknown kind or option.
        DataError: an empty catalogue, or an embedding that is not finite.
    """
    catalog = dataset.catalog
    if not len(catalog):
        raise DataError("the catalogue is empty", why="there is nothing to give an ID", fix="prepare the data again")
    quantizer, options = resolve_quantizer(plan.quantizer, where="sid.quantizer")
    meta: dict[str, Any] = {"dataset": fingerprint(dataset), "seed": seed}
    if quantizer.from_catalog:
        codes, sizes, notes = quantizer.run(catalog, options)
        meta["quantizer"] = _record(plan.quantizer, options, notes)
        return _finish(with_suffixes(codes, sizes, meta), catalog.categories, None, None), {}
    return _build_from_embedding(dataset, plan, quantizer, options, meta, seed)


def build_folder(dataset: Dataset, plan: SidPlan, seed: int, folder: Path, *, overwrite: bool = False) -> SidIndex:
    """``build``, written to a folder that is whole or not there.

    Raises:
        UserError: as ``build``; the folder exists and may not be replaced, or can't be written.
    """
    with new_folder(folder, overwrite=overwrite) as beside:
        index, arrays = build(dataset, plan, seed)
        write(index, arrays, dataset.catalog.item_ids, beside)
    return index


def write(index: SidIndex, arrays: Arrays, item_ids: list[str], folder: Path) -> None:
    """The index, its arrays and the item ids in the index' order, into an existing, empty folder."""
    save(index, folder, arrays)
    (folder / ITEM_IDS).write_text(json.dumps(item_ids, ensure_ascii=False))


def check_finite(embedding: NDArray[np.float32], item_ids: Sequence[str]) -> None:
    """Refuse NaN and infinity, which would spread into every centroid.

    Raises:
        DataError: with the number of such items and the first.
    """
    bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
    if len(bad):
        raise DataError(
            f"the embedding of {len(bad)} of {len(embedding)} items is not finite, first item {item_ids[bad[0]]!r}",
            why="such values have no nearest code",
            fix="check the encoder (for kind 'hf': the weights, and the dtype they were saved in)",
        )


def _build_from_embedding(
    dataset: Dataset, plan: SidPlan, quantizer: Quantizer, options: Any, meta: dict[str, Any], seed: int
) -> tuple[SidIndex, Arrays]:
    encoder, encoder_options = resolve_encoder(plan.encoder, where="sid.encoder")
    if plan.codebook_size < 1 or plan.levels < 1:
        raise ConfigError(
            f"sid.levels = {plan.levels}, sid.codebook_size = {plan.codebook_size}",
            why="an ID needs at least one code of at least one",
            fix="give both as 1 or more",
        )
    encoded = encoder.run(dataset.catalog, dataset.train, encoder_options, seed)
    check_finite(encoded.embedding, dataset.catalog.item_ids)
    with one_thread():
        quantized = quantizer.run(encoded.embedding, plan.sizes, options, seed)
    sizes = tuple(min(size, len(dataset.catalog)) for size in plan.sizes)
    meta["encoder"] = _record(plan.encoder, encoder_options, encoded.notes)
    meta["quantizer"] = _record(plan.quantizer, options, quantized.notes)
    index = with_suffixes(quantized.codes, sizes, meta)
    index = _finish(index, dataset.catalog.categories, encoded.embedding, quantized.reconstruction)
    return index, prefixed("encoder", encoded.arrays) | prefixed("quantizer", quantized.arrays)


def _finish(
    index: SidIndex,
    categories: Sequence[str],
    embedding: NDArray[np.float32] | None,
    reconstruction: NDArray[np.float32] | None,
) -> SidIndex:
    figures = statistics(index, categories, embedding, reconstruction)
    return SidIndex(index.codes, index.suffix, index.sizes, index.meta | {"statistics": figures})


def _record(choice: Choice, options: Any, notes: dict[str, Any]) -> dict[str, Any]:
    return {"kind": choice.kind, "options": options.model_dump(mode="json"), "notes": notes}
