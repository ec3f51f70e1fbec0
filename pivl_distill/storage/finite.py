"""Numbers that are not finite (NaN, infinity): JSON files neither hold nor may hold them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def find_nonfinite_numbers(value: Any, name: str = "") -> Iterator[str]:
    """Yield "name is value" of each number in a JSON value that is not finite, by dotted name.

    >>> list(find_nonfinite_numbers({"a": [1, float("inf")], "b": {"c": 0.5}}))
    ['a.1 is inf']
    """
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{name} is {value}"
    items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, Mapping) else ()
    if isinstance(value, list | tuple):
        items = enumerate(value)
    for key, item in items:
        yield from find_nonfinite_numbers(item, f"{name}.{key}" if name else str(key))
