"""Files with the layer names of torchvision and EfficientNet-PyTorch compute the same in timm."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pivl_distill.errors import PivlError
from students.backbones import create_backbone
from students.published_names import (
    TENSORFLOW_EPSILON,
    TORCH_EPSILON,
    convert_to_timm_names,
    recognise,
    suggest_arch,
)

SIZE_HW = (64, 32)
EFFICIENTNET_B0 = {
    "features.0.0.weight": (32, 3, 3, 3),
    "features.0.1.running_var": (32,),
    "features.1.0.block.0.0.weight": (32, 1, 3, 3),
    "features.1.0.block.1.fc1.weight": (8, 32, 1, 1),
}
"""The first tensors of a file."""


@pytest.fixture
def torchvision_model() -> Callable[[str], Any]:
    """`torchvision_model(name)` returns a random network with random batch statistics."""
    models = pytest.importorskip("torchvision.models")

    def make(name: str) -> Any:
        torch.manual_seed(0)
        network = models.get_model(name)
        for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.normal_(norm.bias, std=0.1)
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.01, 0.1)  # so small that ε matters
        return network.eval()

    return make


def torchvision_features(network: Any, images: Tensor) -> Tensor:
    """Return what the last linear layer of a torchvision network gets."""
    inputs: list[Tensor] = []
    last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    network(images)
    return inputs[0]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("mobilenet_v2", "mobilenetv2_100"),
        ("mobilenet_v3_small", "mobilenetv3_small_100"),
        ("mobilenet_v3_large", "mobilenetv3_large_100"),
        ("efficientnet_b0", "efficientnet_b0"),
        ("resnet18", "resnet18"),
    ],
)
def test_torchvisions_networks_compute_the_same(name, arch, torchvision_model, tmp_path):
    published = torchvision_model(name)
    state = published.state_dict()
    save_file(dict(reversed(state.items())), tmp_path / "file.safetensors")
    network = create_backbone(
        arch, image_size_hw=SIZE_HW, pretrained=tmp_path / "file.safetensors", last_stride=2
    )
    images = torch.randn(2, 3, *SIZE_HW)
    expected = torchvision_features(published, images)
    assert (network.eval()(images) - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize(
    ("name", "epsilon"),
    [
        ("efficientnet_b0", TORCH_EPSILON),
        ("efficientnet_b4", TORCH_EPSILON),
        ("efficientnet_b5", TENSORFLOW_EPSILON),
        ("efficientnet_v2_s", TENSORFLOW_EPSILON),
        ("mobilenet_v3_small", TENSORFLOW_EPSILON),
        ("mobilenet_v2", TORCH_EPSILON),
    ],
)
def test_epsilon_of_torchvisions_batch_norms(name, epsilon):
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        network = models.get_model(name)
    state = network.state_dict()
    naming = recognise(state)
    assert naming is not None
    assert naming.epsilon({key.rpartition(".")[0] for key in state}) == epsilon
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {epsilon}


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


def load(path: Path, arch: str) -> Any:
    return create_backbone(arch, image_size_hw=SIZE_HW, pretrained=path, last_stride=2).eval()


@pytest.mark.parametrize("arch", ["tf_efficientnet_lite0", "tf_efficientnet_b0"])
def test_efficientnet_pytorch_file_loads_under_its_names(arch, tmp_path, caplog):
    network = timm.create_model(arch).eval()
    state = efficientnet_pytorch_names(network.state_dict())
    for number, tensor in enumerate(t for t in state.values() if t.ndim == 1):
        tensor += number / 1000  # layers of equal shape differ
    save_file(dict(sorted(state.items())), tmp_path / "file.safetensors")
    images = torch.randn(2, 3, *SIZE_HW)
    expected = network.forward_head(network.forward_features(images), pre_logits=True)
    assert torch.equal(load(tmp_path / "file.safetensors", arch)(images), expected)
    assert caplog.text == ""


def test_a_network_without_tensorflows_padding_is_warned_of(tmp_path, caplog):
    state = efficientnet_pytorch_names(timm.create_model("efficientnet_lite0").state_dict())
    torch.save(state, tmp_path / "file.pth")
    with caplog.at_level(logging.WARNING):
        network = load(tmp_path / "file.pth", "efficientnet_lite0")
    assert "set arch to tf_efficientnet_lite0, which has it" in caplog.text
    variance = network.bn1.running_var - state["_bn0.running_var"]
    assert variance == pytest.approx(TENSORFLOW_EPSILON - network.bn1.eps, rel=1e-2)


def test_unknown_layer_in_an_efficientnet_file_is_rejected(tmp_path):
    state = efficientnet_pytorch_names(timm.create_model("tf_efficientnet_lite0").state_dict())
    torch.save(state | {"_blocks.3._extra.weight": torch.zeros(3)}, tmp_path / "more.pth")
    with pytest.raises(PivlError, match="does not fit the architecture"):
        load(tmp_path / "more.pth", "tf_efficientnet_lite0")


@pytest.mark.parametrize("arch", ["mobilenetv3_small_100", "resnet18", "mobilenetv2_025"])
def test_a_file_of_another_network_is_refused_with_the_one_it_fits(arch, tmp_path):
    state = efficientnet_pytorch_names(timm.create_model("tf_efficientnet_lite1").state_dict())
    torch.save(state, tmp_path / "file.pth")
    message = r"names of EfficientNet-PyTorch\. Set arch to tf_efficientnet_lite1, which it fits"
    with pytest.raises(PivlError, match=message):
        load(tmp_path / "file.pth", arch)


def test_a_file_that_fits_no_network_is_refused_with_its_family():
    state = {name: torch.zeros(shape) for name, shape in EFFICIENTNET_B0.items()}
    assert "such as efficientnet_b0; it fits none of timm's." in suggest_arch(state)
    assert suggest_arch({"conv1.weight": torch.zeros(1)}).startswith("Set arch to the arch")


def test_names_of_timm_stay():
    network = timm.create_model("mobilenetv2_025", num_classes=0)
    state = network.state_dict()
    assert recognise(state) is None
    assert convert_to_timm_names(state, network) is state
