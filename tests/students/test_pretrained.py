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


def efficientnet_pytorch_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors as in EfficientNet-PyTorch: _conv_stem, _blocks.N._expand_conv, _fc."""
    top = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    expanded = {
        "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
        "conv_pwl": "_project_conv", "bn3": "_bn2",
    }  # fmt: skip
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    squeeze = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
    blocks = list(dict.fromkeys(tuple(k.split(".")[1:3]) for k in state if k.startswith("blocks")))
    renamed = {}
    for key, value in state.items():
        module, _, field = key.rpartition(".")
        if module.startswith("blocks."):
            _, stage, block, layer = module.split(".", 3)
            names = squeeze | (first if stage == "0" else expanded)
            new = f"_blocks.{blocks.index((stage, block))}.{names[layer]}"
        else:
            new = (top | {"classifier": "_fc"})[module]
        renamed[f"{new}.{field}"] = value
    return renamed


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "efficientnet_b0"])
def test_efficientnet_pytorch_file_loads_under_its_names(name, tmp_path):
    network = timm.create_model(name).eval()
    state = efficientnet_pytorch_names(network.state_dict())
    for number, tensor in enumerate(t for t in state.values() if t.ndim == 1):
        tensor += number / 1000  # layers of equal shape differ
    save_file(dict(sorted(state.items())), tmp_path / "published.safetensors")
    assert_same_features(load(tmp_path / "published.safetensors", name), network)


def test_unknown_layer_in_an_efficientnet_file_is_rejected(tmp_path):
    state = efficientnet_pytorch_names(timm.create_model("tf_efficientnet_lite0").state_dict())
    torch.save(state | {"_blocks.3._extra.weight": torch.zeros(3)}, tmp_path / "more.pth")
    with pytest.raises(PivlError, match="does not fit the architecture"):
        load(tmp_path / "more.pth", "tf_efficientnet_lite0")


def test_position_embeddings_are_interpolated(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", img_size=64)
    path = tmp_path / "vit.safetensors"
    save_file(network.state_dict(), path)
    loaded = load(path, "vit_tiny_patch16_224")
    assert loaded.pos_embed.shape == (1, 1 + 4 * 2, 192)
    assert torch.equal(loaded.pos_embed[:, 0], network.pos_embed[:, 0])
    assert torch.equal(loaded.blocks[3].attn.qkv.weight, network.blocks[3].attn.qkv.weight)


def test_position_embeddings_of_an_unknown_grid_are_rejected(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", img_size=(128, 64))
    path = tmp_path / "vit.safetensors"
    save_file(network.state_dict(), path)
    with pytest.raises(PivlError, match=r"pos_embed is \(1, 33, 192\), not \(1, 9, 192\)"):
        load(path, "vit_tiny_patch16_224")


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


def test_pickled_objects_are_never_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harmed",))

    torch.save({"state_dict": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(PivlError, match="not a readable weights file"):
        load(tmp_path / "harmful.pth")
    assert not (tmp_path / "harmed").exists()


def test_failed_download_error_suggests_a_file(monkeypatch):
    def offline(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(PivlError, match=r"Set pretrained to a \.safetensors or \.pth file"):
        load("timm")
