"""The cache folder: files that can be computed again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return $PIVL_DISTILL_CACHE, else $XDG_CACHE_HOME/pivl-distill, else ~/.cache/pivl-distill."""
    if folder := os.environ.get("PIVL_DISTILL_CACHE"):
        return Path(folder).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "pivl-distill"
