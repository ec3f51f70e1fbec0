"""What must be equal when a run is resumed: settings, data, bank and machine, in `contract.json`.

Values are pinned when a run starts and compared when it is resumed. A difference is an error,
except where it cannot change the result (`CHANGEABLE`) or only its last bits (`MACHINE`), and where
it is a change of optimisation (`OPTIMISATION`), with which a run that has diverged continues.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pivl_distill.config import CACHE_LIMITS
from pivl_distill.distributed import process_group
from pivl_distill.errors import MAX_SHOWN, PivlError
from pivl_distill.storage.filenames import CONTRACT_FILE, STATE_FOLDER
from pivl_distill.storage.files import write_json
from pivl_distill.storage.readers import read_json

logger = logging.getLogger(__name__)

MACHINE = "machine"
"""Pinned value whose differences are only reported: they may change the last bits of a result."""

CHANGED_SETTINGS = "changed_settings"
"""Pinned value: the settings that were changed when the run was resumed, in order."""

CHANGEABLE = (
    CHANGED_SETTINGS,
    "bank.file",
    "config.data.evaluation",
    *(f"config.{key}" for keys in CACHE_LIMITS.values() for key in keys),
)
"""Pinned values that may change freely, because the trained weights do not depend on them:
locations of files, what the cache folder keeps, and whether the weights are evaluated."""

OPTIMISATION = {
    "tuning": (
        "learning_rate", "min_learning_rate", "weight_decay", "warmup_epochs", "warmup_rate",
        "lr_schedule",
    ),
    "stage2": (
        "optimizer", "learning_rate", "weight_decay", "weight_decay_on", "warmup_epochs",
        "lr_schedule", "min_lr_ratio", "warmup_factor", "milestones", "gamma", "bias_lr_factor",
        "max_gradient_norm", "precision",
    ),
}  # fmt: skip
"""Settings by section that change only how the losses are minimised."""

Changes = dict[str, tuple[Any, Any]]
"""Values before and now, by dotted name."""


class Contract:
    """The pinned values of a run; rank 0 writes them."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.file = run / STATE_FOLDER / CONTRACT_FILE

    @property
    def values(self) -> dict[str, Any]:
        """The values pinned so far, by name; empty where there are none."""
        return read_json(self.file, "the contract of a run") if self.file.is_file() else {}

    def changed_optimisation(self, **values: Any) -> Changes:
        """Return the changed settings of `OPTIMISATION` among JSON values, by their dotted names.

        Raises PivlError that lists every other difference. Those of `tuning` may change until the
        bank is written.
        """
        changes = self._changes(values)
        tuned = "bank" in self.values
        allowed = {
            f"config.{section}.{name}"
            for section, names in OPTIMISATION.items()
            if not (tuned and section == "tuning")
            for name in names
        }
        refused = {
            name: change
            for name, change in changes.items()
            if name not in allowed and not name.startswith((MACHINE, *CHANGEABLE))
        }
        if refused:
            raise PivlError(
                f"{self.run} was started with something else:\n{_lines(refused)}\n"
                "Undo the change to continue it, or start a new run."
            )
        return {
            name.removeprefix("config."): change
            for name, change in changes.items()
            if name in allowed
        }

    def pin(self, **values: Any) -> None:
        """Add JSON values; raises PivlError as `changed_optimisation`."""
        self.changed_optimisation(**values)
        machine = {n: c for n, c in self._changes(values).items() if n.startswith(MACHINE)}
        if machine:
            logger.warning(f"The result may differ in its last bits:\n{_lines(machine)}")
        if not process_group.rank():
            write_json(self.file, self.values | values)

    def _changes(self, values: dict[str, Any]) -> Changes:
        pinned = self.values
        return {
            name: change
            for key, value in values.items()
            if key in pinned
            for name, change in differences(pinned[key], value, key).items()
        }


def differences(before: Any, now: Any, name: str) -> Changes:
    """Return the differences between two JSON values, by dotted name below `name`."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {
            inner: change
            for key in {**before, **now}
            for inner, change in differences(before.get(key), now.get(key), f"{name}.{key}").items()
        }
    return {} if before == now else {name: (before, now)}


def _lines(changes: Changes) -> str:
    return "\n".join(
        f"  {name} was {_brief(before)}, now {_brief(now)}"
        for name, (before, now) in changes.items()
    )


def _brief(value: Any) -> str:
    """Return a value for a message, in one line and without the rest of a long one."""
    text = " ".join(str(value).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
