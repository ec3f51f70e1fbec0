"""The reference fusion head: every form and grid; `test_equations.py` recomputes Eq. 9 and 10."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.config import HeadSettings
from pivl_distill.errors import PivlError
from pivl_distill.models.fusion import (
    LayerNorm2d,
    block_thirds,
    build_fusion_head,
    grid_size,
    resample,
)

CHANNELS, DIM = (4, 8, 16), 16
LEVELS = [(2, 3, 4), (2, 4), (3,), (4,)]


def pyramid_of(
    size_hw: tuple[int, int], channels: tuple[int, ...] = CHANNELS
) -> tuple[Tensor, ...]:
    """Maps of strides 4, 8 and 16; odd sizes round up, as with padded convolutions."""
    generator = torch.Generator().manual_seed(0)
    sizes = [[-(-pixels // stride) for pixels in size_hw] for stride in (4, 8, 16)]
    return tuple(
        torch.randn(2, c, *hw, generator=generator) for c, hw in zip(channels, sizes, strict=True)
    )


def head_of(size_hw: tuple[int, int], kind: str = "cnn", **settings):
    torch.manual_seed(0)
    if kind == "blocks":
        kind, settings = "vit", {**settings, "vit": "blocks"}
    channels = CHANNELS if kind == "cnn" else (12, 12, 12)
    return build_fusion_head(kind, channels, DIM, size_hw, HeadSettings(**settings))


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize(
    ("size_hw", "grid_hw"), [((128, 64), (16, 8)), ((168, 84), (21, 10)), ((256, 128), (32, 16))]
)
def test_the_map_has_stride_8_for_any_crop_size(kind, levels, size_hw, grid_hw):
    assert grid_size(size_hw) == grid_hw
    head = head_of(size_hw, kind, levels=levels)
    pyramid = pyramid_of(size_hw)
    if kind == "vit":
        pyramid = (torch.randn(2, 12, size_hw[0] // 16, size_hw[1] // 16),)
    assert head(pyramid).shape == (2, DIM, *grid_hw)


@pytest.mark.parametrize("levels", LEVELS)
def test_only_the_chosen_levels_get_gradients(levels):
    pyramid = tuple(m.requires_grad_() for m in pyramid_of((64, 32)))
    head_of((64, 32), levels=levels)(pyramid).sum().backward()
    assert [level for level, m in enumerate(pyramid) if m.grad is not None] == [
        number - 2 for number in levels
    ]


@pytest.mark.parametrize(
    ("levels", "branches"), [((2, 3, 4, 5), 4), ((2, 3, 4), 3), ((2, 4), 2), ((4,), 1)]
)
def test_every_parameter_of_a_simple_pyramid_gets_gradients(levels, branches):
    head = head_of((64, 32), "vit", levels=levels)
    assert len(head.branches) == branches
    head((torch.randn(2, 12, 4, 2),)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_a_simple_pyramid_at_scale_1_is_two_normalised_convolutions():
    head = head_of((64, 32), "vit", levels=(4,))
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


def upsample_by_two(x: Tensor, layer: torch.nn.ConvTranspose2d) -> Tensor:
    """Return 2 × 2 cells [C / 2] for each cell [C], by one linear map for each of the four."""
    out = x.new_empty(len(x), layer.out_channels, 2 * x.shape[2], 2 * x.shape[3])
    for row in range(2):
        for column in range(2):
            cell = torch.einsum("bchw,co->bohw", x, layer.weight[:, :, row, column])
            out[:, :, row::2, column::2] = cell + layer.bias[:, None, None]
    return out


def test_simple_pyramid_doubles_scale_and_halves_channels_as_in_vitdet():
    head = head_of((64, 32), "vit", levels=(2, 3))
    tokens = torch.randn(2, 12, 4, 2)
    up, norm, _, again = head.branches[0][:4]
    assert [layer.out_channels for layer in (up, again)] == [6, 3]
    x = upsample_by_two(tokens, up)
    centred = x - x.mean(1, keepdim=True)
    x = centred / (centred.square().mean(1, keepdim=True) + norm.eps).sqrt()
    x = upsample_by_two(F.gelu(x * norm.weight[:, None, None] + norm.bias[:, None, None]), again)
    torch.testing.assert_close(head.branches[0][:4](tokens), x, rtol=1e-4, atol=1e-5)
    once = head.branches[1][0]
    assert once.out_channels == 6
    torch.testing.assert_close(once(tokens), upsample_by_two(tokens, once), rtol=1e-4, atol=1e-5)


def test_vit_b_16_branches_have_as_many_parameters_as_in_vitdet():
    settings = HeadSettings(levels=(2, 3, 4))
    head = build_fusion_head("vit", (768, 768, 768), 512, (256, 128), settings)
    once, again = 768 * 384 * 4 + 384, 384 * 192 * 4 + 192
    doublings = 2 * once + 2 * 384 + again  # with a norm between them
    convolutions = sum(width * 256 + 256 * 256 * 9 + 4 * 256 for width in (192, 384, 768))
    parameters = sum(parameter.numel() for parameter in head.branches.parameters())
    assert parameters == doublings + convolutions


@pytest.mark.parametrize("channels", [256, 512, 1024])
def test_a_depthwise_lateral_to_1024_has_2048_parameters(channels):
    settings = HeadSettings(lateral="depthwise", levels=(4,))
    head = build_fusion_head("cnn", (1, 1, channels), 1024, (64, 32), settings)
    assert sum(p.numel() for p in head.parameters()) == 2048


def test_depthwise_lateral_needs_a_dimension_divisible_by_the_channels():
    with pytest.raises(PivlError, match=r"16 .* 24 channels; set stage2\.head\.lateral"):
        build_fusion_head("cnn", (4, 8, 24), 16, (64, 32), HeadSettings(lateral="depthwise"))


def test_level_5_without_a_simple_pyramid_is_refused():
    with pytest.raises(PivlError, match=r"map 5 exists only in a ViT's simple pyramid"):
        head_of((64, 32), levels=(4, 5))
    with pytest.raises(PivlError, match=r"map 5 exists only in a ViT's simple pyramid"):
        head_of((64, 32), "vit", levels=(4, 5), vit="blocks")


@pytest.mark.parametrize(("down", "parameters"), [("average", 0), ("strided", DIM * 10)])
def test_only_the_finest_map_has_a_strided_convolution(down, parameters):
    head = head_of((64, 32), levels=(2, 3, 4), down=down)
    counts = [sum(p.numel() for p in to_grid.parameters()) for to_grid in head.to_grid]
    assert counts == [parameters, 0, 0]


@pytest.mark.parametrize(("norm", "over"), [("none", None), ("batch", (0, 2, 3)), ("layer", (1,))])
def test_lateral_norm_normalises_over_the_batch_or_channels(norm, over):
    head = head_of((64, 32), levels=(3,), lateral_norm=norm).train()
    out = head(pyramid_of((64, 32)))
    if over is None:
        assert not any(isinstance(m, torch.nn.BatchNorm2d | LayerNorm2d) for m in head.modules())
        return
    torch.testing.assert_close(out.mean(over), torch.zeros_like(out.mean(over)), atol=1e-4, rtol=0)
    assert (out.var(over, unbiased=False) - 1).abs().max() < 0.05


def test_vit_blocks_have_laterals():
    head = head_of((64, 32), "blocks", levels=(2, 4), down="strided")
    maps = tuple(torch.randn(2, 12, 4, 2, requires_grad=True) for _ in range(3))
    out = head(maps)
    assert out.shape == (2, DIM, 8, 4)
    out.sum().backward()
    assert [m.grad is not None for m in maps] == [True, False, True]
    # Tokens are never finer than the grid.
    assert all(to_grid.strided_conv is None for to_grid in head.to_grid)
    torch.testing.assert_close(
        out,
        sum(
            F.interpolate(conv(maps[level]), size=(8, 4), mode="bilinear")
            for conv, level in zip(head.laterals, (0, 2), strict=True)
        ),
    )


@pytest.mark.parametrize(("depth", "blocks"), [(12, (3, 7, 11)), (4, (0, 2, 3)), (1, (0, 0, 0))])
def test_blocks_are_taken_at_thirds_of_the_depth(depth, blocks):
    assert block_thirds(depth) == blocks


def test_the_alignment_dimension_can_exceed_that_of_the_texts():
    pyramid = pyramid_of((64, 32))
    assert head_of((64, 32), align_dim=24)(pyramid).shape[1] == 24
    with pytest.raises(PivlError, match="align_dim 8 is less than the 16"):
        head_of((64, 32), align_dim=8)


def test_heads_of_two_networks_share_no_parameters():
    first, second = (
        build_fusion_head("cnn", CHANNELS, DIM, (64, 32), HeadSettings()) for _ in "ab"
    )
    of_first = {parameter.data_ptr() for parameter in first.parameters()}
    assert not of_first & {parameter.data_ptr() for parameter in second.parameters()}


def test_auto_lateral_is_depthwise_if_channels_divide_the_dimension():
    head = build_fusion_head("cnn", (4, 24, 16), 16, (64, 32), HeadSettings(lateral="auto"))
    assert [lateral.groups for lateral in head.laterals] == [4, 1, 16]


def test_resampling_to_the_same_grid_changes_nothing():
    x = torch.randn(1, 3, 8, 4)
    assert resample(x, (8, 4)) is x


@pytest.mark.parametrize("grid_hw", [(21, 10), (5, 3), (42, 21)])
def test_resampling_keeps_a_constant_map_constant(grid_hw):
    x = torch.full((1, 2, 11, 6), 3.0)
    torch.testing.assert_close(resample(x, grid_hw), torch.full((1, 2, *grid_hw), 3.0))
