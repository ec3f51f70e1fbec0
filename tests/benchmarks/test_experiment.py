"""Result files: nothing is lost or mixed, and intervals are those of Welch's test."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t as student_t

from benchmarks.experiment import Arm, Experiment, Origin, ResultFile, Row, read
from pivl_distill.errors import PivlError

ORIGIN = Origin(commit="abc1234", versions={"torch": "2.8"}, processor="a processor", threads=2)


def header(**changes: Any) -> Experiment:
    values = {
        "name": "Arms",
        "question": "Does the bank help?",
        "command": "make bench",
        "data": "synthetic:tiny",
        "budget": {"epochs": 3},
        "arms": {
            "plain": Arm(label="no bank"),
            "part": Arm(label="part bank", settings={"supervision": "part", "betas": (0.9, 0.99)}),
        },
        "baseline": "plain",
    }
    return Experiment(**values | changes)


def row(arm: str, seed: int, score: float = 0.5, **more: Any) -> Row:
    return Row(arm=arm, seed=seed, mAP=score, rank1=score, train_top1=score, seconds=60, **more)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "arms.json"


def open_file(path: Path, **changes: Any) -> ResultFile:
    return ResultFile.load_or_create(path, header(**changes), ORIGIN)


def test_rows_survive_and_the_experiment_continues(path: Path) -> None:
    file = open_file(path)
    file.add(row("plain", 0, 0.25, extra={"ms": 1.5}))
    again = open_file(path)
    assert (again.done("plain", 0), again.done("plain", 1), again.done("part", 0)) == (
        True, False, False,
    )  # fmt: skip
    again.add(row("part", 0))
    assert [(r.arm, r.seed, r.mAP) for r in read(path).rows] == [
        ("plain", 0, 0.25),
        ("part", 0, 0.5),
    ]
    assert read(path) == again.experiment
    assert read(path).rows[0].extra == {"ms": 1.5}


def test_two_processes_and_an_edited_conclusion_lose_nothing(path: Path) -> None:
    first, second = open_file(path), open_file(path)
    first.add(row("plain", 0))
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"conclusion": "It helps."}))
    second.add(row("plain", 1))
    assert first.path == second.path
    assert [r.seed for r in read(path).rows] == [0, 1]
    assert read(path).conclusion == open_file(path).experiment.conclusion == "It helps."


def test_rows_name_the_code_and_machine_that_measured_them(path: Path) -> None:
    open_file(path).add(row("plain", 0))
    other = ORIGIN.model_copy(update={"commit": "def5678"})
    file = ResultFile.load_or_create(path, header(), other)
    file.add(row("plain", 1))
    open_file(path).add(row("plain", 2))
    experiment = read(path)
    assert [experiment.origins[r.origin].commit for r in experiment.rows] == [
        "abc1234", "def5678", "abc1234",
    ]  # fmt: skip


def test_origin_of_this_checkout_is_complete() -> None:
    origin = Origin.here()
    assert origin.processor
    assert origin.commit
    assert origin.threads >= 1
    assert {"python", "torch", "timm", "numpy"} == origin.versions.keys()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"budget": {"epochs": 4}}, "budget"),
        ({"data": "synthetic:hard"}, "data"),
        ({"name": "Others"}, "name"),
        ({"baseline": "part"}, "baseline"),
        (
            {"arms": {"plain": Arm(label="no bank", settings={"seed": 1}), "part": Arm(label="")}},
            "settings of arm 'part', settings of arm 'plain'",
        ),
    ],
)
def test_another_experiments_file_is_refused(path: Path, change: Any, named: str) -> None:
    open_file(path).add(row("plain", 0))
    before = path.read_bytes()
    with pytest.raises(PivlError, match=f"another experiment, which differs in: {named}"):
        open_file(path, **change)
    assert path.read_bytes() == before


def test_arms_can_be_added_and_left_out_and_texts_changed(path: Path) -> None:
    open_file(path).add(row("part", 0))
    arms = {"plain": Arm(label="plain"), "new": Arm(label="new")}
    experiment = open_file(path, arms=arms, question="New?", command="make").experiment
    assert list(experiment.arms) == ["plain", "new", "part"]
    assert (experiment.question, experiment.arms["plain"].label) == ("New?", "plain")
    assert len(experiment.rows) == 1


def test_wrong_rows_are_refused(path: Path) -> None:
    file = open_file(path)
    file.add(row("plain", 0))
    with pytest.raises(PivlError, match="has arm 'plain' with seed 0 already"):
        file.add(row("plain", 0))
    with pytest.raises(PivlError, match="Unknown arm 'parts'; did you mean 'part'"):
        file.add(row("parts", 0))
    for score in (1.2, -0.1, math.nan):
        with pytest.raises(ValueError, match="mAP"):
            row("plain", 1, score)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "none"}, "unknown arm 'none'"),
        ({"arms": {"plain": {"label": ""}, "a b": {"label": ""}}}, "arm key 'a b'"),
        ({"rows": [{"arm": "part", "mAP": 0.5, "rank1": 0.5}]}, "a row without origin"),
        ({"colour": "red"}, "is not a result file"),
    ],
)
def test_damaged_files_are_refused(path: Path, change: Any, message: str) -> None:
    open_file(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(PivlError, match=message):
        read(path)


def test_file_that_is_not_json_is_refused(path: Path) -> None:
    open_file(path)
    path.write_text("no JSON")
    with pytest.raises(PivlError, match="is not a result file"):
        open_file(path)


def test_a_row_is_written_atomically(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = open_file(path)
    file.add(row("plain", 0))
    before = path.read_bytes()

    def crash(*_paths: object) -> None:
        raise OSError("power failure")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", crash)
        with pytest.raises(OSError, match="power failure"):
            file.add(row("plain", 1))
    assert path.read_bytes() == before
    file.add(row("plain", 1))
    assert len(read(path).rows) == 2


def with_rows(**scores: list[float]) -> Experiment:
    """An experiment with one row per score (0..1), by arm."""
    experiment = header(origins=[ORIGIN])
    experiment.rows += [row(arm, s, v) for arm, values in scores.items() for s, v in
                        enumerate(values)]  # fmt: skip
    return experiment


def naive_welch(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """Mean difference and limits, from the formulas of Welch (1947) and Satterthwaite (1946)."""
    means, squared_errors = [], []
    for values in (a, b):
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
        means.append(mean)
        squared_errors.append(variance / len(values))
    total = sum(squared_errors)
    freedom = total**2 / sum(
        error**2 / (len(values) - 1) for error, values in zip(squared_errors, (a, b), strict=True)
    )
    half = student_t.ppf(0.975, freedom) * math.sqrt(total)
    difference = means[0] - means[1]
    return difference, difference - half, difference + half


@pytest.mark.parametrize(("n_part", "n_plain"), [(6, 6), (2, 5), (3, 2)])
def test_interval_is_welchs(n_part: int, n_plain: int) -> None:
    draw = random.Random(n_part)
    part = [draw.gauss(0.8, 0.01) for _ in range(n_part)]
    plain = [draw.gauss(0.7, 0.03) for _ in range(n_plain)]
    difference = with_rows(part=part, plain=plain).compare("part", "plain")
    expected = naive_welch([100 * v for v in part], [100 * v for v in plain])
    assert (difference.mean, difference.low, difference.high) == pytest.approx(expected)


def test_single_seeds_have_no_interval() -> None:
    difference = with_rows(part=[0.8], plain=[0.7, 0.6]).compare("part", "plain")
    assert str(difference) == "+15.0"
    assert difference.low is None


def test_equal_values_have_an_interval_of_width_zero() -> None:
    difference = with_rows(part=[0.75, 0.75], plain=[0.5, 0.5]).compare("part", "plain")
    assert str(difference) == "+25.0 [+25.0, +25.0]"


def test_comparison_of_unmeasured_and_unknown_arms_is_refused() -> None:
    experiment = with_rows(plain=[0.7, 0.6])
    with pytest.raises(PivlError, match="no rows of arm 'part'"):
        experiment.compare("part", "plain")
    with pytest.raises(PivlError, match="Unknown arm 'parts'"):
        experiment.compare("parts", "plain")


def test_values_are_ordered_by_seed_and_in_points() -> None:
    experiment = with_rows(part=[0.25, 0.5])
    experiment.rows.reverse()
    assert experiment.values("part") == [25, 50]
    assert experiment.values("part", "seconds") == [60, 60]
