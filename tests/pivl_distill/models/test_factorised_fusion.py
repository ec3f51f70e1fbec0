"""The factorised path has the values and gradients of the reference in `fusion.py`."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from pivl_distill.config import HeadSettings
from pivl_distill.models.factorised_fusion import encode_cells, fuse, is_factorised, is_linear
from pivl_distill.models.fusion import FusionHead, LateralFusion, build_fusion_head

DIM, SIZE_HW, GRID_HW = 16, (64, 32), (8, 4)
FEW, MANY = (2, 4, 8), (4, 8, 16)
"""Channels of three maps; their sums are below and above D."""
TOKENS = (12, 12, 12)
LATERALS = ("pointwise", "depthwise", "auto", "grouped", "separable")
NORMS = ("none", "batch", "layer")
UPS, DOWNS = ("bilinear", "nearest"), ("average", "nearest", "strided")
MERGES = ("sum", "concat", "weighted")


def pyramid_of(channels: tuple[int, ...], kind: str = "cnn") -> tuple[Tensor, ...]:
    """Return maps of two crops with strides 4, 8 and 16; for a ViT all have stride 16."""
    generator = torch.Generator().manual_seed(0)
    strides = (4, 8, 16) if kind == "cnn" else (16, 16, 16)
    return tuple(
        torch.randn(
            (2, width, SIZE_HW[0] // stride, SIZE_HW[1] // stride),
            generator=generator,
            dtype=torch.float64,
            requires_grad=True,
        )
        for width, stride in zip(channels, strides, strict=True)
    )


def head_of(channels: tuple[int, ...], kind: str = "cnn", **settings: object) -> FusionHead:
    """Return a head in double precision with random parameters."""
    torch.manual_seed(0)
    head = build_fusion_head(kind, channels, DIM, SIZE_HW, HeadSettings(**settings)).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    return head


def assert_same_as_reference(head: FusionHead, pyramid: tuple[Tensor, ...]) -> None:
    """Assert equal values, and equal gradients of all maps and parameters, to 1e-9."""
    output_weights = torch.randn(2, DIM, *GRID_HW, dtype=torch.float64)
    results = []
    for fused in (fuse(head, encode_cells(head, pyramid)).to_dense(), head(pyramid)):
        gradients = torch.autograd.grad(
            (fused * output_weights).sum(), [*pyramid, *head.parameters()], allow_unused=True
        )
        results.append((fused, *gradients))
    for actual, expected in zip(*results, strict=True):
        assert (actual is None) == (expected is None)
        if actual is not None:
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_all_settings_are_covered():
    """A new setting of `stage2.head` must be added to these tests."""
    fields = HeadSettings.model_fields
    choices = {"lateral": LATERALS, "lateral_norm": NORMS, "up": UPS, "down": DOWNS}
    for name, values in (choices | {"merge": MERGES, "vit": ("simple", "blocks")}).items():
        assert set(values) == set(get_args(fields[name].annotation)), name
    assert fields.keys() == {*choices, "merge", "vit", "levels", "align_dim"}


@pytest.mark.parametrize("channels", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("lateral", LATERALS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("down", DOWNS)
@pytest.mark.parametrize("up", UPS)
def test_cnn_heads_equal_the_reference(channels, lateral, norm, merge, down, up):
    settings = {"lateral": lateral, "lateral_norm": norm, "merge": merge, "down": down, "up": up}
    head = head_of(channels, **settings, levels=(2, 3, 4))
    assert isinstance(head, LateralFusion)
    assert is_linear(head) == (norm == "none" and down != "strided")
    assert is_factorised(head) == (is_linear(head) and channels == FEW)
    assert_same_as_reference(head, pyramid_of(channels))


@pytest.mark.parametrize("channels", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("levels", [(2, 4), (2, 3), (3, 4), (2,), (3,), (4,)])
@pytest.mark.parametrize("down", DOWNS)
def test_heads_of_chosen_levels_equal_the_reference(channels, levels, down):
    assert_same_as_reference(head_of(channels, levels=levels, down=down), pyramid_of(channels))


@pytest.mark.parametrize("vit", ["simple", "blocks"])
@pytest.mark.parametrize("levels", [(2, 3, 4), (2, 4), (4,)])
@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("down", DOWNS)
def test_vit_heads_equal_the_reference(vit, levels, merge, down):
    head = head_of(TOKENS, "vit", vit=vit, levels=levels, merge=merge, down=down)
    assert_same_as_reference(head, pyramid_of(TOKENS, "vit"))


def test_a_simple_pyramid_with_half_scale_equals_the_reference():
    head = head_of(TOKENS, "vit", levels=(2, 3, 4, 5))
    assert_same_as_reference(head, pyramid_of(TOKENS, "vit"))


def test_a_wider_alignment_dimension_equals_the_reference():
    torch.manual_seed(0)
    settings = HeadSettings(align_dim=24)
    head = build_fusion_head("cnn", MANY, DIM, SIZE_HW, settings).double()
    fused = fuse(head, encode_cells(head, pyramid_of(MANY)))
    assert fused.shape == (2, 24, *GRID_HW)
    torch.testing.assert_close(fused.to_dense(), head(pyramid_of(MANY)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("channels", "settings", "factors"),
    [
        (FEW, {}, sum(FEW)),
        (MANY, {}, None),
        (FEW, {"lateral_norm": "batch"}, None),
        (FEW, {"lateral_norm": "layer"}, None),
        (FEW, {"down": "strided"}, None),
    ],
)
def test_only_linear_heads_of_few_channels_keep_factors(channels, settings, factors):
    head = head_of(channels, **settings, levels=(2, 3, 4))
    fused = fuse(head, encode_cells(head, pyramid_of(channels)))
    assert fused.cells.shape[1] == (DIM if factors is None else factors)
    assert (fused.weight is None) == (factors is None)


def test_a_simple_pyramid_keeps_its_projection_as_a_factor():
    head = build_fusion_head("vit", TOKENS, 512, SIZE_HW, HeadSettings())
    pyramid = tuple(x.float() for x in pyramid_of(TOKENS, "vit"))
    fused = fuse(head, encode_cells(head, pyramid))
    assert fused.cells.shape[1] == 256
    assert fused.weight.shape == (512, 256)
