"""The choice of initial weights, bank rows and teacher embeddings before training."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from pivl_distill.config import StudentConfig
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.errors import PivlError
from pivl_distill.storage.tensors import save_tensors
from students import distill
from students.distill import (
    build_network,
    check_parts,
    load_teacher_embeddings,
    resolve_pretrained,
    select_bank,
)

MOBILENET = "mobilenetv2_025"
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


def dataset_of(pids: tuple[int, ...] = (3, 7), *, synthetic: bool = False) -> ReIDDataset:
    records = tuple(Record(Path(f"{pid}.png"), pid, 0) for pid in pids)
    people = {} if synthetic else None
    return ReIDDataset("somewhere", Path(), records, records, records, LIP20, people)


def test_student_does_not_import_clip():
    command = [sys.executable, "-c", STUDENT_WITHOUT_CLIP]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "[]"


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


def test_teacher_embeddings_are_found_by_setting_or_next_to_the_bank(tmp_path):
    bank_file = tmp_path / "run" / "prompt_bank.safetensors"
    assert load_teacher_embeddings(StudentConfig(), bank_file, dataset_of()) is None
    config = StudentConfig(stage2={"loss": {"embedding": 1.0}})
    with pytest.raises(
        PivlError, match=r"none at .*run.teacher_embeddings\.safetensors; teach with"
    ):
        load_teacher_embeddings(config, bank_file, dataset_of())
    with pytest.raises(
        PivlError, match="none at None; teach with --set save_teacher_embeddings=true"
    ):
        load_teacher_embeddings(config, None, dataset_of())
    path = tmp_path / "mine.safetensors"
    metadata = {"model": "m", "dataset": "d", "crops": ["3.png", "7.png"]}
    save_tensors(path, "teacher embeddings", {"embeddings": torch.eye(2)}, metadata)
    config = config.model_copy(update={"teacher_embeddings": path})
    assert load_teacher_embeddings(config, None, dataset_of((7, 3))).tolist() == [[0, 1], [1, 0]]


@pytest.fixture
def embedded(tmp_path, monkeypatch) -> str:
    """Make a folder of embedded weights with one file, for the small MobileNet; return it."""
    path = tmp_path / f"{MOBILENET}.safetensors"
    path.touch()
    monkeypatch.setattr(distill, "WEIGHTS_DIR", tmp_path)
    return str(path)


@pytest.mark.parametrize(
    ("arch", "pretrained", "synthetic", "start"),
    [
        (MOBILENET, "auto", True, "embedded"),
        (MOBILENET, "embedded", True, "embedded"),
        (MOBILENET, "embedded", False, "embedded"),
        (MOBILENET, "auto", False, "timm"),
        (MOBILENET, "timm", True, "timm"),
        (MOBILENET, "none", True, "none"),
        (MOBILENET, "my/weights.pth", True, "my/weights.pth"),
        ("resnet18", "auto", False, "timm"),
    ],
)
def test_pretrained_is_resolved(embedded, caplog, arch, pretrained, synthetic, start):
    resolved = resolve_pretrained(arch, pretrained, dataset_of(synthetic=synthetic))
    assert resolved == (embedded if start == "embedded" else start)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("arch", "synthetic"), [("resnet18", True), ("efficientnet_cc_b0_4e", False)]
)
def test_random_weights_by_default_log_a_warning(embedded, caplog, arch, synthetic):
    assert resolve_pretrained(arch, "auto", dataset_of(synthetic=synthetic)) == "none"
    assert caplog.messages[0].startswith(f"{arch} starts from random weights")


@pytest.fixture
def offline(embedded, monkeypatch) -> None:
    """Downloads of published weights fail."""
    create_model = timm.create_model

    def unreachable(*args, pretrained: bool = False, **settings):
        if pretrained:
            raise OSError("no network")
        return create_model(*args, **settings)

    monkeypatch.setattr(timm, "create_model", unreachable)


def test_auto_falls_back_to_random_weights_offline(offline, caplog):
    config = StudentConfig(data={"size_hw": (64, 32)})
    network, start = build_network(config, dataset_of())
    assert start == "none"
    assert network(torch.zeros(1, 3, 64, 32)).shape == (1, 1280)
    assert "no network" in caplog.text
    assert caplog.messages[-1].endswith("Training starts from random weights.")


def test_explicit_weights_raise_offline(offline):
    config = StudentConfig(pretrained="timm", data={"size_hw": (64, 32)})
    with pytest.raises(PivlError, match=r"No published weights of mobilenetv2_025 .*no network"):
        build_network(config, dataset_of())


def test_missing_embedded_weights_raise(embedded):
    with pytest.raises(PivlError, match="no embedded weights for resnet18; set pretrained to"):
        resolve_pretrained("resnet18", "embedded", dataset_of(synthetic=True))
