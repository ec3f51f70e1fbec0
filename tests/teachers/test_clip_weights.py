"""Published weights: OpenAI's TorchScript archives, open_clip files, Hugging Face repositories."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import nn

from pivl_distill.errors import PivlError
from teachers import clip_weights
from teachers.clip import Clip
from teachers.clip_loading import load_clip

SIZE_HW = (128, 64)
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VISION = {
    "small-vit": {"image_size": 32, "layers": 2, "width": 16, "patch_size": 16, "head_width": 8},
    "small-rn": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
}


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    for name, vision in VISION.items():
        config = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": TEXT}
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)


def make(name: str, quick: bool) -> CLIP:
    torch.manual_seed(0)
    return open_clip.create_model(name, force_quick_gelu=quick).eval()


def torchscript(clip: CLIP, path: Path) -> None:
    """Write `clip` as OpenAI does: half precision, its own names, and three extra numbers."""
    root = nn.Module()
    for name, child in clip.half().named_children():
        root.add_module(name, tensors_only(child))
    for name in ("positional_embedding", "text_projection", "logit_scale"):
        root.register_parameter(name, getattr(clip, name))
    for name, number in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
        root.register_buffer(name, torch.tensor(number))
    torch.jit.save(torch.jit.script(root), path)


def tensors_only(module: nn.Module) -> nn.Module:
    """Return a module with the tensors of another and no code, which TorchScript can compile."""
    copy = nn.Module()
    for name, child in module.named_children():
        copy.add_module(name, tensors_only(child))
    for name, parameter in module.named_parameters(recurse=False):
        copy.register_parameter(name, parameter)
    for name, buffer in module.named_buffers(recurse=False):
        copy.register_buffer(name, buffer)
    return copy


def quick_gelu(clip: Clip) -> bool:
    return any(isinstance(m, open_clip.transformer.QuickGELU) for m in clip.text.modules())


def text_features_equal(clip: Clip, original: CLIP, tolerance: float = 1e-5) -> bool:
    """Whether both models give a text the same features."""
    expected = original.float().encode_text(open_clip.get_tokenizer("RN50")(["a red hat"]))
    return torch.allclose(clip.text.encode(["a red hat"]), expected, rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("name", VISION)
def test_openai_archive_selects_quickgelu(tmp_path, name):
    original = make(name, quick=True)
    torchscript(original, tmp_path / "ViT-B-32.pt")
    clip = load_clip(name, str(tmp_path / "ViT-B-32.pt"), SIZE_HW).freeze()
    assert clip.name == f"{name}-quickgelu"
    assert quick_gelu(clip)
    assert text_features_equal(clip, original)
    assert {value.dtype for value in clip.image.parameters()} == {torch.float32}
    again = load_clip(clip.name, "none", SIZE_HW)  # a teacher's checkpoint is rebuilt by this name
    assert quick_gelu(again)


@pytest.mark.parametrize("form", ["pt", "safetensors", "epoch"])
def test_open_clip_file_uses_the_activation_of_its_name(tmp_path, form):
    original = make("small-vit", quick=False)
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    if form == "safetensors":
        save_file(original.state_dict(), path)
    elif form == "pt":
        torch.save(original.state_dict(), path)
    else:
        state = {f"module.{name}": value for name, value in original.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": state}, path)
    clip = load_clip("small-vit", str(path), SIZE_HW).freeze()
    assert (clip.name, quick_gelu(clip)) == ("small-vit", False)
    assert text_features_equal(clip, original)
    assert quick_gelu(load_clip("small-vit-quickgelu", str(path), SIZE_HW))


def test_position_embeddings_are_resampled_bilinearly_as_clip_reid_does(tmp_path):
    original = make("small-vit", quick=False)
    torch.save(original.state_dict(), tmp_path / "weights.pt")
    clip = load_clip("small-vit", str(tmp_path / "weights.pt"), SIZE_HW)
    token, grid = original.visual.positional_embedding.detach().split([1, 4])
    square = grid.T.reshape(1, 16, 2, 2)
    resized = nn.functional.interpolate(square, (8, 4), mode="bilinear").reshape(16, 32).T
    ours = clip.image.visual.positional_embedding.detach()
    torch.testing.assert_close(ours, torch.cat([token, resized]))


def test_hub_repository_selects_its_activation(monkeypatch):
    original, calls = make("small-vit", quick=True), []
    state = original.state_dict()
    create = open_clip.create_model

    def create_or_download(name, **settings):
        if not name.startswith("hf-hub:"):
            return create(name, **settings)
        calls.append((name, settings))
        return original

    monkeypatch.setattr(open_clip, "create_model", create_or_download)
    clip = load_clip("small-vit", "hf-hub:people/small", SIZE_HW).freeze()
    assert calls == [("hf-hub:people/small", {"require_pretrained": True})]
    assert clip.name == "small-vit-quickgelu"
    assert torch.equal(clip.image.visual.conv1.weight, state["visual.conv1.weight"])


def test_unreachable_repository_is_an_error(monkeypatch):
    def offline(*_arguments, **_settings):
        raise OSError("no route to host")

    monkeypatch.setattr(clip_weights.open_clip, "create_model", offline)
    with pytest.raises(PivlError, match=r"from hf-hub:people/small \(no route to host\)"):
        load_clip("small-vit", "hf-hub:people/small", SIZE_HW)


def test_weights_of_another_architecture_are_refused(tmp_path):
    torch.save(make("small-rn", quick=False).state_dict(), tmp_path / "weights.pt")
    message = r"does not fit small-vit, \d+ tensors differ: .*Set clip\.name"
    with pytest.raises(PivlError, match=message):
        load_clip("small-vit", str(tmp_path / "weights.pt"), SIZE_HW)


def test_batch_counters_may_be_missing(tmp_path):
    original = make("small-rn", quick=False).state_dict()
    state = {key: v for key, v in original.items() if not key.endswith("num_batches_tracked")}
    assert len(state) < len(original)
    torch.save(state, tmp_path / "weights.pt")
    clip = load_clip("small-rn", str(tmp_path / "weights.pt"), SIZE_HW)
    assert torch.equal(clip.image.visual.bn1.running_var, original["visual.bn1.running_var"])
    del state["visual.bn1.running_var"]
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(PivlError, match=r"1 tensor differs: missing visual\.bn1\.running_var"):
        load_clip("small-rn", str(tmp_path / "weights.pt"), SIZE_HW)


def test_pickled_code_is_not_executed(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"state_dict": Malicious()}, tmp_path / "malicious.pt")
    with pytest.raises(PivlError, match="holds more than tensors"):
        load_clip("small-vit", str(tmp_path / "malicious.pt"), SIZE_HW)
    assert not (tmp_path / "executed").exists()


def test_position_tables_of_another_size_are_resized_by_open_clip(tmp_path, caplog):
    original = make("small-vit", quick=False).state_dict()
    tables = {"visual.positional_embedding": 16, "positional_embedding": 32}
    state = dict(original)
    for name, rows in tables.items():
        extra = name.startswith("visual.")
        state[name] = torch.randn(rows + extra, 16)
    torch.save(state, tmp_path / "weights.pt")
    clip = load_clip("small-vit", str(tmp_path / "weights.pt"), SIZE_HW)
    assert clip.text.positional_embedding.shape == original["positional_embedding"].shape
    class_token = clip.image.visual.positional_embedding[0]
    assert torch.equal(class_token, state["visual.positional_embedding"][0])


@pytest.mark.parametrize(("rows", "width"), [(13, 16), (17, 8)])
def test_position_tables_of_an_unknown_grid_are_refused(tmp_path, rows, width):
    state = make("small-vit", quick=False).state_dict()
    torch.save(state | {"visual.positional_embedding": torch.zeros(rows, width)}, tmp_path / "w.pt")
    with pytest.raises(PivlError, match=r"visual\.positional_embedding is \(\d+, \d+\), not"):
        load_clip("small-vit", str(tmp_path / "w.pt"), SIZE_HW)


def test_the_setting_decides_about_the_activation(tmp_path):
    torch.save(make("small-vit", quick=True).state_dict(), tmp_path / "weights.pt")
    path = str(tmp_path / "weights.pt")
    assert quick_gelu(load_clip("small-vit", path, SIZE_HW, activation="quick_gelu"))
    gelu = load_clip("small-vit-quickgelu", path, SIZE_HW, activation="gelu")
    assert (gelu.name, quick_gelu(gelu)) == ("small-vit", False)
