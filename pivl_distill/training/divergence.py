"""Divergence: the first value that is not finite ends training, growth and collapse are warned of.

A step reports the terms of its loss and what it measured (`metrics.MEASURES`). On a CPU they are
examined at once. On a GPU they are copied while it works, and examined when the next step has been
queued: the GPU never waits, and training ends one step later.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pivl_distill.errors import DivergenceError
from pivl_distill.training.metrics import FEATURE_SPREAD, MEASURES

logger = logging.getLogger(__name__)

GROWTH = 10.0
"""A loss term explodes if it exceeds its first value, or 1 if that is more, by this factor."""
COLLAPSED_SPREAD = 1e-3
"""Features have collapsed if their spread is below this: their mean cosine is above 0.999. Networks
with random weights have spreads of 0.08 and more in training."""


@dataclass(frozen=True)
class _Reported:
    """What one step reported, on its way to the host."""

    where: str
    names: tuple[str, ...]
    values: Tensor
    copied: torch.cuda.Event | None


class LossWatch:
    """Examines what each step of one stage of training reports."""

    def __init__(
        self, stage: str, causes: Mapping[str, object], advice: str = "set {setting} lower"
    ) -> None:
        """Watch the stage of this name.

        Args:
            stage: as messages name it, such as "Training the student (stage reid)".
            causes: settings that usually cause divergence, with their values, the first one first.
            advice: what to do first; {setting} is the name of the first cause.
        """
        self._stage, self._causes = stage, causes
        self._setting = next(iter(causes))
        self._advice = advice.format(setting=self._setting)
        self._first: dict[str, float] = {}
        self._pending: _Reported | None = None
        self._warned: set[str] = set()

    def add(self, values: Mapping[str, Tensor], where: str) -> None:
        """Examine the scalars that a step reported; on a GPU those of the step before.

        Raises DivergenceError if one is not finite. `where` describes the step.
        """
        packed, copied = torch.stack([v.detach().double() for v in values.values()]), None
        if packed.is_cuda:
            packed = packed.to("cpu", non_blocking=True)  # to pinned memory, so it does not wait
            copied = torch.cuda.Event()
            copied.record()
        self.flush()
        self._pending = _Reported(where, tuple(values), packed, copied)
        if copied is None:
            self.flush()

    def flush(self) -> None:
        """Examine a step that is still to be examined; raises DivergenceError as `add`."""
        step, self._pending = self._pending, None
        if step is None:
            return
        if step.copied is not None:
            step.copied.synchronize()
        values = dict(zip(step.names, step.values.tolist(), strict=True))
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise self._error(broken, values, step.where)
        for name, value in values.items():
            if name not in MEASURES:
                self._warn_of_growth(name, value, step.where)

    def end_epoch(self, means: Mapping[str, float], epoch: int) -> None:
        """Examine the last step of an epoch, counted from 1, and the spread of its features.

        `means` are the means of the reported values over the epoch.
        """
        self.flush()
        spread = means.get(FEATURE_SPREAD, 1.0)
        if spread < COLLAPSED_SPREAD:
            self._warn_once(
                FEATURE_SPREAD,
                f"{self._stage}, epoch {epoch}: the features of all crops in a batch are nearly"
                f" equal (their spread is {spread:.2g}; 0 means equal, 1 unrelated). Such a network"
                f" tells nobody apart. Look whether the images differ; {self._advice}, start from"
                " pretrained weights, or give the identity loss more weight.",
            )

    def _error(self, broken: list[str], values: Mapping[str, float], where: str) -> DivergenceError:
        name = broken[0]
        what = "" if name in MEASURES else "loss term "
        others = [f"{other} {values[other]:.4g}" for other in values if other != name]
        besides = f" (besides it: {', '.join(others)})" if others else ""
        causes = ", ".join(f"{cause} (now {value})" for cause, value in self._causes.items())
        return DivergenceError(
            f"{self._stage} diverged in {where}: the {what}'{name}' is {values[name]}{besides}, so"
            f" the training stops here. Settings that usually cause it: {causes}. First"
            f" {self._advice}.",
            self._setting,
        )

    def _warn_of_growth(self, name: str, value: float, where: str) -> None:
        first = self._first.setdefault(name, value)
        if value > GROWTH * max(first, 1.0):
            self._warn_once(
                "growth",
                f"{self._stage}, {where}: the loss term '{name}' has grown from {first:.4g} to"
                f" {value:.4g}. Training is about to diverge or to learn nothing; {self._advice}"
                f" (now {self._causes[self._setting]}), or look at"
                f" {', '.join(list(self._causes)[1:]) or 'the data'}.",
            )

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning(message)
