"""A process that is killed at a given place of its work, and not a moment earlier or later.

Places are calls of functions, Python's and C's, counted from the beginning of a stage of the work:
any of them may be the last, in the middle of whatever was going on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

CALLS = Path("calls.json")
"""How many calls each stage of finished work made."""


def sit(
    arguments: tuple[Any, ...],
    stages: Sequence[Callable[..., Any]],
    place: tuple[int, int] | None = None,
) -> None:
    """Do `stages[0]`; each of the others begins a stage where it is called within it.

    SIGKILL comes before the call that `place` names by its stage and its number there, from 1.
    """
    number_of = {stage.__code__: number for number, stage in enumerate(stages)}
    calls, now = [0] * len(stages), 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal now
        if event not in ("call", "c_call"):
            return
        if event == "call":
            now = max(now, number_of.get(frame.f_code, 0))
        calls[now] += 1
        if (now, calls[now]) == place:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    stages[0](*arguments)
    sys.setprofile(None)
    CALLS.write_text(json.dumps(calls))
