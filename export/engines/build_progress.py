"""How far a TensorRT build is, as one share from the nested phases that TensorRT reports."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class BuildPhases:
    """The phases of a build that are open now, each with its parent, and their steps."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str | None, int]] = {}
        self._done: dict[str, int] = {}

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self._open[name] = (parent, steps)
        self._done[name] = 0

    def step(self, name: str, number: int) -> None:
        """Step `number` of a phase, counted from 0, is done."""
        self._done[name] = number + 1

    def finish(self, name: str) -> None:
        self._open.pop(name, None)

    def share(self, parent: str | None = None) -> float:
        """How much is done of the step that `parent` is at; of the whole build by default."""
        shares = [
            min(1.0, (self._done[name] + self.share(name)) / steps)
            for name, (above, steps) in self._open.items()
            if above == parent
        ]
        return max(shares, default=0.0)


def progress_monitor(trt: Any, show: Callable[[float], None]) -> Any:
    """A TensorRT progress monitor that passes the share done to `show`.

    Ctrl-C reaches Python in one of the monitor's calls: it sets `stopped`, and the build ends.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False
            self._phases = BuildPhases()
            self._lock = threading.Lock()  # TensorRT calls from several threads

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
