"""Callbacks: what a training run tells trackers while it runs.

    class Printer(Callback):
        def on_epoch(self, metrics):
            print(metrics["stage"], metrics["epoch"], metrics.get("triplet"))

    pivl_distill.train_student(callbacks=[Printer()])

A callback cannot change or lose a run: one that raises an exception is reported and not called
again. KeyboardInterrupt is an exception to this: it stops the run, which can then be resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunStart:
    """A run that begins or continues."""

    folder: Path
    command: str
    """teach or student."""
    settings: Mapping[str, Any]
    """All resolved settings, as in config.yaml."""
    resumed: bool
    """Whether it continues; metrics.jsonl then has the epochs before."""


class Callback:
    """Base class of callbacks; override what is needed. Of several processes, rank 0 calls it."""

    def on_start(self, start: RunStart) -> None:
        """The run folder exists; no step was made yet."""

    def on_epoch(self, metrics: Mapping[str, Any]) -> None:
        """An epoch has ended; `metrics` is its line of metrics.jsonl, with `stage` and `epoch`."""

    def on_end(self, summary: Mapping[str, Any] | None) -> None:
        """The run has ended; `summary` is that of run.json, None if the run was stopped."""


class Observers:
    """The callbacks of one run."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self._callbacks = list(callbacks)
        self._summary: Mapping[str, Any] | None = None

    @contextmanager
    def session(self, start: RunStart) -> Iterator[None]:
        """Call `on_start` before the block, and `on_end` after it, also if it was stopped."""
        self._call("on_start", start)
        try:
            yield
        finally:
            self._call("on_end", self._summary)

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Call `on_epoch`."""
        self._call("on_epoch", metrics)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Keep the summary for `on_end`."""
        self._summary = summary

    def _call(self, method: str, argument: object) -> None:
        for callback in list(self._callbacks):
            try:
                getattr(callback, method)(argument)
            except Exception as error:
                self._callbacks.remove(callback)
                name = type(callback).__name__
                logger.warning(
                    f"The callback {name} failed in {method} and is not called again:"
                    f" {type(error).__name__}: {error}"
                )
