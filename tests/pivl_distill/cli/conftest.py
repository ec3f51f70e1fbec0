"""A place with a taught bank, for tests that stop and continue what comes after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import QUICK, succeed, work_in_copy
from stopped_runs import EPOCHS


@pytest.fixture(scope="session")
def workplace(make_once: Callable[[str, Callable[[], None]], Path]) -> Path:
    """A folder with a teach run, and an uninterrupted student run."""

    def make() -> None:
        succeed("teach", *QUICK)
        succeed("student", *QUICK, *EPOCHS, "-o", "unstopped")

    return make_once("workplace", make)


@pytest.fixture
def desk(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of one's own with that teach run."""
    return work_in_copy(workplace, tmp_path, monkeypatch)
