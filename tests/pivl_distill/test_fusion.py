"""The fusion head: Eq. 9 and 10 recomputed cell by cell, every form and every grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.config import HeadSettings
from pivl_distill.errors import PivlError
from pivl_distill.fusion import build_fusion_head, grid_of, resample

CHANNELS, DIM = (4, 8, 16), 16
LEVELS = {"all": [0, 1, 2], "literal": [0, 2], "last": [2]}


def pyramid_of(
    size_hw: tuple[int, int], channels: tuple[int, ...] = CHANNELS
) -> tuple[Tensor, ...]:
    """Maps of strides 4, 8 and 16, odd sizes rounded up as by padded convolutions."""
    generator = torch.Generator().manual_seed(0)
    sizes = [[-(-pixels // stride) for pixels in size_hw] for stride in (4, 8, 16)]
    return tuple(
        torch.randn(2, c, *hw, generator=generator) for c, hw in zip(channels, sizes, strict=True)
    )


def head_of(size_hw: tuple[int, int], kind: str = "cnn", **settings):
    torch.manual_seed(0)
    channels = CHANNELS if kind == "cnn" else (12,)
    return build_fusion_head(kind, channels, DIM, size_hw, HeadSettings(**settings))


def halved(x: np.ndarray) -> np.ndarray:
    """Means of 2×2 cells."""
    return np.mean([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)


def doubled(x: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation at cell centres, edges held."""
    x = np.moveaxis(x, axis, -1)
    centres = (np.arange(2 * x.shape[-1]) + 0.5) / 2 - 0.5
    out = np.empty((*x.shape[:-1], len(centres)))
    for place, centre in enumerate(centres.clip(0, x.shape[-1] - 1)):
        low = int(centre)
        high = min(low + 1, x.shape[-1] - 1)
        out[..., place] = (1 - (centre - low)) * x[..., low] + (centre - low) * x[..., high]
    return np.moveaxis(out, -1, axis)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("lateral", ["pointwise", "depthwise"])
def test_the_cnn_form_is_equation_9_and_10(levels, lateral):
    head = head_of((64, 32), levels=levels, lateral=lateral)
    pyramid = pyramid_of((64, 32))
    expected = np.zeros((2, DIM, 8, 4))
    for level, conv in zip(LEVELS[levels], head.laterals, strict=True):
        maps, weight = pyramid[level].numpy(), conv.weight.detach().numpy()[:, :, 0, 0]
        if lateral == "depthwise":  # output d reads channel d // (D / C) alone
            maps = maps[:, np.arange(DIM) // (DIM // CHANNELS[level])] * weight[:, 0, None, None]
        else:
            maps = np.einsum("dc,bchw->bdhw", weight, maps)
        maps = maps + conv.bias.detach().numpy()[:, None, None]
        if level == 0:
            maps = halved(maps)
        elif level == 2:
            maps = doubled(doubled(maps, 2), 3)
        expected += maps
    np.testing.assert_allclose(head(pyramid).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize(
    ("size_hw", "grid_hw"), [((128, 64), (16, 8)), ((168, 84), (21, 10)), ((256, 128), (32, 16))]
)
def test_the_map_has_stride_8_whatever_the_crop(kind, levels, size_hw, grid_hw):
    assert grid_of(size_hw) == grid_hw
    head = head_of(size_hw, kind, levels=levels)
    pyramid = pyramid_of(size_hw)
    if kind == "vit":
        pyramid = (torch.randn(2, 12, size_hw[0] // 16, size_hw[1] // 16),)
    assert head(pyramid).shape == (2, DIM, *grid_hw)


@pytest.mark.parametrize("levels", LEVELS)
def test_exactly_the_chosen_levels_learn(levels):
    pyramid = tuple(m.requires_grad_() for m in pyramid_of((64, 32)))
    head_of((64, 32), levels=levels)(pyramid).sum().backward()
    assert [level for level, m in enumerate(pyramid) if m.grad is not None] == LEVELS[levels]


@pytest.mark.parametrize(("levels", "branches"), [("all", 3), ("literal", 2), ("last", 1)])
def test_every_parameter_of_the_vit_form_learns(levels, branches):
    head = head_of((64, 32), "vit", levels=levels)
    assert len(head.branches) == branches
    head((torch.randn(2, 12, 4, 2),)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_the_vit_form_at_scale_1_is_two_normalised_convolutions():
    head = head_of((64, 32), "vit", levels="last")
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    maps = torch.randn(2, 12, 8, 4)
    x = maps
    one, norm_one, three, norm_three = head.branches[0]
    for conv, norm in ((one, norm_one), (three, norm_three)):
        x = F.conv2d(x, conv.weight, padding=conv.padding)
        centred = x - x.mean(1, keepdim=True)
        x = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        x = x * norm.weight[:, None, None] + norm.bias[:, None, None]
    expected = F.conv2d(x, head.project.weight, head.project.bias)
    torch.testing.assert_close(head((maps,)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [256, 512, 1024])
def test_a_depthwise_lateral_to_1024_has_2048_parameters(channels):
    settings = HeadSettings(lateral="depthwise", levels="last")
    head = build_fusion_head("cnn", (1, 1, channels), 1024, (64, 32), settings)
    assert sum(p.numel() for p in head.parameters()) == 2048


def test_a_depthwise_lateral_needs_a_multiple_of_the_channels():
    with pytest.raises(PivlError, match=r"16 .* 24 channels; set stage2\.head\.lateral"):
        build_fusion_head("cnn", (4, 8, 24), 16, (64, 32), HeadSettings(lateral="depthwise"))


def test_auto_is_depthwise_where_that_exists():
    head = build_fusion_head("cnn", (4, 24, 16), 16, (64, 32), HeadSettings(lateral="auto"))
    assert [lateral.groups for lateral in head.laterals] == [4, 1, 16]


def test_resampling_to_the_same_grid_changes_nothing():
    x = torch.randn(1, 3, 8, 4)
    assert resample(x, (8, 4)) is x


@pytest.mark.parametrize("grid_hw", [(21, 10), (5, 3), (42, 21)])
def test_resampling_keeps_a_constant_map_constant(grid_hw):
    x = torch.full((1, 2, 11, 6), 3.0)
    torch.testing.assert_close(resample(x, grid_hw), torch.full((1, 2, *grid_hw), 3.0))
