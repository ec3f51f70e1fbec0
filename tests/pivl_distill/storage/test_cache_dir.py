"""The cache folder follows the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivl_distill.storage.cache_dir import CacheError, cache_dir


def test_environment_chooses_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PIVL_DISTILL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "pivl-distill"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "pivl-distill"
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(tmp_path / "chosen"))
    assert cache_dir() == tmp_path / "chosen"


@pytest.mark.parametrize("chosen", ["", "~nobody-of-this-name/cache"])
def test_home_that_is_unknown_says_what_to_set(monkeypatch, chosen):
    """Containers run with user ids that have neither an entry nor $HOME."""

    def unknown(*_args):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("PIVL_DISTILL_CACHE", chosen)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    with pytest.raises(CacheError, match=r"home directory.* Set PIVL_DISTILL_CACHE"):
        cache_dir()
