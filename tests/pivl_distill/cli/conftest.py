"""A working folder with a taught bank, for tests that stop and continue what comes after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import work_in_copy


@pytest.fixture
def desk(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of one's own with that teach run."""
    return work_in_copy(workplace, tmp_path, monkeypatch)
