"""Profiles of machines: one TOML file a device in ``hw_profiles/``.

``NAME`` is one device; ``NAME-64`` is sixty-four of it, in nodes as large as the device's ``node_devices`` says. A file
of one's own may name a profile as its ``base``: its values lie on those.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recrl.config_layers import read_on_base, read_toml
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
SOURCED = (*FIGURES, "node_devices", "devices_per_node")
LAYOUTS = (1, 8, 64)
"""Numbers of a device that are listed; any other may be asked for."""


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
    node_devices: int = Field(1, ge=1)
    """Devices of a whole node, as they are sold or rented."""
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


def known_devices() -> list[str]:
    """Names of the devices that recrl knows, one of each."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def known_profiles() -> list[str]:
    """The same, and eight and sixty-four of each that is not measured where it stands."""
    return [layout for name in known_devices() for layout in _layouts(load_profile(name))]


def _layouts(device: Profile) -> list[str]:
    numbers = LAYOUTS[:1] if device.measured else LAYOUTS
    return [device.name if number == 1 else f"{device.name}-{number}" for number in numbers]


def load_profile(name: str) -> Profile:
    """A profile by its name, with ``-N`` behind it of N devices, or by the path of a file ending in ``.toml``.

    Raises:
        ConfigError: there is none, or a value in it can't be.
    """
    values = read_on_base(name, _read, "profile", own=())
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"])
        fix = nearest(key, Profile.model_fields) if first["type"] == "extra_forbidden" else "mend it"
        if first["type"] == "value_error":  # one of our own rules, about the whole file
            raise ConfigError(name, why=str(first["ctx"]["error"]), fix=fix) from None
        raise ConfigError(f"{name}: {key} = {first['input']!r}", why=first["msg"], fix=fix) from None


def _read(name: str) -> dict[str, Any]:
    """A file's own values, or those that make a layout of a device."""
    path = Path(name) if name.endswith(".toml") else PROFILES / f"{name}.toml"
    device, _, number = name.rpartition("-")
    if path.is_file():
        return read_toml(path)
    if number.isdecimal() and device in known_devices():
        return _laid_out(load_profile(device), int(number))
    raise ConfigError(f"profile {name!r}", why="there is no such profile", fix=nearest(name, known_profiles()))


def _laid_out(device: Profile, number: int) -> dict[str, Any]:
    """So many devices: a part of a node, or whole ones.

    Raises:
        ConfigError: they fill no whole number of nodes.
    """
    name, node = f"{device.name}-{number}", device.node_devices
    if device.measured or number < 1 or (number > node and number % node):
        raise ConfigError(
            f"profile {name!r}",
            why="a measured profile is of the machine at hand" if device.measured else f"a node holds {node} of them",
            fix=f"choose {device.name}" if device.measured else f"choose 1 to {node}, or a multiple of {node}",
        )
    here = min(number, node)
    source = device.sources.get("node_devices", "")
    return {
        "base": device.name,
        "name": name,
        "devices_per_node": here,
        "nodes": number // here,
        "sources": {"devices_per_node": source if here == node else f"{here} of a node's {node}"},
    }
