"""Weights files load completely or not at all, under timm's names or the publisher's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

import students
from pivl_distill.errors import PivlError
from students.backbones import create_backbone
from students.pretrained import resize_tables

SIZE_HW = (64, 32)
MOBILENET = "mobilenetv2_025"


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    """Return a network with its 1000-way classifier and random batch statistics."""
    torch.manual_seed(0)
    network = timm.create_model(MOBILENET)
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
    return network.eval()


def load(path: Path | str, name: str = MOBILENET) -> nn.Module:
    return create_backbone(name, image_size_hw=SIZE_HW, pretrained=str(path), last_stride=2).eval()


def assert_same_features(backbone: nn.Module, classifier: nn.Module) -> None:
    images = torch.randn(2, 3, *SIZE_HW)
    expected = classifier.forward_head(classifier.forward_features(images), pre_logits=True)
    assert torch.equal(backbone(images), expected)


def test_safetensors_load_with_and_without_classifier(classifier, tmp_path):
    state = classifier.state_dict()
    save_file(state, tmp_path / "with.safetensors")
    body = {k: v for k, v in state.items() if not k.startswith("classifier.")}
    save_file(body, tmp_path / "without.safetensors")
    for file in ("with.safetensors", "without.safetensors"):
        assert_same_features(load(tmp_path / file), classifier)


def published_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors as in d-li14/mobilenetv2.pytorch: features.N.conv.M, conv.M, classifier."""
    renamed = {}
    for key, value in state.items():
        module, _, field = key.rpartition(".")
        *block, layer = module.split(".")
        if module in ("conv_stem", "bn1"):
            new = f"features.0.{int(layer == 'bn1')}"
        elif module in ("conv_head", "bn2"):
            new = f"conv.{int(layer == 'bn2')}"
        elif module == "classifier":
            new = module
        else:
            first = block == ["blocks", "0", "0"]
            layers = (
                ["conv_dw", "bn1", "", "conv_pw", "bn2"]
                if first
                else ["conv_pw", "bn1", "", "conv_dw", "bn2", "", "conv_pwl", "bn3"]
            )
            blocks_before = sum((1, 2, 3, 4, 3, 3, 1)[: int(block[1])])
            number = 1 + blocks_before + int(block[2])
            new = f"features.{number}.conv.{layers.index(layer)}"
        renamed[f"{new}.{field}"] = value
    return renamed


def test_published_mobilenet_file_loads_under_its_names(classifier, tmp_path):
    path = tmp_path / "published.pth"
    torch.save(published_names(classifier.state_dict()), path)
    assert_same_features(load(path), classifier)


def test_published_file_loads_in_any_tensor_order(classifier, tmp_path):
    path = tmp_path / "published.safetensors"
    save_file(dict(sorted(published_names(classifier.state_dict()).items())), path)
    assert_same_features(load(path), classifier)


def test_published_mobilenet_file_loads_from_python(classifier, tmp_path):
    path = tmp_path / "mobilenetv2_0.25-b61d2159.pth"
    torch.save(published_names(classifier.state_dict()), path)
    network = students.create_backbone(MOBILENET, pretrained=path)
    assert isinstance(network, EfficientNet)
    assert torch.equal(
        network.blocks[6][0].bn3.running_mean, classifier.blocks[6][0].bn3.running_mean
    )
    assert network.eval()(torch.zeros(1, 3, 256, 128)).shape == (1, 1280)


def test_snippet_in_the_documentation_runs(classifier, tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "checkpoints.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    torch.save(published_names(classifier.state_dict()), tmp_path / "mobilenetv2_0.25.pth")
    monkeypatch.chdir(tmp_path)
    variables: dict[str, nn.Module] = {}
    exec(code, variables)
    assert isinstance(variables["network"], EfficientNet)
    assert torch.equal(variables["network"].conv_stem.weight, classifier.conv_stem.weight)


def test_extra_tensor_in_the_published_file_is_rejected(classifier, tmp_path):
    state = published_names(classifier.state_dict())
    state["features.18.conv.0.weight"] = torch.zeros(3, 3, 1, 1)
    torch.save(state, tmp_path / "more.pth")
    with pytest.raises(PivlError, match="does not fit the architecture"):
        load(tmp_path / "more.pth")


def test_position_embeddings_are_interpolated(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", img_size=64)
    path = tmp_path / "vit.safetensors"
    save_file(network.state_dict(), path)
    loaded = load(path, "vit_tiny_patch16_224")
    assert loaded.pos_embed.shape == (1, 1 + 4 * 2, 192)
    assert torch.equal(loaded.pos_embed[:, 0], network.pos_embed[:, 0])
    assert torch.equal(loaded.blocks[3].attn.qkv.weight, network.blocks[3].attn.qkv.weight)


def test_position_embeddings_keep_the_aspect_ratio_of_the_network(tmp_path):
    """8×4 patches of a network that was trained on crops as tall become 4×2."""
    network = timm.create_model("vit_tiny_patch16_224", img_size=(128, 64))
    tall = torch.linspace(0, 1, 8)[:, None].expand(8, 4).reshape(1, 32, 1)
    with torch.no_grad():
        network.pos_embed[:, 1:] = tall
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    resized = load(tmp_path / "vit.safetensors", "vit_tiny_patch16_224").pos_embed[0, 1:, 0]
    columns = resized.reshape(4, 2)
    assert torch.allclose(columns[:, 0], columns[:, 1], atol=1e-5)
    assert (columns[1:, 0] > columns[:-1, 0]).all()


def test_position_embeddings_of_an_unknown_grid_are_rejected(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", img_size=(96, 32))
    path = tmp_path / "vit.safetensors"
    save_file(network.state_dict(), path)
    with pytest.raises(PivlError, match=r"pos_embed is \(1, 13, 192\), not \(1, 9, 192\)"):
        load(path, "vit_tiny_patch16_224")


def test_relative_positions_and_patch_kernels_are_resized_by_timm():
    settings = {"img_size": 64, "num_classes": 0, "embed_dim": 8, "depths": (1, 1, 1, 1)}
    settings["num_heads"] = (1, 1, 1, 1)
    small, large = (
        timm.create_model("swin_tiny_patch4_window7_224", **settings, window_size=window)
        for window in (4, 8)
    )
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    resized = resize_tables(small.state_dict(), large)
    assert resized[name].shape == large.state_dict()[name].shape != small.state_dict()[name].shape
    large.load_state_dict(resized)


def test_tables_that_timm_cannot_convert_stay():
    network = timm.create_model("vit_tiny_patch16_224", img_size=64)
    state = {"patch_embed.proj.weight": torch.zeros(1), "conv.weight": torch.zeros(1)}
    assert resize_tables(state, network) == state


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_missing_unexpected_and_misshapen_tensors_are_named(classifier, tmp_path, change):
    state = dict(classifier.state_dict())
    if change == "missing":
        del state["conv_stem.weight"]
    elif change == "extra":
        state["conv_stem_2.weight"] = torch.zeros(1)
    else:
        state["conv_stem.weight"] = torch.zeros(9, 3, 3, 3)
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    with pytest.raises(PivlError, match=r"1 tensor differs: .*conv_stem"):
        load(path)


def test_error_names_at_most_five_tensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), path)
    with pytest.raises(PivlError) as error:
        load(path)
    assert str(error.value).count(";") == 4


def test_missing_and_unreadable_files_raise(tmp_path):
    with pytest.raises(PivlError, match="There are no weights at"):
        load(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(PivlError, match="not a readable weights file"):
        load(tmp_path / "text.pth")


@pytest.mark.parametrize("key", ["state_dict", "model", "ema"])
def test_wrapped_weights_with_prefixes_load(classifier, tmp_path, key):
    state = {f"module.{name}": value for name, value in classifier.state_dict().items()}
    torch.save({"epoch": 3, key: state, "optimizer": {"state": {}}}, tmp_path / "file.pth.tar")
    assert_same_features(load(tmp_path / "file.pth.tar"), classifier)


def test_another_prefix_is_refused_and_named(classifier, tmp_path):
    state = {f"backbone.{name}": value for name, value in classifier.state_dict().items()}
    torch.save(state, tmp_path / "file.pth")
    message = r"does not fit the architecture.* All names begin with 'backbone\.' and would fit"
    with pytest.raises(PivlError, match=message):
        load(tmp_path / "file.pth")


def test_pickled_objects_are_never_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harmed",))

    torch.save({"state_dict": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(PivlError, match="holds more than tensors"):
        load(tmp_path / "harmful.pth")
    assert not (tmp_path / "harmed").exists()


def test_failed_download_error_suggests_a_file(monkeypatch):
    def offline(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(PivlError, match=r"Set pretrained to a \.safetensors or \.pth file"):
        load("timm")
