"""What must be equal when a run is resumed: settings, data, bank and machine, in `contract.json`.

Values are pinned when a run starts and compared when it is resumed. A difference is an error,
except where it cannot change the result (`CHANGEABLE`) or only its last bits (`MACHINE`).
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from pivl_distill.config import CACHE_LIMITS
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.storage.filenames import CONTRACT_FILE, STATE_FOLDER
from pivl_distill.storage.files import write_json

logger = logging.getLogger(__name__)

MACHINE = "machine"
"""Pinned value whose differences are only reported: they may change the last bits of a result."""

CHANGEABLE = ("bank.file", *(f"config.{key}" for keys in CACHE_LIMITS.values() for key in keys))
"""Pinned values that may change freely: locations of files, and what the cache folder keeps."""


class Contract:
    """The pinned values of a run; rank 0 writes them."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._file = run / STATE_FOLDER / CONTRACT_FILE

    @property
    def values(self) -> dict[str, Any]:
        """The values pinned so far, by name; empty where there are none."""
        if not self._file.is_file():
            return {}
        values: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
        return values

    def pin(self, **values: Any) -> None:
        """Add JSON values; raises PivlError that lists each difference from a pinned value."""
        pinned = self.values
        changed = {
            name: line
            for key, value in values.items()
            if key in pinned
            for name, line in differences(pinned[key], value, key).items()
        }
        refused = [
            line for name, line in changed.items() if not name.startswith((MACHINE, *CHANGEABLE))
        ]
        if refused:
            listed = "\n".join(refused)
            raise PivlError(
                f"{self.run} was started with something else:\n{listed}\n"
                "Undo the change to continue it, or start a new run."
            )
        if machine_lines := [line for name, line in changed.items() if name.startswith(MACHINE)]:
            logger.warning("\n".join(["The result may differ in its last bits:", *machine_lines]))
        if not process_group.rank():
            write_json(self._file, pinned | values)


def differences(before: Any, now: Any, name: str) -> dict[str, str]:
    """Return a line about each difference between two JSON values, by dotted name below `name`."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {
            inner: line
            for key in {**before, **now}
            for inner, line in differences(before.get(key), now.get(key), f"{name}.{key}").items()
        }
    return {} if before == now else {name: f"  {name} was {before}, now {now}"}
