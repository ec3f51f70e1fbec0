"""The student: its outputs for each supervision, its gradients, and the saved bare backbone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from pivl_distill.config import HeadSettings, PartClassificationSettings, Stage2Settings
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import embed
from pivl_distill.models.factorised_fusion import is_factorised
from pivl_distill.models.network import ReIDOutput
from pivl_distill.storage.tensors import load_tensors, save_tensors
from pivl_distill.training import trainer
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.part_classification import PartTexts
from pivl_distill.training.supervision import Supervision
from students.backbones import Backbone, create_backbone
from students.student import (
    CHECKPOINT_KIND,
    Student,
    load_student,
    save_student,
    student_map_layer,
)

SIZE_HW, DIM = (128, 64), 16
ARCHS = ("mobilenetv2_025", "vit_tiny_patch16_224")


def make_student(
    arch: str = ARCHS[0],
    dim: int | None = DIM,
    align: bool = True,
    teacher_dim: int | None = None,
    parts: PartClassificationSettings | None = None,
) -> Student:
    torch.manual_seed(0)
    network = create_backbone(arch, image_size_hw=SIZE_HW)
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, std=0.1)
    return Student(arch, network, SIZE_HW, 6, dim, align, HeadSettings(), teacher_dim, parts)


def images(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 3, *SIZE_HW, generator=torch.Generator().manual_seed(1))


def shapes(output: ReIDOutput) -> dict[str, object]:
    return {
        "features": [tuple(m.shape) for m in output.features],
        "logits": [tuple(scores.shape) for scores in output.logits],
        "projected": None if output.projected is None else tuple(output.projected.shape),
        "aligned": None if output.aligned is None else tuple(output.aligned.shape),
    }


@pytest.mark.parametrize(("arch", "dim"), [(ARCHS[0], 1280), (ARCHS[1], 192)])
@pytest.mark.parametrize(("bank_dim", "align"), [(DIM, True), (DIM, False), (None, False)])
def test_outputs_match_the_supervision(arch, dim, bank_dim, align):
    student = make_student(arch, bank_dim, align)
    assert shapes(student(images())) == {
        "features": [(3, dim)],
        "logits": [(3, 6)],
        "projected": None if bank_dim is None else (3, DIM),
        "aligned": (3, DIM, 16, 8) if align else None,
    }


@pytest.mark.parametrize("dim", [DIM, None])
def test_teacher_embeddings_need_no_bank(dim):
    student = make_student(dim=dim, teacher_dim=7)
    assert student(images()).distilled_embedding.shape == (3, 7)
    assert make_student(dim=dim)(images()).distilled_embedding is None
    assert "to_teacher" not in str(student.embedding_model().network.state_dict().keys())


@pytest.mark.parametrize(
    ("arch", "final_map"), [(ARCHS[0], (3, 1280, 8, 4)), (ARCHS[1], (3, 192, 8, 4))]
)
def test_final_map_is_what_is_pooled(arch, final_map):
    student = make_student(arch, parts=PartClassificationSettings()).eval()
    output = student(images())
    assert output.final_map.shape == final_map
    assert student.part_project.weight.shape == (DIM, final_map[1])
    assert student.part_project.bias is None
    if arch == ARCHS[0]:
        torch.testing.assert_close(output.final_map.mean((2, 3)), output.features[0])
    else:
        tokens = student.backbone.network.forward_features(images())[:, 1:]
        torch.testing.assert_close(output.final_map.flatten(2).mT, tokens)
    assert make_student(arch)(images()).final_map is None


def test_parts_need_a_bank():
    student = make_student(dim=None, parts=PartClassificationSettings())
    assert student.part_project is None
    assert student(images()).final_map is None


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_parts_train_the_whole_backbone(prompt_bank, band_store, arch, precision):
    parts = PartClassificationSettings(weight=1.0, gradient_cap=0.1)
    settings = Stage2Settings(precision=precision)
    supervision = Supervision(part_texts=PartTexts.from_bank(prompt_bank, parts))
    student = make_student(arch, align=False, parts=parts).train()
    stage = trainer.Stage2Trainer(student, band_store, supervision, settings)
    terms = stage.step(np.arange(8), np.random.default_rng(0), 0.5)
    assert terms["parts"] > 0
    assert student.part_project.weight.grad.abs().max() > 0
    first = next(student.backbone.network.parameters())
    assert first.grad.abs().max() > 0


def test_fusion_head_accepts_three_blocks_of_a_vit():
    network = create_backbone(ARCHS[1], image_size_hw=SIZE_HW)
    head = HeadSettings(vit="blocks", levels=(2, 3, 4), align_dim=20)
    student = Student(ARCHS[1], network, SIZE_HW, 6, DIM, True, head)
    out = student(images())
    assert out.aligned.shape == (3, 20, 16, 8)
    assert out.projected.shape == (3, DIM)


def test_student_without_a_bank_has_no_projection_or_fusion():
    student = make_student(dim=None, align=True)
    assert student.project is None
    assert student.fusion is None
    assert {name.split(".")[0] for name in student.state_dict()} == {"backbone", "neck"}


@pytest.mark.parametrize("arch", ARCHS)
def test_every_parameter_gets_a_gradient(arch):
    student = make_student(arch, teacher_dim=7, parts=PartClassificationSettings())
    out = student.train()(images(4))
    parts = student.part_project(out.final_map.flatten(2).mT)
    terms = (*out.features, *out.logits, out.projected, out.aligned.to_dense())
    terms += (out.distilled_embedding, parts)
    sum(term.square().mean() for term in terms).backward()
    untrained = {
        name for name, p in student.named_parameters() if p.requires_grad and p.grad is None
    }
    assert untrained == set()


@pytest.mark.parametrize("arch", ARCHS)
def test_embedding_model_has_no_training_heads(arch):
    student = make_student(arch, teacher_dim=7, parts=PartClassificationSettings())
    model = student.embedding_model()
    bare = create_backbone(arch, image_size_hw=SIZE_HW)
    assert model.network.state_dict().keys() == bare.state_dict().keys()
    assert not model.network.training
    assert torch.equal(model.network(images()), student.eval()(images()).features[0])


@pytest.mark.parametrize("arch", ARCHS)
def test_saved_student_embeds_identically(arch, band_store, tmp_path):
    model = make_student(arch).embedding_model()
    save_student(model, tmp_path / "student.safetensors", "auto")
    loaded = load_student(tmp_path / "student.safetensors")
    assert dataclasses.replace(loaded, network=model.network) == model
    assert (embed(loaded, band_store.crops) == embed(model, band_store.crops)).all()
    _, state, _ = load_tensors(tmp_path / "student.safetensors", CHECKPOINT_KIND)
    assert state.keys() == model.network.state_dict().keys()


def test_last_stride_is_saved_with_the_weights(tmp_path):
    network = create_backbone("resnet18", image_size_hw=SIZE_HW, last_stride=2)
    student = Student("resnet18", network, SIZE_HW, 6, None, False, HeadSettings())
    save_student(student.embedding_model(), tmp_path / "student.safetensors", 2)
    loaded = load_student(tmp_path / "student.safetensors")
    assert loaded.network.forward_features(images(1)).shape[2:] == (4, 2)
    assert torch.equal(loaded.network(images()), network.eval()(images()))


def compute_gradients(student: Student) -> dict[str, torch.Tensor]:
    out = student.train()(images(4).double())
    terms = (*out.features, *out.logits, out.projected, out.aligned.to_dense())
    sum(term.square().mean() for term in terms).backward()
    return {name: p.grad for name, p in student.named_parameters() if p.requires_grad}


def test_gradient_checkpointing_of_a_vit_keeps_the_gradients():
    plain, checkpointed = (make_student(ARCHS[1]).double() for _ in "ab")
    checkpointed.enable_gradient_checkpointing()
    runs = []
    block = checkpointed.backbone.network.blocks[0]
    block.register_forward_pre_hook(lambda *_: runs.append(1))
    expected, actual = compute_gradients(plain), compute_gradients(checkpointed)
    assert len(runs) == 2
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-9, atol=1e-9)


def test_gradient_checkpointing_of_a_cnn_raises():
    with pytest.raises(PivlError, match=r"no transformer blocks .* raise stage2\.accumulate"):
        make_student(ARCHS[0]).enable_gradient_checkpointing()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("dim", [DIM, 512])  # dense and factorised maps
def test_training_step_never_waits_for_the_device(
    monkeypatch, prompt_bank, band_store, dim, accumulate
):
    """On the meta device, reading a value fails. SGD replaces Adam, whose fused form it lacks."""
    monkeypatch.setattr(
        trainer, "make_optimizer", lambda network, _: torch.optim.SGD(network.parameters(), lr=1)
    )
    meta, settings = torch.device("meta"), Stage2Settings(accumulate=accumulate)
    parts = len(LIP20)
    tensors = {
        "identity": torch.randn(6, dim),
        "part": torch.randn(6, parts, dim),
        "label": torch.randn(parts, dim),
    }
    bank = dataclasses.replace(prompt_bank, **tensors)
    text_features = TextFeatures.from_bank(bank, settings.loss, settings.head).to(meta)
    student = make_student(dim=dim).train()
    assert is_factorised(student.fusion) == (dim == 512)
    stage = trainer.Stage2Trainer(
        student.to(meta), band_store, Supervision(texts=text_features), settings
    )
    terms = stage.step(np.arange(8), np.random.default_rng(0), 0.5)
    assert terms.keys() == {
        "identity",
        "triplet",
        "image_to_text",
        "align",
        "accuracy",
        "gradient_norm",
        "feature_spread",
    }
    assert all(value.is_meta for value in terms.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "hf-hub:someone/network"}, "Unknown architecture 'hf-hub:someone/network'"),
        ({"arch": ["resnet18"]}, "Unknown architecture"),
        ({"size_hw": [10**6, 10**6]}, "has the input size"),
    ],
)
def test_hostile_metadata_is_refused(tmp_path, change, message):
    path = tmp_path / "student.safetensors"
    metadata = {"arch": ARCHS[0], "size_hw": SIZE_HW, "last_stride": "auto"}
    save_tensors(path, CHECKPOINT_KIND, {"weight": torch.zeros(1)}, metadata | change)
    with pytest.raises(PivlError, match=message):
        load_student(path)


@pytest.mark.parametrize("arch", [*ARCHS, "lcnet_050"])
def test_the_layer_with_a_map_belongs_to_the_exported_network(arch):
    model = make_student(arch).embedding_model()
    found = student_map_layer(model)
    with torch.no_grad():
        expected = model.network(images())
        torch.testing.assert_close(found.network.eval()(images()), expected)
    map_ = found.maps(images())
    assert map_.shape[2:] == ((8, 4))
    if arch != ARCHS[1]:
        pooled = Backbone(model.network)(images()).final_map
        torch.testing.assert_close(map_, pooled)


def test_a_student_for_another_gallery_is_saved_with_its_layer_and_space(tmp_path):
    """A linear layer ends it, and is part of the network that is saved and exported."""
    torch.manual_seed(0)
    network = create_backbone(ARCHS[0], image_size_hw=SIZE_HW, embedding_dim=12)
    head, space = HeadSettings(), "a" * 32
    student = Student(ARCHS[0], network, SIZE_HW, 5, None, False, head, compatible_with=(space,))
    output = student.train()(images())
    assert output.features[0].shape == (3, 12)
    model = student.embedding_model()
    save_student(model, tmp_path / "s.safetensors", "auto")
    loaded = load_student(tmp_path / "s.safetensors")
    assert loaded.compatible_with == (space,)
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(images()), model.network.eval()(images()))


def test_a_student_of_its_own_has_no_metadata_of_a_gallery(tmp_path):
    model = make_student(dim=None, align=False).embedding_model()
    save_student(model, tmp_path / "s.safetensors", "auto")
    _, _, metadata = load_tensors(tmp_path / "s.safetensors", CHECKPOINT_KIND)
    assert set(metadata) == {"arch", "size_hw", "last_stride"}
