"""Inputs of a student: one list of what does not fit, before anything is written."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pivl_distill.bank import PromptBank
from pivl_distill.config import StudentConfig
from pivl_distill.data.synthetic.cache import cached_dataset
from pivl_distill.data.vocabulary import get_vocabulary
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval.loaded_network import LoadedNetwork
from pivl_distill.training.dry_run import random_bank
from pivl_distill.training.stage2_run import Stage2Run
from pivl_distill.vectors.space import VectorSpace
from students import inputs
from students.distill import train_student
from students.dry_run import dry_run_student
from students.inputs import find_layer_dim, prepare_inputs


def config_of(root: Path | None = None, **changes: object) -> StudentConfig:
    spec = "synthetic:tiny" if root is None else f"market1501:{root}"
    defaults: dict[str, object] = {
        "data": {"spec": spec, "size_hw": (64, 32), "crop_cache_gib": 0},
        "pretrained": "none",
        "stage2": {"epochs": 1, "identities_per_batch": 4, "crops_per_identity": 2},
        "device": "cpu",
    }
    return StudentConfig.model_validate(defaults | changes)


@pytest.fixture
def bank_file(tmp_path: Path) -> Path:
    """A bank of two identities that are not in the data, with other parts."""
    torch.manual_seed(0)
    bank: PromptBank = random_bank((901, 902), 16, get_vocabulary("coarse6"))
    bank.save(tmp_path / "bank" / "prompt_bank.safetensors")
    return tmp_path / "bank" / "prompt_bank.safetensors"


@pytest.mark.parametrize("dry", [False, True])
def test_all_problems_are_listed_and_nothing_is_written(
    tmp_path: Path, bank_file: Path, monkeypatch, dry: bool
) -> None:
    root = tmp_path / "people"
    shutil.copytree(cached_dataset("tiny"), root)
    for image in (root / "bounding_box_test").iterdir():
        if "_c1s" not in image.name:
            image.unlink()
    for image in (root / "query").iterdir():
        image.rename(image.with_name(image.name.replace("_c2s", "_c1s").replace("_c3s", "_c1s")))
    next((root / "query").iterdir()).write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    stage2 = {"identities_per_batch": 99, "crops_per_identity": 2}
    teacher = str(tmp_path / "gone.safetensors")
    config = config_of(root, stage2=stage2, teacher=teacher, arch="no_such_network")
    before = sorted(tmp_path.iterdir())
    start = dry_run_student if dry else train_student
    with pytest.raises(PivlError) as refused:
        start(config, bank_file, out=tmp_path / "run")
    message = str(refused.value)
    for problem in (
        "stage2.identities_per_batch is 99, but the training split has 8 identities",
        "from one camera, so no query has a match. Mend the data set, or train on it without",
        "images that cannot be read: 1, the first is query/",
        "The prompt bank has no text features for 8 of 8 identities",
        "The bank has coarse6 parts but the maps have",
        "no_such_network",
        "No teacher at",
    ):
        assert problem in message
    assert "--no-evaluation" in message
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_teacher_is_a_problem_like_others(tmp_path: Path) -> None:
    config = config_of(
        supervision="none",
        teacher=str(tmp_path / "gone"),
        stage2={"identities_per_batch": 99, "crops_per_identity": 1},
    )
    with pytest.raises(PivlError, match=r"2 problems[\s\S]*is 99[\s\S]*No teacher at"):
        train_student(config, None, tmp_path / "run")


def test_weights_are_not_downloaded_while_there_are_problems(monkeypatch) -> None:
    built = []

    def build(config: StudentConfig, *_: object) -> None:
        built.append(config.pretrained)
        raise PivlError("built")

    monkeypatch.setattr(inputs, "build_network", build)
    for p, pretrained in ((99, "none"), (4, "timm")):
        stage2 = {"identities_per_batch": p, "crops_per_identity": 2}
        config = config_of(arch="resnet18", pretrained="timm", supervision="none", stage2=stage2)
        with pytest.raises(PivlError, match="built"):
            prepare_inputs(config, Stage2Run.prepare("student", config), None)
        assert built.pop() == pretrained


def test_terms_that_the_teacher_cannot_serve_are_refused_before_the_run(
    tmp_path: Path, monkeypatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PivlError("no logits")

    monkeypatch.setattr(inputs, "make_supervision", refuse)
    with pytest.raises(PivlError, match="no logits"):
        train_student(config_of(supervision="none"), None, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def loaded(dim: int, least: float, tmp_path: Path) -> LoadedNetwork:
    """Return a network of vectors of `dim` values of at least `least`."""

    def forward(images: torch.Tensor) -> torch.Tensor:
        return (images.mean((2, 3)) @ torch.linspace(-1, 1, 3 * dim).view(3, dim)).abs() + least

    model = EmbeddingModel("old", torch.nn.Identity(), (64, 32), (0.5,) * 3, (0.5,) * 3)
    return LoadedNetwork(tmp_path / "old.onnx", model, forward, VectorSpace("a" * 32))


def test_a_layer_is_added_where_the_embedding_cannot_follow(tmp_path: Path) -> None:
    config = config_of()
    assert find_layer_dim(config, None) is None
    assert find_layer_dim(config, loaded(1280, 0, tmp_path)) is None
    assert find_layer_dim(config, loaded(256, 0, tmp_path)) == 256
    assert find_layer_dim(config, loaded(1280, -9, tmp_path)) == 1280
    unknown = replace(loaded(256, 0, tmp_path), space=None)
    with pytest.raises(PivlError, match="export it again"):
        find_layer_dim(config, unknown)


def test_the_vectors_of_the_gallery_are_targets(tmp_path: Path) -> None:
    config, gallery = config_of(supervision="none", teacher="none"), loaded(7, 1, tmp_path)
    stage2 = Stage2Run.prepare("student", config, tmp_path / "run")
    inputs = prepare_inputs(config, stage2, None, gallery=gallery)
    targets = inputs.supervision.gallery
    assert targets is not None
    assert targets.vectors.shape == (len(stage2.dataset.train), 7)
    assert targets.means.shape == (len(stage2.dataset.train_pids), 7)
    assert inputs.student.embedding_model().compatible_with == ("a" * 32,)
