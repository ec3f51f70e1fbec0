"""Loading a CLIP: names, crop sizes, weights, and models that are refused."""

from __future__ import annotations

import dataclasses

import open_clip
import pytest
import torch
from open_clip.model import CLIP

from pivl_distill.errors import PivlError
from pivl_distill.storage.tensors import save_tensors
from teachers.clip import Clip
from teachers.clip_loading import load_clip
from teachers.image_encoders import ResNetImageEncoder, ViTImageEncoder, ViTOptions
from teachers.tiny_clip import TINY, TINY_KIND, save_tiny_clip

SIZE_HW = (128, 64)
SMALL_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
SMALL = {
    "small-rn": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "small-vit": {"image_size": 64, "layers": 2, "width": 16, "patch_size": 16, "head_width": 8},
    "small-rn101": {"image_size": 64, "layers": [1, 1, 3, 1], "width": 8, "head_width": 32},
    "small-vit-l-14": {
        "image_size": 56,
        "layers": 3,
        "width": 24,
        "patch_size": 14,
        "head_width": 8,
    },
    "small-average": {
        "image_size": 64,
        "layers": 1,
        "width": 16,
        "patch_size": 16,
        "head_width": 8,
        "pool_type": "avg",
    },
    "small-attentional": {
        "image_size": 64,
        "layers": 1,
        "width": 16,
        "patch_size": 16,
        "head_width": 8,
        "attentional_pool": True,
        "attn_pooler_heads": 4,
    },
    "small-timm": {
        "image_size": 64,
        "timm_model_name": "resnet10t",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
    },
}


@pytest.fixture
def open_clip_models(monkeypatch):
    """Small configurations in open_clip's own registry."""
    configs = {
        name: {"embed_dim": 12, "vision_cfg": vision, "text_cfg": SMALL_TEXT}
        for name, vision in SMALL.items()
    }
    for name, text in {
        "eos": {"pool_type": "eos", "eos_id": 2},
        "cls": {"embed_cls": True},
    }.items():
        configs[f"small-{name}"] = configs["small-vit"] | {"text_cfg": SMALL_TEXT | text}
    configs["small-cls"]["custom_text"] = True
    for name, config in configs.items():
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)


def images() -> torch.Tensor:
    return torch.randn(2, 3, *SIZE_HW, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def answers(clip: Clip) -> list[torch.Tensor]:
    texts = clip.text.encode(["a photo of a person", "hat"])
    return [clip.image(images()).projected, clip.image.joint_tokens(images()), texts]


@pytest.mark.parametrize(
    ("name", "encoder", "grid_hw"),
    [("tiny_rn", ResNetImageEncoder, (16, 8)), ("tiny_vit", ViTImageEncoder, (16, 8))],
)
def test_embedded_architectures_have_a_16_by_8_grid(make_clip, name, encoder, grid_hw):
    clip = make_clip(name)
    assert isinstance(clip.image, encoder)
    assert clip.image.grid_hw == grid_hw
    assert clip.size_hw == SIZE_HW
    projected, tokens, texts = answers(clip)
    assert projected.shape == texts.shape == (2, clip.image.dim) == (2, clip.text.dim)
    assert tokens.shape == (2, 1 + 16 * 8, clip.image.dim)
    assert clip.image.kind == ("cnn" if name == "tiny_rn" else "vit")


@pytest.mark.parametrize("name", TINY)
def test_what_was_saved_in_half_precision_is_loaded(make_clip, table, tmp_path, name):
    clip = make_clip(name)
    path = tmp_path / "clip.safetensors"
    save_tiny_clip(clip, path, table, {"recipe": {"seed": 1}})
    first, second = (load_clip(name, str(path), SIZE_HW).freeze() for _ in range(2))
    for ours, saved in zip(answers(first), answers(clip), strict=True):
        torch.testing.assert_close(ours, saved, rtol=0.02, atol=0.02)
    for one, other in zip(answers(first), answers(second), strict=True):
        assert torch.equal(one, other)
    assert first.logit_scale.item() == pytest.approx(clip.logit_scale.item(), abs=1e-3)
    assert first.weights_sha256 == second.weights_sha256


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


def test_random_weights_cover_the_vocabulary_of_synthetic_people():
    clip = load_clip("tiny_rn", "none", SIZE_HW)
    ids = clip.text.tokenizer.encode("a photo of a person wearing upper clothes and navy socks")
    assert 0 not in ids
    assert len(clip.weights_sha256) == 64


def test_freeze_disables_gradients_and_batch_norm_updates(make_clip):
    clip = make_clip()
    for encoder in (clip.image, clip.text):
        assert not encoder.training
        assert not any(p.requires_grad for p in encoder.parameters())
    before = answers(clip)
    clip.image(images())
    for one, other in zip(before, answers(clip), strict=True):
        assert torch.equal(one, other)
    assert dataclasses.replace(clip).to(torch.device("cpu")).image is clip.image


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(PivlError, match="Unknown CLIP 'tiny_rm'; did you mean 'tiny_rn'"):
        load_clip("tiny_rm", "embedded", SIZE_HW)
    with pytest.raises(PivlError, match="Unknown CLIP 'RN5'; did you mean 'RN50"):
        load_clip("RN5", "openai", (256, 128))


def test_embedded_models_read_one_size():
    with pytest.raises(PivlError, match="tiny_rn reads crops of 128×64 only, not 256×128"):
        load_clip("tiny_rn", "embedded", (256, 128))


def test_missing_weights_say_how_to_make_them(tmp_path):
    message = r"No weights for tiny_vit at .*none.*python -m teachers\.pretrain --clip tiny_vit"
    with pytest.raises(PivlError, match=message):
        load_clip("tiny_vit", str(tmp_path / "none"), SIZE_HW)


def test_weights_of_another_model_are_named(make_clip, table, tmp_path):
    save_tiny_clip(make_clip("tiny_vit"), tmp_path / "vit", table, {})
    with pytest.raises(PivlError, match="holds tiny_vit, not tiny_rn"):
        load_clip("tiny_rn", str(tmp_path / "vit"), SIZE_HW)
    save_tensors(tmp_path / "student", "student", {"weight": torch.zeros(1)}, {})
    with pytest.raises(PivlError, match=f"is not a {TINY_KIND}, but a student"):
        load_clip("tiny_rn", str(tmp_path / "student"), SIZE_HW)


@pytest.mark.parametrize("name", ["small-rn", "small-vit"])
def test_an_open_clip_model_is_split_into_its_encoders(open_clip_models, tmp_path, name):
    clip = load_clip(name, "none", SIZE_HW).freeze()
    assert clip.image.grid_hw == (8, 4)
    assert clip.mean == ((0.5, 0.5, 0.5) if name == "small-vit" else (0.485, 0.456, 0.406))
    projected, tokens, _ = answers(clip)
    assert tokens.shape == (2, 33, 12)
    torch.testing.assert_close(tokens[:, 0], projected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["small-rn", "small-vit"])
def test_an_open_clip_model_takes_its_weights_from_a_file(open_clip_models, tmp_path, name):
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
def test_other_depths_and_patches_fit_too(open_clip_models, name, grid_hw):
    clip = load_clip(name, "none", SIZE_HW).freeze()
    assert clip.image.grid_hw == grid_hw
    projected, tokens, _ = answers(clip)
    assert tokens.shape == (2, 1 + grid_hw[0] * grid_hw[1], 12)
    torch.testing.assert_close(tokens[:, 0], projected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["small-average", "small-attentional"])
def test_an_image_that_is_not_read_from_the_class_token_is_refused(open_clip_models, name):
    with pytest.raises(PivlError, match=f"{name} does not read its image from the class token"):
        load_clip(name, "none", SIZE_HW)


def test_a_resnet_takes_neither_stride_nor_cameras(open_clip_models):
    with pytest.raises(PivlError, match="small-rn is a ResNet; overlapping patches"):
        load_clip("small-rn", "none", SIZE_HW, ViTOptions(stride=12))


def test_a_vit_may_overlap_its_patches_and_know_cameras(open_clip_models):
    clip = load_clip("small-vit", "none", SIZE_HW, ViTOptions(12, 3)).freeze()
    assert clip.image.grid_hw == (10, 5)
    plain, seen = clip.image(images()), clip.image(images(), torch.tensor([0, 2]))
    assert not torch.equal(plain.projected, seen.projected)
    other = load_clip("small-vit", "none", SIZE_HW)
    assert len({clip.weights_sha256, other.weights_sha256}) == 2


def test_unsupported_image_encoder_is_refused(open_clip_models):
    with pytest.raises(PivlError, match=r"small-timm has a TimmModel .* can be teachers"):
        load_clip("small-timm", "none", SIZE_HW)


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
def test_other_open_clip_models_are_supported(name, grid_hw, dim):
    with torch.device("meta"):
        image = load_clip(name, "none", (256, 128)).image
        tokens = image.joint_tokens(torch.zeros(1, 3, 256, 128))
    assert image.grid_hw == grid_hw
    assert tokens.shape == (1, 1 + grid_hw[0] * grid_hw[1], dim)


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


@pytest.mark.parametrize("name", ["small-eos", "small-cls"])
def test_unsupported_text_encoder_is_refused(open_clip_models, name):
    with pytest.raises(PivlError, match=f"{name} does not read its text as CLIP does"):
        load_clip(name, "none", SIZE_HW)


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
def test_published_weights_get_the_activation_they_were_made_with(monkeypatch, name, tag, built):
    asked = []

    def unreachable(model_name, **_settings):
        asked.append(model_name)
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "create_model", unreachable)
    with pytest.raises(PivlError, match=f"Could not load {built} with weights '{tag}': no network"):
        load_clip(name, tag, (256, 128))
    assert asked == [built]


def test_only_the_tiny_models_are_embedded():
    with pytest.raises(PivlError, match=r"RN50 is not embedded; set clip\.weights to"):
        load_clip("RN50", "embedded", (256, 128))


def test_unknown_tag_lists_the_known_ones(open_clip_models):
    with pytest.raises(PivlError, match=r"Could not load small-rn with weights 'opanai'"):
        load_clip("small-rn", "opanai", SIZE_HW)
