"""The cache folder follows the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivl_distill.storage.cache_dir import cache_dir


def test_environment_chooses_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PIVL_DISTILL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "pivl-distill"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "pivl-distill"
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(tmp_path / "chosen"))
    assert cache_dir() == tmp_path / "chosen"
