"""Report the progress of a TensorRT build as one fraction, computed from its nested phases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class BuildPhases:
    """The open phases of a build, each with its parent and its number of steps."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str | None, int]] = {}
        self._done: dict[str, int] = {}

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self._open[name] = (parent, steps)
        self._done[name] = 0

    def step(self, name: str, number: int) -> None:
        """Record that step `number` of a phase, counted from 0, is done."""
        self._done[name] = number + 1

    def finish(self, name: str) -> None:
        self._open.pop(name, None)

    def share(self, parent: str | None = None) -> float:
        """Return the completed fraction of the current step of `parent` (None: the build)."""
        shares = [
            min(1.0, (self._done[name] + self.share(name)) / steps)
            for name, (phase_parent, steps) in self._open.items()
            if phase_parent == parent
        ]
        return max(shares, default=0.0)


def progress_monitor(trt: Any, show: Callable[[float], None]) -> Any:
    """Return a TensorRT progress monitor that calls `show` with the completed fraction.

    Python receives Ctrl-C in one of the monitor's callbacks; it sets `stopped`, and TensorRT
    cancels the build.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False
            self._phases = BuildPhases()
            self._lock = threading.Lock()  # TensorRT calls it from several threads

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._follow(lambda: self._phases.start(name, parent, steps))

        def step_complete(self, name: str, step: int) -> bool:
            self._follow(lambda: self._phases.step(name, step))
            return not self.stopped

        def phase_finish(self, name: str) -> None:
            self._follow(lambda: self._phases.finish(name))

        def _follow(self, event: Callable[[], None]) -> None:
            try:
                with self._lock:
                    event()
                    show(self._phases.share())
            except KeyboardInterrupt:
                self.stopped = True

    return Monitor()
