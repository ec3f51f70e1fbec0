"""Training a student: no CLIP, the start by distillation, and what is left without a bank."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pivl_distill.config import StudentConfig
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.records import Record
from pivl_distill.data.unlabeled import list_unlabeled
from pivl_distill.errors import PivlError
from pivl_distill.runs import progress
from pivl_distill.training.metrics import MEASURES
from pivl_distill.training.teacher_embeddings import TeacherEmbeddings, save_embeddings
from stopped_runs import Killed, assert_same_student, call_before_step, kill_process, read_metrics
from students.backbones import create_backbone
from students.distill import train_student
from students.inputs import list_extra_crops, make_student
from students.supervision import load_teacher

STUDENT_WITHOUT_CLIP = """
import sys
sys.modules["open_clip"] = None  # importing it would fail
import students.distill
from pivl_distill.config import HeadSettings
from students.backbones import create_backbone
from students.student import Student
network = create_backbone("mobilenetv2_025", image_size_hw=(64, 32))
Student("mobilenetv2_025", network, (64, 32), 4, 16, True, HeadSettings())
print(sorted({name.split(".")[0] for name in sys.modules} & {"teachers", "export", "onnx"}))
"""


def test_student_does_not_import_clip():
    command = [sys.executable, "-c", STUDENT_WITHOUT_CLIP]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "[]"


MORE_CROPS = 9
"""With the 48 of the data set, one more than fills batches of eight."""


def write_teacher(path: Path, records: list[Record]) -> Path:
    """Write random embeddings of `records` in two views."""
    rng, count = np.random.default_rng(0), len(records)
    of_person = rng.standard_normal((100, 6))
    values = of_person[[record.pid for record in records]][:, None].repeat(2, axis=1)
    values = torch.from_numpy(values + 0.1 * rng.standard_normal(values.shape)).half()
    shifts = rng.uniform(-0.05, 0.05, (count, 2, 2)).astype(np.float32)
    save_embeddings(
        path, TeacherEmbeddings(values, rng.random((count, 2)) < 0.5, shifts), records, "random"
    )
    return path


@pytest.fixture
def unlabeled(plant, tmp_path: Path) -> str:
    folder = plant(tmp_path / "more", [f"{number}.jpg" for number in range(MORE_CROPS)])
    return str(folder)


def config_of(teacher: Path, unlabeled: str | None = None, **changes: Any) -> StudentConfig:
    return StudentConfig.model_validate(
        {
            "data": {
                "spec": "synthetic:tiny",
                "size_hw": (64, 32),
                "crop_cache_gib": 0,
                "unlabeled": unlabeled,
            },
            "pretrained": "none",
            "supervision": "none",
            "teacher": str(teacher),
            "distill": {"embedding": 1, "relation": 1, "views": 2, "start_epochs": 2},
            "stage2": {
                "epochs": 2,
                "identities_per_batch": 4,
                "crops_per_identity": 2,
                "average_decay": 0.9,
            },
            "device": "cpu",
            **changes,
        }
    )


@pytest.mark.parametrize("more", [True, False])
def test_start_by_distillation_precedes_stage_2(tmp_path, unlabeled, more) -> None:
    records = list(load_dataset("synthetic:tiny").train)
    records += list_unlabeled(unlabeled)
    teacher = write_teacher(tmp_path / "teacher.safetensors", records)
    config = config_of(teacher, unlabeled if more else None)
    train_student(config, None, tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    assert [(line["stage"], line["epoch"]) for line in lines] == [
        ("start", 1),
        ("start", 2),
        ("reid", 1),
        ("reid", 2),
    ]
    distilled = {"embedding", "relation"}
    for line in lines:
        losses = line.keys() - {"stage", "epoch", "learning_rate"} - MEASURES
        stage = line["stage"]
        assert losses == distilled | ({"identity", "triplet"} if stage == "reid" else set())
        assert ("accuracy" in line) == (stage == "reid")
    assert lines[1]["embedding"] < lines[0]["embedding"]


@pytest.mark.parametrize("step", [1, 3, 8, 14, 15, 17, 20])
def test_resume_inside_start_and_stage_2_is_bit_identical(
    tmp_path, unlabeled, monkeypatch, step
) -> None:
    """The start has two epochs of seven full batches."""
    monkeypatch.setattr(progress, "SAVE_PERIOD_S", 0.0)
    records = [*load_dataset("synthetic:tiny").train, *list_unlabeled(unlabeled)]
    config = config_of(write_teacher(tmp_path / "teacher.safetensors", records), unlabeled)
    train_student(config, None, tmp_path / "uninterrupted")
    with call_before_step(step, kill_process), pytest.raises(Killed):
        train_student(config, None, tmp_path / "run")
    train_student(config, None, resume=tmp_path / "run")
    assert_same_student(tmp_path / "run", tmp_path / "uninterrupted")


def test_unlabelled_crops_that_the_teacher_did_not_see_raise(tmp_path, unlabeled) -> None:
    records = list(load_dataset("synthetic:tiny").train)
    teacher = write_teacher(tmp_path / "teacher.safetensors", records)
    with pytest.raises(PivlError, match=rf"no embedding of {MORE_CROPS} of 57 crops"):
        train_student(config_of(teacher, unlabeled), None, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unlabelled_crops_are_listed_only_for_the_start(tmp_path, unlabeled) -> None:
    assert len(list_extra_crops(config_of(tmp_path, unlabeled))) == MORE_CROPS
    never = {"embedding": 1, "start_epochs": 0}
    assert list_extra_crops(config_of(tmp_path, unlabeled, distill=never)) == []
    off = dict.fromkeys(("embedding", "anchors", "relation", "relaxed_contrastive", "logits"), 0)
    no_term = {**off, "start_epochs": 2}
    assert list_extra_crops(config_of(tmp_path, unlabeled, distill=no_term)) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(PivlError, match="contains no images"):
        list_extra_crops(config_of(tmp_path, str(tmp_path / "empty")))


def test_by_default_a_student_without_a_bank_has_no_teaching_heads() -> None:
    config = StudentConfig(supervision="none", data={"spec": "synthetic:tiny", "size_hw": (64, 32)})
    dataset = load_dataset("synthetic:tiny")
    teacher = load_teacher(config, None, dataset, list(dataset.train))
    network = create_backbone(config.arch, image_size_hw=(64, 32))
    student = make_student(config, network, dataset, None, teacher)
    assert {name.split(".")[0] for name in student.state_dict()} == {"backbone", "neck"}
