"""State dicts under the keys and with the prefixes that training code saves them with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pivl_distill.errors import PivlError
from pivl_distill.storage.paths import shown

logger = logging.getLogger(__name__)

AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema")
"""Keys of averaged weights, which are preferred, as in timm."""
WRAPPERS = (
    *AVERAGES, "state_dict", "model_state_dict", "model_state", "model", "net", "network", "params",
    "weights", "module",
)  # fmt: skip
"""Keys under which training code saves a state dict, in order of preference."""
PREFIXES = ("module.", "_orig_mod.")
"""Prefixes of DataParallel, of averaged models, and of compiled networks."""
_COUNTER = "n_averaged"
"""Tensor of torch's AveragedModel beside those with a prefix."""
_MAX_PREFIXES = 9
_MAX_DEPTH = 3
"""Wrappers within wrappers that are looked through."""


def unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in the contents of a file; raises PivlError unless there is one."""
    keys = _find_state(content, 0, set())
    if keys is None:
        found = type(content).__name__
        if isinstance(content, Mapping):
            found = f"a dict of {', '.join(map(shown, list(content)[:8])) or 'nothing'}"
        raise PivlError(
            f"'{path}' holds no state dict, which maps names to tensors, but {found}. Save the"
            " state dict alone."
        )
    for key in keys:
        content = content[key]
    if keys and keys[0] in AVERAGES:
        logger.info(f"'{path}': the averaged weights at '{keys[0]}' are used.")
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _find_state(content: Any, depth: int, barren: set[tuple[int, int]]) -> list[str] | None:
    """Return the keys that lead to the state dict in nested dicts; None if there is none, or two.

    `WRAPPERS` are followed first. A dict with tensors is a state dict itself, unless its keys are
    numbers, as in the state of an optimizer. `barren` are the dicts without one, by identity and
    depth: a hostile file can hold one dict a million times.
    """
    if not isinstance(content, Mapping) or depth > _MAX_DEPTH or (id(content), depth) in barren:
        return None
    for key in WRAPPERS:
        if key in content and (inner := _find_state(content[key], depth + 1, barren)) is not None:
            return [key, *inner]
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    if any(isinstance(value, Tensor) for value in named.values()):
        return []
    others = [
        [key, *inner]
        for key, value in named.items()
        if (inner := _find_state(value, depth + 1, barren)) is not None
    ]
    if not others:
        barren.add((id(content), depth))
    return others[0] if len(others) == 1 else None


def without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the `PREFIXES` that all of its names have."""
    state = dict(state)
    for _ in range(_MAX_PREFIXES):
        names = [name for name in state if name != _COUNTER]
        shared = (p for p in PREFIXES if names and all(name.startswith(p) for name in names))
        if (prefix := next(shared, None)) is None:
            break
        state = {name.removeprefix(prefix): state[name] for name in names}
    return state
