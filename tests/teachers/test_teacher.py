"""The teacher: outputs for the losses, the embedding model without heads, saving and training."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from pivl_distill.config import AugmentSettings, HeadSettings, LossSettings, Stage2Settings
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import embed
from pivl_distill.runs.run import Run
from pivl_distill.storage.tensors import load_tensors, save_tensors
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.stage2 import train
from pivl_distill.training.supervision import Supervision
from teachers.clip import CLIP_MEAN, CLIP_STD
from teachers.image_encoders import ViTOptions
from teachers.teacher import KIND, Teacher, load_teacher, save_teacher, teacher_map_layer
from teachers.tiny_clip import build_tiny_clip

NAMES = ("tiny_rn", "tiny_vit")


@pytest.fixture(params=NAMES)
def teacher(request, make_clip) -> Teacher:
    clip = make_clip(request.param)
    return Teacher(clip, identities=6, head=HeadSettings())


def images(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 3, 128, 64, generator=torch.Generator().manual_seed(1))


def test_output_has_three_features_two_logits_and_the_aligned_map(teacher):
    out, image_encoder = teacher(images()), teacher.image_encoder
    dims = [image_encoder.previous_dim, image_encoder.feature_dim, image_encoder.dim]
    assert [tuple(m.shape) for m in out.features] == [(3, dim) for dim in dims]
    assert [tuple(scores.shape) for scores in out.logits] == [(3, 6), (3, 6)]
    assert torch.equal(out.projected, out.features[2])
    assert out.aligned.shape == (3, image_encoder.dim, 16, 8)


def test_classifier_is_the_mean_of_the_logits_as_a_map_of_the_embedding(teacher):
    torch.manual_seed(0)
    for neck in (teacher.neck, teacher.projected_neck):
        neck.norm.running_mean.normal_()
        neck.norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(neck.classifier.weight)
    with torch.no_grad():
        expected = torch.stack(teacher.eval()(images()).logits).mean(0)
        weight, bias = teacher.classifier()
        embeddings = teacher.embedding_model().network(images())
    torch.testing.assert_close(embeddings @ weight.T + bias, expected, rtol=1e-4, atol=1e-4)


def test_all_parameters_of_the_teacher_get_gradients(teacher):
    out = teacher.train()(images(4))
    total = sum(m.square().mean() for m in (*out.features, *out.logits, out.aligned.to_dense()))
    total.backward()
    without_gradient = {
        name for name, p in teacher.named_parameters() if p.grad is None and p.requires_grad
    }
    assert without_gradient == set()


def test_gradient_checkpointing_does_not_change_gradients(make_clip):
    gradients, runs = [], []
    for checkpoints in (False, True):
        teacher = Teacher(make_clip("tiny_vit"), 6, HeadSettings()).double().train()
        torch.manual_seed(0)
        for parameter in (*teacher.fusion.parameters(), *teacher.neck.parameters()):
            nn.init.normal_(parameter, std=0.1)
        if checkpoints:
            teacher.enable_gradient_checkpointing()
        block = teacher.image_encoder.visual.transformer.resblocks[0]
        block.register_forward_pre_hook(lambda *_: runs.append(1))
        out = teacher(images(4).double())
        terms = (*out.features, out.logits[0], out.aligned.to_dense())
        sum(term.square().mean() for term in terms).backward()
        gradients.append({name: p.grad for name, p in teacher.named_parameters()})
    assert len(runs) == 1 + 2
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-9)


def test_gradient_checkpointing_of_a_resnet_is_refused(make_clip):
    with pytest.raises(PivlError, match="Teacher has no transformer blocks to checkpoint"):
        Teacher(make_clip("tiny_rn"), 6, None).enable_gradient_checkpointing()


def test_embedding_is_the_feature_concatenated_with_its_projection(teacher):
    model = teacher.embedding_model()
    out = teacher.eval()(images())
    expected = torch.cat([out.features[1], out.features[2]], dim=1)
    torch.testing.assert_close(model.network(images()), expected)


def test_embedding_model_has_no_training_heads(teacher):
    model = teacher.embedding_model()
    image_encoder = sum(p.numel() for p in teacher.image_encoder.parameters())
    assert sum(p.numel() for p in model.network.parameters()) == image_encoder
    assert not any("neck" in name or "fusion" in name for name in model.network.state_dict())
    assert not model.network.training


def test_pooling_is_described_and_restored_from_the_file(teacher, tmp_path):
    model = teacher.embedding_model()
    save_teacher(model, tmp_path / "teacher.safetensors")
    assert "projection" in model.pooling or "attention pooling" in model.pooling
    assert load_teacher(tmp_path / "teacher.safetensors").pooling == model.pooling


def test_saved_teacher_gives_the_same_embeddings(teacher, band_store, tmp_path):
    model = teacher.embedding_model()
    save_teacher(model, tmp_path / "teacher.safetensors")
    loaded = load_teacher(tmp_path / "teacher.safetensors")
    assert dataclasses.replace(loaded, network=model.network) == model
    assert (embed(loaded, band_store.crops) == embed(model, band_store.crops)).all()
    _, state, _ = load_tensors(tmp_path / "teacher.safetensors", KIND)
    assert all(name.startswith("image_encoder.") for name in state)


def test_pixel_statistics_are_restored_from_the_file(make_clip, tmp_path):
    model = Teacher(make_clip("tiny_rn").with_clip_pixels(), 6, None).embedding_model()
    save_teacher(model, tmp_path / "teacher.safetensors")
    loaded = load_teacher(tmp_path / "teacher.safetensors")
    assert (loaded.mean, loaded.std) == (CLIP_MEAN, CLIP_STD)


def test_teacher_without_a_head_has_no_aligned_map(make_clip):
    teacher = Teacher(make_clip("tiny_rn"), 6, None)
    assert teacher(images()).aligned is None
    assert not any(name.startswith("fusion") for name in teacher.state_dict())


@pytest.mark.parametrize(("name", "cameras"), [("tiny_rn", 0), ("tiny_vit", 2)])
def test_training_with_a_bank_changes_all_modules(
    table, band_store, prompt_bank, tmp_path, name, cameras
):
    clip = build_tiny_clip(name, table, ViTOptions(cameras=cameras))
    generator = torch.Generator().manual_seed(0)
    bank = dataclasses.replace(
        prompt_bank,
        identity=torch.randn(6, clip.image.dim, generator=generator),
        part=torch.randn(6, len(LIP20), clip.image.dim, generator=generator),
        label=torch.randn(len(LIP20), clip.image.dim, generator=generator),
    )
    settings = Stage2Settings(
        epochs=1,
        identities_per_batch=3,
        crops_per_identity=2,
        augment=AugmentSettings(pad_px=0),
    )
    teacher = Teacher(clip, 6, HeadSettings())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    run = Run.create("teach", "", tmp_path / "run")
    text_features = TextFeatures.from_bank(bank, LossSettings(), HeadSettings())
    train(teacher, band_store, Supervision(texts=text_features), settings, 0, run, "Training")
    changed = {n for n, value in teacher.state_dict().items() if not torch.equal(value, before[n])}
    modules = {"image_encoder", "neck", "projected_neck", "fusion"}
    assert {name.split(".")[0] for name in changed} == modules
    assert not {name for name in changed if name.endswith("neck.norm.bias")}
    assert ("image_encoder.camera" in changed) == bool(cameras)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": "hf-hub:someone/network"}, "Unknown CLIP"),
        ({"size_hw": [10**6, 10**6]}, "has the input size"),
        ({"vit": {"cameras": 10**12}}, "is damaged: it has 1000000000000 cameras"),
        ({"vit": {"layers": 3}}, "is damaged: .*layers"),
        ({"mean": 3}, "is damaged"),
        ({"mean": ["0.5", 0.5, 0.5]}, "is damaged: mean is '0.5', not a finite number"),
        ({"std": "abc"}, "is damaged: std is 'abc', not three finite numbers"),
    ],
)
def test_hostile_metadata_is_refused(tmp_path, change, message):
    path = tmp_path / "teacher.safetensors"
    metadata = {
        "clip": "tiny_rn", "size_hw": [128, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "vit": {},
    }  # fmt: skip
    save_tensors(path, "teacher", {"weight": torch.zeros(1)}, metadata | change)
    with pytest.raises(PivlError, match=message):
        load_teacher(path)


def test_the_layer_with_a_map_belongs_to_the_exported_network(teacher):
    model = teacher.embedding_model()
    found = teacher_map_layer(model)
    with torch.no_grad():
        expected = model.network(images())
        torch.testing.assert_close(found.network.eval()(images()), expected)
    grid = teacher.image_encoder.grid_hw
    assert found.maps(images()).shape[2:] == grid
