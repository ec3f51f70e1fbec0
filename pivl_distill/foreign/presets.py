"""Preprocessing by name (`presets/`) or from a YAML file of the user."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pivl_distill.config import Preprocessing, find_preset, read_yaml, validate_settings
from pivl_distill.errors import PivlError

PRESETS_DIR = Path(__file__).parent / "presets"


def load_preprocessing(
    preset: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Preprocessing:
    """Return the preprocessing of a preset or a YAML file; `overrides` take precedence.

    Raises PivlError, which lists all mistakes. Without a preset, `colour` and `range` are required.
    """
    values: dict[str, Any] = {}
    where = "the preprocessing"
    if preset is not None:
        path = find_preset("preprocessing", preset, PRESETS_DIR)
        values, where = read_yaml(path, "settings of a network's input"), str(path)
    values |= overrides or {}
    if missing := [name for name in ("colour", "range") if name not in values]:
        place = "not in its file" if preset is None else f"not in {where} as a whole"
        raise PivlError(
            f"How the network's input is made is {place}: declare {' and '.join(missing)},"
            " with mean and std if it has them, or a preset:"
            f" {', '.join(sorted(path.stem for path in PRESETS_DIR.glob('*.yaml')))}."
        )
    return validate_settings(Preprocessing, values, where)
