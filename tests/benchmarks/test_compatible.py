"""The experiment on galleries: every row is measured, once, in its own gallery."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import compatible
from benchmarks.compatible import MEASURED, OLD, PLAIN, Runs, add_rows, header
from benchmarks.experiment import ResultFile
from benchmarks.market1501 import galleries
from pivl_distill.config import StudentConfig, load_config

QUICK = {
    **PLAIN,
    "data.spec": "synthetic:tiny",
    "data.size_hw": (32, 16),
    "stage2.epochs": 1,
    "stage2.identities_per_batch": 3,
    "stage2.crops_per_identity": 2,
}


@pytest.mark.parametrize("key", OLD)
def test_settings_of_every_old_network_are_valid(key: str) -> None:
    assert load_config(StudentConfig, "student", None, dict(OLD[key])).supervision == "none"


def test_every_row_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ResultFile.load_or_create(tmp_path / "results.json", header())
    runs = Runs(tmp_path / "runs", QUICK, None)
    old = runs.train("old", {"seed": 100})
    add_rows(file, runs, old, "seed", 0)
    rows = {row.arm: row.mAP for row in file.experiment.rows}
    assert set(rows) == {f"{name}_seed" for name in MEASURED}
    monkeypatch.setattr(compatible, "train_student", None)  # must not be called again
    add_rows(file, runs, old, "seed", 0)
    assert runs.train("old", {}) == old


def test_arms_of_the_photographs_are_those_that_are_measured() -> None:
    arms = galleries.header(12).arms
    assert set(arms) == {f"{name}_{galleries.OLD}" for name in MEASURED}
