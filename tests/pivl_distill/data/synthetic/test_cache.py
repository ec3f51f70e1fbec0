"""The cache of synthetic datasets: rendered once, atomically."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivl_distill.data.synthetic import cache
from pivl_distill.data.synthetic.cache import cached_dataset
from pivl_distill.data.synthetic.dataset import GENERATOR_VERSION
from pivl_distill.data.synthetic.tiers import Tier
from pivl_distill.errors import PivlError


def test_dataset_is_rendered_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(tmp_path))
    made: list[tuple[str, int]] = []

    def write(root: Path, tier: Tier, seed: int) -> None:
        made.append((tier.name, seed))
        root.mkdir(parents=True)

    monkeypatch.setattr(cache, "write_dataset", write)
    first = cached_dataset("tiny", 4)
    assert cached_dataset("tiny", 4) == first
    assert cached_dataset("tiny", 5) != first
    assert made == [("tiny", 4), ("tiny", 5)]
    assert first.name == f"tiny-seed4-v{GENERATOR_VERSION}"


def test_dataset_that_another_process_finished_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(tmp_path))

    def lose_the_race(root: Path, tier: Tier, seed: int) -> None:
        root.mkdir(parents=True)
        raise OSError("Directory not empty")

    monkeypatch.setattr(cache, "write_dataset", lose_the_race)
    assert cached_dataset("tiny").is_dir()


def test_cache_that_cannot_be_written_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(tmp_path / "file"))
    with pytest.raises(PivlError, match=r"cache folder .*file.* Set PIVL_DISTILL_CACHE"):
        cached_dataset("tiny")


def test_unknown_tier() -> None:
    with pytest.raises(PivlError, match="Known: crowd, default, hard, medium, small, tiny"):
        cached_dataset("gigantic")
