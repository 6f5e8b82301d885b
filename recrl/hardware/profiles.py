"""Profiles of machines: one TOML file each in ``hw_profiles/``.

A layout (eight devices, sixty-four) varies a device: it names it as its ``base`` and says ``devices_per_node`` and
``nodes``; its own values lie on those of the base.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recrl.config_layers import merge, read_toml
from recrl.errors import ConfigError, nearest

PROFILES = Path(__file__).parents[1] / "hw_profiles"
FIGURES = (
    "memory_gib",
    "bf16_tflops",
    "fp32_tflops",
    "memory_bandwidth_gbps",
    "intra_node_gbps",
    "inter_node_gbps",
)
SOURCED = (*FIGURES, "devices_per_node")


class Profile(BaseModel):
    """Devices of one kind, and how they stand in nodes.

    Figures are a maker's, of one device: 1 GB is 10^9 bytes, 1 TFLOPS 10^12 FLOP/s, and a multiplication with its
    addition is 2 FLOPs. Peaks are those of dense matrix products, without structured sparsity.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    base: str = ""
    """The profile that this one varies, or empty."""
    device: Literal["cpu", "cuda", "npu"]
    reported_as: tuple[str, ...] = ()
    """What torch calls the device (``torch.cuda.get_device_name``, ``torch.npu.get_device_name``)."""
    memory_gib: float | None = Field(None, gt=0)
    """Memory of one device. Makers say GB and mean GiB here, but for some tenths that the device keeps for itself."""
    bf16_tflops: float | None = Field(None, gt=0)
    """Dense bfloat16 products with float32 sums."""
    fp32_tflops: float | None = Field(None, gt=0)
    """Dense float32 products without TF32 or the like, which is what torch computes by default."""
    memory_bandwidth_gbps: float | None = Field(None, gt=0)
    """GB/s between a device and its own memory, reads and writes together."""
    intra_node_gbps: float | None = Field(None, gt=0)
    """GB/s that one device sends to the others of its node while it receives as much: one direction, all links."""
    inter_node_gbps: float | None = Field(None, gt=0)
    """GB/s that one device sends to other nodes: one direction of its share of the node's network."""
    devices_per_node: int = Field(1, ge=1)
    nodes: int = Field(1, ge=1)
    measured: bool = False
    """The figures are those of the machine at hand, to be measured there."""
    sources: dict[str, str] = Field(default_factory=dict)
    """Where each figure comes from, by its key; ``nodes`` is a choice and has none."""

    @property
    def devices(self) -> int:
        return self.devices_per_node * self.nodes

    @model_validator(mode="after")
    def _whole(self) -> Self:
        given = [name for name in FIGURES if getattr(self, name) is not None]
        if self.measured:
            if given or self.sources:
                raise ValueError("measured = true, so it can state no figure")
            return self
        missing = [name for name in FIGURES if name not in given]
        if missing:
            raise ValueError(f"{', '.join(missing)}: missing; give every figure, or measured = true")
        return self._sourced()

    def _sourced(self) -> Self:
        stated = [name for name in SOURCED if name in self.model_fields_set]
        without = [name for name in stated if not self.sources.get(name, "").strip()]
        if without:
            raise ValueError(f"no source for {', '.join(without)}: say in [sources] where each figure comes from")
        unknown = sorted(self.sources.keys() - set(stated))
        if unknown:
            raise ValueError(f"sources of figures that the profile does not state: {', '.join(unknown)}")
        return self


def known_profiles() -> list[str]:
    """Names of the profiles that come with recrl."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load_profile(name: str) -> Profile:
    """A profile by its name, or by the path of a file ending in ``.toml``.

    Raises:
        ConfigError: there is none, or a value in it can't be.
    """
    path, values = _read(name)
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"])
        fix = nearest(key, Profile.model_fields) if first["type"] == "extra_forbidden" else "mend it"
        if first["type"] == "value_error":  # one of our own rules, about the whole file
            raise ConfigError(str(path), why=str(first["ctx"]["error"]), fix=fix) from None
        raise ConfigError(f"{path}: {key} = {first['input']!r}", why=first["msg"], fix=fix) from None


def _read(name: str, above: tuple[str, ...] = ()) -> tuple[Path, dict[str, Any]]:
    """A profile's file and its values on those of its base; ``above`` are the profiles that led here."""
    path = Path(name) if name.endswith(".toml") else PROFILES / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(f"profile {name!r}", why="there is no such profile", fix=nearest(name, known_profiles()))
    if name in above:
        circle = " -> ".join((*above, name))
        raise ConfigError(f"profile {above[0]!r}", why=f"its bases form a circle: {circle}", fix="drop one base")
    values = read_toml(path)
    base = values.get("base", "")
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base = {base!r}", why="it is not text", fix="put it in quotes")
    return path, merge(_read(base, (*above, name))[1], values) if base else values
