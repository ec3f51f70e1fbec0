"""open_clip models: architectures, weights by tag or file, and tags that fail."""

from __future__ import annotations

import open_clip
import pytest
import torch
from open_clip.model import CLIP

from clip_outputs import SIZE_HW, clip_outputs
from pivl_distill.errors import PivlError
from teachers.clip_loading import load_clip


@pytest.mark.parametrize("name", ["small-rn", "small-vit"])
def test_class_token_of_the_joint_tokens_is_the_projected_feature(open_clip_models, tmp_path, name):
    clip = load_clip(name, "none", SIZE_HW).freeze()
    assert clip.image.grid_hw == (8, 4)
    assert clip.mean == ((0.5, 0.5, 0.5) if name == "small-vit" else (0.485, 0.456, 0.406))
    projected, tokens, _ = clip_outputs(clip)
    assert tokens.shape == (2, 33, 12)
    torch.testing.assert_close(tokens[:, 0], projected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["small-rn", "small-vit"])
def test_weights_are_loaded_from_a_local_file(open_clip_models, tmp_path, name):
    published: CLIP = open_clip.create_model(name).eval()
    torch.save(published.state_dict(), tmp_path / "weights.pt")
    clip = load_clip(name, str(tmp_path / "weights.pt"), SIZE_HW).freeze()
    expected = published.encode_text(open_clip.get_tokenizer("RN50")(["a photo of a person"]))
    texts = clip.text.encode(["a photo of a person"])
    torch.testing.assert_close(texts, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(
        clip.image.visual.conv1.parameters(), published.visual.conv1.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("name", "grid_hw"), [("small-rn101", (8, 4)), ("small-vit-l-14", (9, 4))])
def test_other_depths_and_patch_sizes_are_supported(open_clip_models, name, grid_hw):
    clip = load_clip(name, "none", SIZE_HW).freeze()
    assert clip.image.grid_hw == grid_hw
    projected, tokens, _ = clip_outputs(clip)
    assert tokens.shape == (2, 1 + grid_hw[0] * grid_hw[1], 12)
    torch.testing.assert_close(tokens[:, 0], projected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "grid_hw", "dim"),
    [
        ("RN101", (16, 8), 512),
        ("RN50x4", (16, 8), 640),
        ("ViT-B-32", (8, 4), 512),
        ("ViT-L-14", (18, 9), 768),
        ("ViT-H-14", (18, 9), 1024),
    ],
)
def test_other_published_architectures_are_supported(name, grid_hw, dim):
    with torch.device("meta"):
        image = load_clip(name, "none", (256, 128)).image
        tokens = image.joint_tokens(torch.zeros(1, 3, 256, 128))
    assert image.grid_hw == grid_hw
    assert tokens.shape == (1, 1 + grid_hw[0] * grid_hw[1], dim)


@pytest.mark.parametrize(
    ("name", "tag", "built"),
    [
        ("RN50", "openai", "RN50-quickgelu"),
        ("ViT-B-16", "openai", "ViT-B-16-quickgelu"),
        ("RN50-quickgelu", "openai", "RN50-quickgelu"),
        ("ViT-B-16", "laion2b_s34b_b88k", "ViT-B-16"),
        ("ViT-B-16", "none", "ViT-B-16"),
    ],
)
def test_openai_tag_selects_quickgelu(monkeypatch, name, tag, built):
    built_names = []

    def raise_offline(model_name, **_settings):
        built_names.append(model_name)
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "create_model", raise_offline)
    with pytest.raises(PivlError, match=f"Could not load {built} with weights '{tag}': no network"):
        load_clip(name, tag, (256, 128))
    assert built_names == [built]


def test_open_clip_models_have_no_embedded_weights():
    with pytest.raises(PivlError, match=r"RN50 is not embedded; set clip\.weights to"):
        load_clip("RN50", "embedded", (256, 128))


def test_unknown_tag_is_an_error(open_clip_models):
    with pytest.raises(PivlError, match=r"Could not load small-rn with weights 'opanai'"):
        load_clip("small-rn", "opanai", SIZE_HW)
