"""The user's cache folder: what is made once for this machine and can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """$PIVL_DISTILL_CACHE, else $XDG_CACHE_HOME/pivl-distill, else ~/.cache/pivl-distill."""
    if own := os.environ.get("PIVL_DISTILL_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "pivl-distill"
