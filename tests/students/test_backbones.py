"""Backbones: features and maps are those of the bare network, with the documented shapes."""

from __future__ import annotations

import pytest
import timm
import torch

from pivl_distill.errors import PivlError
from students.backbones import Backbone, create_backbone, describe_pooling

SIZE_HW = (128, 64)
MOBILENET = "mobilenetv2_025"
ARCHS = {
    MOBILENET: ("cnn", 1280, (8, 8, 24), [(32, 16), (16, 8), (8, 4)]),
    "resnet18": ("cnn", 512, (64, 128, 256), [(32, 16), (16, 8), (8, 4)]),
    "mobilenetv3_small_050": ("cnn", 1024, (8, 16, 24), [(32, 16), (16, 8), (8, 4)]),
    "vit_tiny_patch16_224": ("vit", 192, (192,) * 3, [(8, 4)] * 3),
}


@pytest.fixture(scope="module", params=ARCHS)
def arch(request) -> tuple[str, Backbone]:
    torch.manual_seed(0)
    network = create_backbone(request.param, image_size_hw=SIZE_HW)
    return request.param, Backbone(network).eval()


def images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, *SIZE_HW, generator=torch.Generator().manual_seed(1))


def last_map_hw(network) -> tuple[int, ...]:
    return tuple(network.eval().forward_features(images()).shape[-2:])


def test_mobilenet_025_has_the_published_size():
    assert MOBILENET in timm.list_models()
    network = timm.create_model(MOBILENET)
    assert sum(p.numel() for p in network.parameters()) == 1_519_112
    assert network.conv_stem.out_channels == 8
    assert network.conv_head.out_channels == 1280


def test_pyramid_has_the_documented_shapes(arch):
    name, backbone = arch
    kind, feature_dim, channels, maps_hw = ARCHS[name]
    output = backbone(images())
    assert (backbone.kind, backbone.feature_dim) == (kind, feature_dim)
    assert backbone.pyramid_channels == channels
    assert output.feature.shape == (2, feature_dim)
    expected = [(2, c, *hw) for c, hw in zip(channels, maps_hw, strict=True)]
    assert [tuple(m.shape) for m in output.pyramid] == expected


def test_pooling_is_described(arch):
    _, backbone = arch
    expected = "class token" if backbone.kind == "vit" else "average over the map"
    assert describe_pooling(backbone.network) == expected
    assert describe_pooling(torch.nn.Identity()) is None


def test_feature_is_what_the_bare_network_returns(arch):
    _, backbone = arch
    assert torch.equal(backbone(images()).feature, backbone.network(images()))


def test_bare_network_has_every_parameter(arch):
    _, backbone = arch
    parameters = {id(p) for p in backbone.parameters()}
    assert parameters == {id(p) for p in backbone.network.parameters()}


def test_gradients_of_the_pyramid_reach_the_first_layer(arch):
    _, backbone = arch
    first = next(p for p in backbone.parameters() if p.ndim == 4)
    for chosen in range(len(backbone.pyramid_channels)):
        backbone.zero_grad()
        backbone(images()).pyramid[chosen].square().mean().backward()
        assert first.grad is not None
        assert first.grad.abs().sum() > 0


@pytest.mark.parametrize("name", [MOBILENET, "resnet18", "resnet50d", "densenet121"])
def test_last_stride_1_keeps_the_final_map_at_stride_16(name):
    finer = create_backbone(name, image_size_hw=SIZE_HW, last_stride=1)
    plain = create_backbone(name, image_size_hw=SIZE_HW, last_stride=2)
    assert last_map_hw(finer) == (8, 4)
    assert last_map_hw(plain) == (4, 2)
    shapes = {k: v.shape for k, v in plain.state_dict().items()}
    assert {k: v.shape for k, v in finer.state_dict().items()} == shapes


def test_auto_last_stride_falls_back_where_1_is_impossible():
    assert last_map_hw(create_backbone(MOBILENET, image_size_hw=SIZE_HW)) == (8, 4)
    assert last_map_hw(create_backbone("convnext_atto", image_size_hw=SIZE_HW)) == (4, 2)


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_unsupported_last_stride_error_says_what_to_set(name):
    with pytest.raises(PivlError, match="set last_stride to 2 or auto"):
        create_backbone(name, image_size_hw=SIZE_HW, last_stride=1)


def test_unknown_arch_suggests_the_nearest_name():
    with pytest.raises(PivlError, match="did you mean 'mobilenetv2_025'"):
        create_backbone("mobilenetv2_25", image_size_hw=SIZE_HW)


@pytest.mark.parametrize("name", ["levit_128s", "sequencer2d_s"])
def test_archs_without_a_pyramid_are_rejected_by_name(name):
    with pytest.raises(PivlError, match=name):
        create_backbone(name, image_size_hw=SIZE_HW)


def test_too_small_images_are_rejected():
    with pytest.raises(PivlError, match="cannot take images of 128x64"):
        create_backbone("inception_v3", image_size_hw=SIZE_HW)
