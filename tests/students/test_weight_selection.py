"""Weight selection: channels are chosen as plain loops choose them, and consistently."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from pivl_distill.errors import PivlError
from students.backbones import create_backbone
from students.weight_selection import is_wider, select_channels

SIZE_HW = (64, 32)
HEADS = ("classifier.",)
PAIRS = [
    ("mobilenetv2_100", "mobilenetv2_025"),
    ("mobilenetv2_050", "mobilenetv2_035"),
    ("mobilenetv3_small_100", "mobilenetv3_small_050"),
]
"""Wide network, narrow network."""


def build(name: str) -> Any:
    """A network in evaluation mode with random weights and random batch norms."""
    torch.manual_seed(len(name))
    network = timm.create_model(name, num_classes=0)
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
            tensor.normal_()
    return network.eval()


def blocks_of(network: Any) -> list[Any]:
    return [block for stage in network.blocks for block in stage]


def channel_groups(network: Any) -> dict[str, tuple[str, str | None]]:
    """Layer → the groups of channels that its outputs and inputs belong to, block by block."""
    groups: dict[str, tuple[str, str | None]] = {"conv_stem": ("stem", None), "bn1": ("stem", None)}
    stream = "stem"
    for s, stage in enumerate(network.blocks):
        for b, block in enumerate(stage):
            at = f"blocks.{s}.{b}"
            out = stream if block.has_skip else f"{at} out"
            inner, last, norms = stream, "conv_pw", ("bn1", "bn2")
            if hasattr(block, "conv_pwl"):
                inner, last, norms = f"{at} hidden", "conv_pwl", ("bn2", "bn3")
                groups |= {f"{at}.conv_pw": (inner, stream), f"{at}.bn1": (inner, None)}
            if hasattr(block, "conv_dw"):
                groups |= {f"{at}.conv_dw": (inner, None), f"{at}.{norms[0]}": (inner, None)}
                groups |= {f"{at}.{last}": (out, inner), f"{at}.{norms[1]}": (out, None)}
                groups[f"{at}.se.conv_reduce"] = (f"{at} se", inner)
                groups[f"{at}.se.conv_expand"] = (inner, f"{at} se")
            else:
                groups |= {f"{at}.conv": (out, stream), f"{at}.bn1": (out, None)}
            stream = out
    return groups | {"conv_head": ("head", stream), "bn2": ("head", None)}


def group_sizes(network: Any, groups: dict[str, tuple[str, str | None]]) -> dict[str, int]:
    state = network.state_dict()
    return {
        rows: len(state[f"{layer}.weight"])
        for layer, (rows, _) in groups.items()
        if f"{layer}.weight" in state
    }


def naive_selection(wide: Any, narrow: Any) -> dict[str, Tensor]:
    """Select by loops: one choice per group, by the filters of the layer that first makes it."""
    state, groups = wide.state_dict(), channel_groups(wide)
    counts = group_sizes(narrow, groups)
    kept: dict[str, list[int]] = {}
    for layer, (rows, _) in groups.items():
        if rows not in kept and f"{layer}.weight" in state:
            norms = [float(sum(map(abs, f.flatten().tolist()))) for f in state[f"{layer}.weight"]]
            ranked = sorted(range(len(norms)), key=lambda i: -norms[i])
            kept[rows] = sorted(ranked[: counts[rows]])
    selected = {}
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        rows, columns = groups[layer]
        if tensor.ndim == 0:
            selected[name] = tensor
            continue
        parts = [tensor[i] for i in kept[rows]]
        if leaf == "weight" and columns:
            parts = [torch.stack([part[j] for j in kept[columns]]) for part in parts]
        selected[name] = torch.stack(parts)
    return selected


@pytest.mark.parametrize(("wide", "narrow"), PAIRS)
def test_selection_equals_plain_loops(wide: str, narrow: str) -> None:
    source, target = build(wide), build(narrow)
    assert is_wider(source.state_dict(), target, HEADS)
    selected = select_channels(source.state_dict(), target)
    expected = naive_selection(source, target)
    assert selected.keys() == expected.keys() == target.state_dict().keys()
    assert [name for name in expected if not torch.equal(selected[name], expected[name])] == []
    target.load_state_dict(selected)


def embed(narrow: Any, wide: Any) -> None:
    """Give `wide` the weights of `narrow` at random channels; all its other channels are zero."""
    groups = channel_groups(wide)
    own, sizes = group_sizes(narrow, groups), group_sizes(wide, groups)
    at = {group: torch.randperm(sizes[group])[: own[group]].sort().values for group in own}
    state = wide.state_dict()
    for name, tensor in narrow.state_dict().items():
        layer, _, leaf = name.rpartition(".")
        rows, columns = groups[layer]
        target = state[name].fill_(leaf == "running_var")
        if leaf == "weight" and columns:
            target[at[rows][:, None], at[columns]] = tensor
        elif tensor.ndim:
            target[at[rows]] = tensor


@pytest.mark.parametrize(("wide", "narrow"), PAIRS)
def test_network_embedded_in_a_wider_one_is_recovered(wide: str, narrow: str) -> None:
    small, large, recovered = build(narrow), build(wide), build(narrow)
    for network in (small, recovered):  # rounding can make the widths of two stages equal
        for own, other in zip(blocks_of(network), blocks_of(large), strict=True):
            own.has_skip = other.has_skip
    embed(small, large)
    recovered.load_state_dict(select_channels(large.state_dict(), recovered))
    images = torch.randn(2, 3, *SIZE_HW)
    with torch.no_grad():
        torch.testing.assert_close(large(images), small(images), rtol=1e-4, atol=1e-4)
        assert torch.equal(recovered(images), small(images))


def test_equal_widths_are_not_wider_and_select_everything() -> None:
    network = build("mobilenetv3_small_050")
    state = network.state_dict()
    assert not is_wider(state, network, HEADS)
    selected = select_channels(state, network)
    assert all(torch.equal(selected[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("mobilenetv2_035", "mobilenetv2_050"),  # narrower
        ("mobilenetv2_110d", "mobilenetv2_100"),  # deeper
        ("efficientnet_lite0", "mobilenetv2_025"),  # other kernels and depth
        ("wide_resnet50_2", "resnet50"),  # another kind of network
        ("mobilenetv4_conv_medium", "mobilenetv4_conv_small"),  # blocks of another form
    ],
)
def test_other_networks_are_not_wider(source: str, target: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(source, num_classes=0).state_dict()
        assert not is_wider(state, timm.create_model(target, num_classes=0), HEADS)


def load(path: Path, name: str = "mobilenetv2_025") -> Any:
    return create_backbone(name, image_size_hw=SIZE_HW, pretrained=path, last_stride=2).eval()


def test_file_of_a_wider_network_initialises_a_narrower_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wide = timm.create_model("mobilenetv2_100")
    path = tmp_path / "wide.safetensors"
    save_file(wide.state_dict(), path)
    with caplog.at_level(logging.INFO, "students"):
        network = load(path)
    assert caplog.messages[-1].endswith("largest weights: 17,056 → 5,328 in all convolutions.")
    expected = naive_selection(timm_body(wide), network)
    assert all(torch.equal(v, expected[k]) for k, v in network.state_dict().items())


def timm_body(classifier: nn.Module) -> nn.Module:
    """The same network without its classifier."""
    body = timm.create_model("mobilenetv2_100", num_classes=0)
    state = classifier.state_dict()
    body.load_state_dict({k: v for k, v in state.items() if not k.startswith(HEADS)})
    return body


def test_torchvision_file_loads_at_its_width_and_narrower(tmp_path: Path) -> None:
    published = torchvision.models.mobilenet_v2().eval()
    path = tmp_path / "mobilenet_v2.pth"
    torch.save(published.state_dict(), path)
    images = torch.randn(2, 3, *SIZE_HW)
    same = load(path, "mobilenetv2_100")
    with torch.no_grad():
        features = published.features(images).mean((2, 3))
        torch.testing.assert_close(same(images), features, rtol=1e-4, atol=1e-5)
    expected = naive_selection(same, load(path))
    assert all(torch.equal(v, expected[k]) for k, v in load(path).state_dict().items())


@pytest.mark.parametrize("damage", ["missing", "kernel", "narrower layer"])
def test_file_that_does_not_correspond_is_refused(tmp_path: Path, damage: str) -> None:
    state = dict(timm.create_model("mobilenetv2_100").state_dict())
    if damage == "missing":
        del state["blocks.1.0.bn1.bias"]
    elif damage == "kernel":
        state["blocks.1.0.conv_dw.weight"] = torch.zeros(96, 1, 5, 5)
    else:
        state["conv_head.weight"] = torch.zeros(640, 320, 1, 1)
    path = tmp_path / "wide.safetensors"
    save_file(state, path)
    with pytest.raises(PivlError, match="does not fit the architecture"):
        load(path)
