"""What supervises a student: bank rows, teacher embeddings, and warnings about unused settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pivl_distill.config import StudentConfig
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.errors import PivlError
from pivl_distill.training.teacher_embeddings import (
    Classifier,
    TeacherEmbeddings,
    save_embeddings,
)
from student_data import dataset_of
from students.supervision import (
    check_parts,
    load_teacher,
    make_supervision,
    select_bank,
    warn_of_unused,
)

CPU = torch.device("cpu")
RELATION = {"distill": {"relation": 1.0}}


@pytest.mark.parametrize("supervision", ["identity", "part"])
def test_bank_rows_are_selected_for_the_training_identities(prompt_bank, supervision):
    config = StudentConfig(supervision=supervision)
    bank = select_bank(config, prompt_bank, dataset_of((12, 3, 3, 21)))
    assert bank.pids == (3, 12, 21)
    assert torch.equal(bank.part, prompt_bank.part[[0, 3, 5]])
    assert torch.equal(bank.identity, prompt_bank.identity[[0, 3, 5]])


def test_label_control_has_the_same_part_texts_for_everyone(prompt_bank):
    bank = select_bank(StudentConfig(supervision="label"), prompt_bank, dataset_of((8, 20)))
    assert torch.equal(bank.part, prompt_bank.label.expand(2, -1, -1))
    assert torch.equal(bank.identity, prompt_bank.identity[[2, 4]])


def test_permuted_control_permutes_training_identities_only(prompt_bank):
    config = StudentConfig(supervision="permuted", seed=3)
    bank = select_bank(config, prompt_bank, dataset_of((8, 20)))
    assert bank.pids == (8, 20)
    assert torch.equal(bank.part, prompt_bank.part[[4, 2]])
    repeated = select_bank(config, prompt_bank, dataset_of((8, 20)))
    assert torch.equal(bank.identity, repeated.identity)


def test_identities_without_a_text_raise(prompt_bank):
    with pytest.raises(PivlError, match=r"1 of 2 identities \(pid 99\)"):
        select_bank(StudentConfig(), prompt_bank, dataset_of((7, 99)))


def test_bank_and_maps_need_the_same_vocabulary(prompt_bank):
    check_parts(prompt_bank, dataset_of())
    with pytest.raises(PivlError, match=r"somewhere has no parsing maps .*supervision=identity"):
        check_parts(prompt_bank, dataclasses.replace(dataset_of(), vocabulary=None))
    other = dataclasses.replace(LIP20, name="cihp20")
    with pytest.raises(PivlError, match="has lip20 parts but the maps have cihp20 parts"):
        check_parts(prompt_bank, dataclasses.replace(dataset_of(), vocabulary=other))


@pytest.fixture
def dataset(tmp_path: Path) -> ReIDDataset:
    """Four crops of the identities 3 and 7, as files."""
    records = [
        Record(tmp_path / f"{number}.png", pid, 0) for number, pid in enumerate((3, 7, 7, 3))
    ]
    for record in records:
        record.path.write_bytes(b"pixels")
    return dataclasses.replace(dataset_of(), train=tuple(records))


def embeddings_of(count: int, pids: tuple[int, ...] = (3, 7)) -> TeacherEmbeddings:
    values = torch.arange(count * 5).view(count, 1, 5).half()
    classifier = Classifier(torch.eye(len(pids), 5), torch.zeros(len(pids)), pids)
    flips, shifts = np.zeros((count, 1), bool), np.zeros((count, 1, 2), np.float32)
    return TeacherEmbeddings(values, flips, shifts, 2, classifier)


def write_teacher(folder: Path, records: tuple[Record, ...], **options: object) -> Path:
    folder.mkdir()
    file = folder / "teacher_embeddings.safetensors"
    save_embeddings(file, embeddings_of(len(records), **options), records, "teacher")
    return file


@pytest.mark.parametrize("named", ["auto", "run", "file"])
def test_teacher_is_next_to_the_bank_or_a_run_or_a_file(tmp_path, dataset, named):
    file = write_teacher(tmp_path / "run", dataset.train)
    teacher = {"auto": "auto", "run": str(file.parent), "file": str(file)}[named]
    bank_file = tmp_path / "run" / "prompt_bank.safetensors" if named == "auto" else None
    config = StudentConfig(**RELATION, teacher=teacher)
    loaded = load_teacher(config, bank_file, dataset, list(dataset.train)[::-1])
    assert torch.equal(loaded.embeddings, embeddings_of(4).embeddings.flip(0))


def test_without_a_term_or_with_teacher_none_nothing_is_read(tmp_path, dataset):
    bank_file = write_teacher(tmp_path / "run", dataset.train).with_name("prompt_bank.safetensors")
    records = list(dataset.train)
    off = {"distill": {"embedding": 0, "relation": 0}}
    assert load_teacher(StudentConfig(**off), bank_file, dataset, records) is None
    none = StudentConfig(**RELATION, teacher="none")
    assert load_teacher(none, bank_file, dataset, records) is None
    assert load_teacher(StudentConfig(**RELATION), None, dataset, records) is None


def test_a_bank_without_teacher_embeddings_logs_a_warning(tmp_path, dataset, caplog):
    bank_file = tmp_path / "old" / "prompt_bank.safetensors"
    config = StudentConfig(**RELATION)
    assert load_teacher(config, bank_file, dataset, list(dataset.train)) is None
    assert "no teacher embeddings at" in caplog.text
    assert "--teacher" in caplog.text


def test_embeddings_of_other_images_are_used_only_if_named(tmp_path, dataset, caplog):
    path = write_teacher(tmp_path / "run", dataset.train[:1])
    config, records = StudentConfig.model_validate(RELATION), list(dataset.train)
    assert load_teacher(config, path.with_name("bank"), dataset, records) is None
    assert "no embedding of" in caplog.text
    assert "learns from the texts alone" in caplog.text
    named = config.model_copy(update={"teacher": str(path)})
    with pytest.raises(PivlError, match="no embedding of"):
        load_teacher(named, None, dataset, records)


@pytest.mark.parametrize("name", ["run", "run/teacher_embeddings.safetensors"])
def test_a_named_teacher_that_is_missing_raises(tmp_path, dataset, name):
    (tmp_path / "run").mkdir()
    config = StudentConfig(**RELATION, teacher=str(tmp_path / name))
    with pytest.raises(PivlError, match=r"No teacher at .*run.teacher_embeddings"):
        load_teacher(config, None, dataset, list(dataset.train))


def test_classifier_has_the_rows_of_the_training_identities(tmp_path, dataset):
    file = write_teacher(tmp_path / "run", dataset.train, pids=(1, 7, 3))
    config = StudentConfig(**RELATION, teacher=str(file))
    classifier = load_teacher(config, None, dataset, list(dataset.train)).classifier
    assert classifier.pids == (3, 7)
    assert torch.equal(classifier.weight, torch.eye(3, 5)[[2, 1]])


def test_identities_that_the_teacher_lacks_leave_no_classifier(tmp_path, dataset):
    file = write_teacher(tmp_path / "run", dataset.train, pids=(1, 3))
    records = list(dataset.train)
    config = StudentConfig(distill={"logits": 1}, teacher=str(file))
    teacher = load_teacher(config, None, dataset, records)
    assert teacher.classifier is None
    with pytest.raises(PivlError, match="classifies the training identities"):
        make_supervision(config, None, teacher, np.array([3, 7, 7, 3]), CPU)


@pytest.mark.parametrize(
    ("settings", "has_teacher", "warnings"),
    [
        ({}, False, []),
        ({"distill": {"relation": 1, "start_epochs": 2}, "data": {"unlabeled": "x"}}, True, []),
        ({"teacher": "runs/t", "distill": {"relation": 0}}, False, ["runs/t is not used"]),
        (
            {"distill": {"relation": 1, "start_epochs": 2}},
            False,
            ["start_epochs is not used: there"],
        ),
        ({"distill": {"start_epochs": 2}}, False, ["is not used: every weight in distill is 0"]),
        (
            {"distill": {"relation": 1}, "data": {"unlabeled": "x"}},
            True,
            ["crops in x are not used: distill.start_epochs is 0"],
        ),
    ],
)
def test_settings_without_an_effect_are_named(caplog, settings, has_teacher, warnings):
    off = dict.fromkeys(("embedding", "relation", "start_epochs"), 0)
    settings = {**settings, "distill": {**off, **settings.get("distill", {})}}
    warn_of_unused(StudentConfig(**settings), embeddings_of(4) if has_teacher else None)
    assert len(caplog.messages) == len(warnings)
    for message, expected in zip(caplog.messages, warnings, strict=True):
        assert expected in message


def test_supervision_has_the_targets_of_its_settings(prompt_bank):
    config = StudentConfig(part_classification={"weight": 1}, distill={"relation": 1})
    pids = np.repeat(prompt_bank.pids, 2)
    teacher = embeddings_of(len(pids), prompt_bank.pids)
    whole = make_supervision(config, prompt_bank, teacher, pids, CPU)
    assert whole.texts is not None
    assert whole.part_texts is not None
    assert whole.teacher is not None
    assert whole.vocabulary == LIP20
    identity = config.model_copy(update={"supervision": "identity"})
    assert make_supervision(identity, prompt_bank, None, pids, CPU).part_texts is None
    bare = make_supervision(config, None, None, pids, CPU)
    assert (bare.texts, bare.part_texts, bare.teacher, bare.vocabulary) == (None,) * 4
