"""Profiles of machines: one TOML file each in ``hw_profiles/``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recrl.errors import ConfigError, nearest
from recrl.layers import read_toml

PROFILES = Path(__file__).parents[1] / "hw_profiles"


class Profile(BaseModel):
    """One kind of device."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    device: Literal["cpu", "cuda", "npu"]
    memory_gib: float | None = Field(None, gt=0)
    """Memory of one device."""
    peak_tflops: float | None = Field(None, gt=0)
    """Dense bfloat16 products of one device, as its maker states them, in 10^12 FLOP/s."""
    measured: bool = False
    """Peak and memory are those of the machine at hand, to be measured there."""

    @model_validator(mode="after")
    def _figures(self) -> Self:
        given = self.memory_gib is not None and self.peak_tflops is not None
        if given == self.measured:
            raise ValueError("give memory_gib and peak_tflops, or measured = true")
        return self


def known_profiles() -> list[str]:
    """Names of the profiles that come with recrl."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load_profile(name: str) -> Profile:
    """A profile by its name, or by the path of a file ending in ``.toml``.

    Raises:
        ConfigError: there is none, or a value in it can't be.
    """
    path = Path(name) if name.endswith(".toml") else PROFILES / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(f"profile {name!r}", why="there is no such profile", fix=nearest(name, known_profiles()))
    try:
        return Profile.model_validate(read_toml(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"]) or "the file"
        fix = nearest(key, Profile.model_fields) if first["type"] == "extra_forbidden" else "mend it"
        raise ConfigError(f"{path}: {key} = {first['input']!r}", why=first["msg"], fix=fix) from None
