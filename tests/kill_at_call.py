"""Kill a process with SIGKILL at an exactly given function call of its work.

The calls of Python and C functions are counted from the start of each stage of the work, so that a
test can kill the process at any point, whatever it is doing.
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
"""Where the number of calls in each stage is written when the work is finished."""


def run_stages(
    arguments: tuple[Any, ...],
    stages: Sequence[Callable[..., Any]],
    kill_at: tuple[int, int] | None = None,
) -> None:
    """Call `stages[0]`; each of the other functions starts a new stage when it is called inside it.

    `kill_at` is (stage, number of the call in it, from 1): SIGKILL is sent before that call.
    """
    number_of = {function.__code__: number for number, function in enumerate(stages)}
    calls, stage = [0] * len(stages), 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal stage
        if event not in ("call", "c_call"):
            return
        if event == "call":
            stage = max(stage, number_of.get(frame.f_code, 0))
        calls[stage] += 1
        if (stage, calls[stage]) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    stages[0](*arguments)
    sys.setprofile(None)
    CALLS.write_text(json.dumps(calls))
