"""The cache folder: files that can be computed again."""

from __future__ import annotations

import os
from pathlib import Path

from pivl_distill.errors import PivlError


class CacheError(PivlError):
    """The cache cannot be written: disk full, quota exceeded or folder read-only."""

    @classmethod
    def from_os_error(cls, folder: Path, error: Exception, alternative: str = "") -> CacheError:
        """Say what to set; `alternative` continues the sentence."""
        reason = getattr(error, "strerror", None) or error
        return cls(
            f"Cannot write to the cache folder {folder} ({reason}). Set"
            f" PIVL_DISTILL_CACHE to a folder that can be written{alternative}."
        )


def cache_dir() -> Path:
    """Return $PIVL_DISTILL_CACHE, else $XDG_CACHE_HOME/pivl-distill, else ~/.cache/pivl-distill.

    Raises CacheError if the folder is in the home of a user that the system does not know, as in a
    container with an arbitrary user id.
    """
    try:
        if folder := os.environ.get("PIVL_DISTILL_CACHE"):
            return Path(folder).expanduser()
        shared = os.environ.get("XDG_CACHE_HOME")
        return (Path(shared) if shared else Path.home() / ".cache") / "pivl-distill"
    except RuntimeError as error:
        raise CacheError(
            f"There is no cache folder: {error} Set PIVL_DISTILL_CACHE to a folder that can be"
            " written, or use --no-cache."
        ) from error
