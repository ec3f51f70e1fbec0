"""A CLIP's encoders: weights hash, freezing, ViT options, and unsupported architectures."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from clip_outputs import SIZE_HW, clip_outputs, random_images
from pivl_distill.errors import PivlError
from teachers.clip_loading import load_clip
from teachers.image_encoders import ViTOptions
from teachers.tiny_clip import save_tiny_clip


def test_weights_hash_differs_between_weights(make_clip, table, tmp_path):
    hashes = set()
    for number, clip in enumerate((make_clip(seed=0), make_clip(seed=1))):
        save_tiny_clip(clip, tmp_path / f"{number}", table, {})
        hashes.add(load_clip("tiny_rn", str(tmp_path / f"{number}"), SIZE_HW).weights_sha256)
    with torch.no_grad():
        clip.text.ln_final.bias[0] += 0.5
    save_tiny_clip(clip, tmp_path / "changed", table, {})
    hashes.add(load_clip("tiny_rn", str(tmp_path / "changed"), SIZE_HW).weights_sha256)
    assert len(hashes) == 3
    assert all(len(digest) == 64 for digest in hashes)


def test_freeze_disables_gradients_and_batch_norm_updates(make_clip):
    clip = make_clip()
    for encoder in (clip.image, clip.text):
        assert not encoder.training
        assert not any(p.requires_grad for p in encoder.parameters())
    before = clip_outputs(clip)
    clip.image(random_images())
    for one, other in zip(before, clip_outputs(clip), strict=True):
        assert torch.equal(one, other)
    assert dataclasses.replace(clip).to(torch.device("cpu")).image is clip.image


def test_vit_supports_overlapping_patches_and_camera_embeddings(open_clip_models):
    clip = load_clip("small-vit", "none", SIZE_HW, ViTOptions(12, 3)).freeze()
    assert clip.image.grid_hw == (10, 5)
    plain, with_cameras = (
        clip.image(random_images()),
        clip.image(random_images(), torch.tensor([0, 2])),
    )
    assert not torch.equal(plain.projected, with_cameras.projected)
    other = load_clip("small-vit", "none", SIZE_HW)
    assert len({clip.weights_sha256, other.weights_sha256}) == 2


def test_resnet_refuses_stride_and_camera_embeddings(open_clip_models):
    with pytest.raises(PivlError, match="small-rn is a ResNet; overlapping patches"):
        load_clip("small-rn", "none", SIZE_HW, ViTOptions(stride=12))


@pytest.mark.parametrize("name", ["small-average", "small-attentional"])
def test_image_encoder_without_class_token_pooling_is_refused(open_clip_models, name):
    with pytest.raises(PivlError, match=f"{name} does not read its image from the class token"):
        load_clip(name, "none", SIZE_HW)


def test_unsupported_image_encoder_is_refused(open_clip_models):
    with pytest.raises(PivlError, match=r"small-timm has a TimmModel .* can be teachers"):
        load_clip("small-timm", "none", SIZE_HW)


@pytest.mark.parametrize("name", ["small-eos", "small-cls"])
def test_unsupported_text_encoder_is_refused(open_clip_models, name):
    with pytest.raises(PivlError, match=f"{name} does not read its text as CLIP does"):
        load_clip(name, "none", SIZE_HW)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ViT-B-16-SigLIP", "its text encoder reads the 'last' token instead"),
        ("ViT-L-14-worldwide", "its text encoder reads the 'eos' token instead"),
        ("EVA02-B-16", "as a CustomTextCLIP, whose image encoder is a TimmModel"),
        ("coca_ViT-B-32", "as a CoCa, whose image encoder is a VisionTransformer"),
        ("convnext_base", "has a TimmModel image encoder"),
    ],
)
def test_unsupported_models_are_refused_with_the_reason(name, reason):
    with torch.device("meta"), pytest.raises(PivlError, match=f"{name} .*{reason}"):
        load_clip(name, "none", (256, 128))
