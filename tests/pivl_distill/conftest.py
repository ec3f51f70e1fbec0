"""File systems that list folders in another order."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def reversed_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that lists folders in the opposite of their names' order."""
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(listed(self))[::-1]))
