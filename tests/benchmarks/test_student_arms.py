"""The experiments on students: one row per arm and seed, and nothing is measured twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from benchmarks import student_arms
from benchmarks.arms import ARMS, BASELINE, OURS
from benchmarks.experiment import Arm, Experiment, ResultFile
from benchmarks.stability import flip_a_bit
from pivl_distill.config import StudentConfig, load_config
from students.start import WEIGHTS_DIR

QUICK = {
    "data.spec": "synthetic:tiny",
    "data.size_hw": (32, 16),
    "data.validation_identities": 2,
    "stage2.epochs": 1,
    "stage2.identities_per_batch": 3,
    "stage2.crops_per_identity": 2,
}


@pytest.mark.parametrize("name", ARMS)
def test_settings_of_every_arm_are_valid(name: str) -> None:
    config = load_config(StudentConfig, "student", None, dict(ARMS[name].settings))
    assert config.supervision == ARMS[name].settings["supervision"]
    assert config.teacher in ("none", OURS)


def test_the_baseline_has_neither_bank_nor_teacher() -> None:
    assert ARMS[BASELINE].settings == {"supervision": "none", "teacher": "none"}


def test_rows_are_measured_once_with_validation_scores(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arms = {"plain": ARMS["plain"], "other": Arm(label="again", settings=ARMS["plain"].settings)}
    experiment = Experiment(
        name="n", question="q", command="c", data="d", budget={}, arms=arms, baseline="plain"
    )
    file = ResultFile.load_or_create(tmp_path / "results.json", experiment)
    student_arms.measure_arms(file, None, [0], QUICK, validate=True)
    first, second = file.experiment.rows
    assert (first.arm, second.arm) == ("plain", "other")
    assert first.mAP == second.mAP  # the same settings, seed and machine
    assert first.train_top1 is not None
    monkeypatch.setattr(student_arms, "train_student", None)  # must not be called again
    student_arms.measure_arms(file, "plain", [0], QUICK, validate=True)


def test_one_bit_of_the_weights_is_flipped(tmp_path: Path) -> None:
    weights = WEIGHTS_DIR / "mobilenetv2_025.safetensors"
    changed = flip_a_bit(weights, tmp_path)
    differing = 0
    with safe_open(weights, "pt") as ours, safe_open(changed, "pt") as theirs:
        for key in ours.keys():  # noqa: SIM118
            differing += int((ours.get_tensor(key) != theirs.get_tensor(key)).sum())
    assert differing == 1
