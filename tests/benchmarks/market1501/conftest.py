"""The root folder of the scripts, with generated files."""

from __future__ import annotations

from pathlib import Path

import pytest

from market_files import write_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root folder with all files that a user fetches."""
    write_root(tmp_path)
    return tmp_path
