"""Base class of all settings, and the declaration of one setting with its unit and source."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

DeviceChoice = Literal["auto", "cpu", "cuda", "meta"]
"""auto: a CUDA device if there is one, else the CPU; meta: shapes without values, for dry runs."""

TrainingPrecision = Literal["auto", "float32", "bfloat16", "float16"]
"""Data type of a network under autocast; weights, heads and losses are always float32."""

MAX_SEED = 2**63 - 1
"""torch's random generators take no larger seed."""


class Settings(BaseModel):
    """Base of all settings: immutable; unknown keys and infinite numbers are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def setting(
    default: Any,
    description: str,
    *,
    unit: str | None = None,
    source: str | None = None,
    advanced: bool = False,
    **constraints: Any,
) -> Any:
    """Declare a setting of a `Settings` class.

    Args:
        default: default value.
        description: what the setting does and what its choices mean.
        unit: unit of the value, such as "pixels"; None if it has none.
        source: where the setting or its default comes from: a section or equation of the paper and
            the paper's value if it differs, another publication, or our own measurement.
        advanced: whether most users can ignore it, for example because it only chooses between
            readings of the paper. `--help-settings` hides advanced settings unless asked.
        constraints: bounds of the value, as for `pydantic.Field` (`ge`, `gt`, `le`, `lt`).
    """
    metadata: dict[str, Any] = {"unit": unit, "source": source, "advanced": advanced}
    return Field(default, description=description, json_schema_extra=metadata, **constraints)
