"""What every section of a config has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from recrl.parts import Choice


class Section(BaseModel):
    """A section of the config: frozen, unknown keys refused, the docstring under a field is its help."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, values: Any) -> Any:
        """Options without a ``kind`` belong to the default part."""
        if not isinstance(values, dict):
            return values
        kinds = {
            name: field.default.kind for name, field in cls.model_fields.items() if isinstance(field.default, Choice)
        }
        return {
            name: {"kind": kinds[name]} | value if name in kinds and isinstance(value, dict) else value
            for name, value in values.items()
        }
