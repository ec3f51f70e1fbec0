"""Numbers in JSON of others: anything else is an error, text that looks like a number too."""

from __future__ import annotations

import math
from typing import Any

from pivl_distill.storage.paths import shown


def whole_number(value: object, name: str, most: int, least: int = 1) -> int:
    """Return a whole number of `least` to `most`; raises ValueError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}, not a whole number of {least} to {most:,}")
    return value


def finite_number(value: object, name: str) -> float:
    """Return a finite number; raises ValueError for anything else, OverflowError for 10**400."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} is {shown(value)}, not a finite number")
    return float(value)


def three_numbers(values: Any, name: str) -> tuple[float, float, float]:
    """Return a mean or deviation per channel; raises ValueError unless it is three numbers."""
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError(f"{name} is {shown(values)}, not three finite numbers")
    first, second, third = (finite_number(value, name) for value in values)
    return first, second, third
