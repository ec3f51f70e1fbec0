"""Tiny CLIPs: grid, saving and loading, token table, and weights that are refused."""

from __future__ import annotations

import pytest
import torch

from clip_outputs import SIZE_HW, clip_outputs
from pivl_distill.errors import PivlError
from pivl_distill.storage.tensors import save_tensors
from teachers.clip_loading import load_clip
from teachers.image_encoders import ResNetImageEncoder, ViTImageEncoder
from teachers.tiny_clip import TINY, TINY_KIND, save_tiny_clip


@pytest.mark.parametrize(
    ("name", "encoder", "grid_hw"),
    [("tiny_rn", ResNetImageEncoder, (16, 8)), ("tiny_vit", ViTImageEncoder, (16, 8))],
)
def test_tiny_clips_have_a_16_by_8_grid(make_clip, name, encoder, grid_hw):
    clip = make_clip(name)
    assert isinstance(clip.image, encoder)
    assert clip.image.grid_hw == grid_hw
    assert clip.size_hw == SIZE_HW
    projected, tokens, texts = clip_outputs(clip)
    assert projected.shape == texts.shape == (2, clip.image.dim) == (2, clip.text.dim)
    assert tokens.shape == (2, 1 + 16 * 8, clip.image.dim)
    assert clip.image.kind == ("cnn" if name == "tiny_rn" else "vit")


@pytest.mark.parametrize("name", TINY)
def test_saved_half_precision_weights_are_loaded(make_clip, table, tmp_path, name):
    clip = make_clip(name)
    path = tmp_path / "clip.safetensors"
    save_tiny_clip(clip, path, table, {"recipe": {"seed": 1}})
    first, second = (load_clip(name, str(path), SIZE_HW).freeze() for _ in range(2))
    for ours, saved in zip(clip_outputs(first), clip_outputs(clip), strict=True):
        torch.testing.assert_close(ours, saved, rtol=0.02, atol=0.02)
    for one, other in zip(clip_outputs(first), clip_outputs(second), strict=True):
        assert torch.equal(one, other)
    assert first.logit_scale.item() == pytest.approx(clip.logit_scale.item(), abs=1e-3)
    assert first.weights_sha256 == second.weights_sha256


def test_random_tiny_clip_knows_the_words_of_synthetic_people():
    clip = load_clip("tiny_rn", "none", SIZE_HW)
    ids = clip.text.tokenizer.encode("a photo of a person wearing upper clothes and navy socks")
    assert 0 not in ids
    assert len(clip.weights_sha256) == 64


def test_tiny_clip_refuses_other_crop_sizes():
    with pytest.raises(PivlError, match="tiny_rn reads crops of 128×64 only, not 256×128"):
        load_clip("tiny_rn", "embedded", (256, 128))


def test_missing_weights_raise_with_the_command_that_makes_them(tmp_path):
    message = r"No weights for tiny_vit at .*none.*python -m teachers\.pretrain --clip tiny_vit"
    with pytest.raises(PivlError, match=message):
        load_clip("tiny_vit", str(tmp_path / "none"), SIZE_HW)


def test_weights_of_another_model_are_refused(make_clip, table, tmp_path):
    save_tiny_clip(make_clip("tiny_vit"), tmp_path / "vit", table, {})
    with pytest.raises(PivlError, match="holds tiny_vit, not tiny_rn"):
        load_clip("tiny_rn", str(tmp_path / "vit"), SIZE_HW)
    save_tensors(tmp_path / "student", "student", {"weight": torch.zeros(1)}, {})
    with pytest.raises(PivlError, match=f"is not a {TINY_KIND}, but a student"):
        load_clip("tiny_rn", str(tmp_path / "student"), SIZE_HW)
