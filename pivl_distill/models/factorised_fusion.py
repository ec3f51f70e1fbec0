"""The fusion head as training computes it: the values of `fusion.py` for less time and memory.

A 1×1 convolution commutes with resampling, and it is the last layer of most heads. Maps are thus
resampled with their C channels, usually fewer than D, and the convolution is kept as
a factor of the `FusedMap` instead of being applied to every cell.

A head runs in two steps. `encode_cells` treats each crop separately, perhaps in half precision and
microbatches (GradCache); `fuse` adds the last linear map, in float32. Which path a head takes:

- `LateralFusion` that `is_factorised`: `encode_cells` resamples and concatenates the maps, `fuse`
  combines laterals and merge into one matrix [D, ΣC_i].
- `LateralFusion` that only `is_linear`: `encode_cells` returns F and applies each lateral before or
  after resampling, where there are fewer cells; `fuse` has nothing to add.
- Any other `LateralFusion` (a norm or a strided convolution behind the laterals): `encode_cells`
  returns F by the reference, `head(pyramid)`.
- `SimplePyramidFusion`: `fuse` adds the projection [D, 256].

`test_factorised_fusion.py` compares values and gradients with the reference under all settings.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from pivl_distill.models.fused_map import FusedMap
from pivl_distill.models.fusion import FusionHead, LateralFusion, Merge, SimplePyramidFusion


def is_linear(head: LateralFusion) -> bool:
    """Return whether its 1×1 convolutions commute with resampling.

    They do unless a norm or a strided convolution follows them.
    """
    strided = any(to_grid.strided_conv is not None for to_grid in head.to_grid)
    return head.lateral_norm == "none" and not strided


def is_factorised(head: LateralFusion) -> bool:
    """Return whether the fused map is kept as factors: it has fewer input channels than D."""
    return is_linear(head) and sum(head.channels) < head.dim


def encode_cells(head: FusionHead, pyramid: tuple[Tensor, ...]) -> Tensor:
    """Compute everything but the last linear map: [B, C_i, h_i, w_i] → [B, C, h, w]."""
    if isinstance(head, SimplePyramidFusion):
        return head.merge_branches(pyramid)
    if not isinstance(head, LateralFusion) or not is_linear(head):
        return cast(Tensor, head(pyramid))
    maps = [pyramid[index] for index in head.map_indices]
    branches = zip(maps, head.laterals, head.to_grid, strict=True)
    if is_factorised(head):
        return torch.cat(
            [to_grid(split_lateral(lateral)[0](x)) for x, lateral, to_grid in branches], dim=1
        )
    resampled = [
        _project_and_resample(x, lateral, to_grid, head.grid_hw) for x, lateral, to_grid in branches
    ]
    return cast(Tensor, head.merge(resampled))


def fuse(head: FusionHead, cells: Tensor) -> FusedMap:
    """Apply the last linear map to the output of `encode_cells`, [B, C, h, w]: F of Eq. 10."""
    if isinstance(head, SimplePyramidFusion):
        return FusedMap(cells, dense_conv_weight(head.project), head.project.bias)
    if not isinstance(head, LateralFusion) or not is_factorised(head):
        return FusedMap(cells)
    pointwise = [split_lateral(lateral)[1] for lateral in head.laterals]
    weights = [dense_conv_weight(conv) for conv in pointwise]
    biases = [cast(Tensor, conv.bias) for conv in pointwise]
    return FusedMap(cells, *merge_linear_maps(head.merge, weights, biases))


def _project_and_resample(
    x: Tensor, lateral: nn.Module, to_grid: nn.Module, grid_hw: tuple[int, int]
) -> Tensor:
    """Apply the 1×1 convolution where there are fewer cells: before or after resampling."""
    spatial, pointwise = split_lateral(lateral)
    x = spatial(x)
    finer = x.shape[2:].numel() > math.prod(grid_hw)
    return cast(Tensor, pointwise(to_grid(x)) if finer else to_grid(pointwise(x)))


def split_lateral(lateral: nn.Module) -> tuple[nn.Module, nn.Conv2d]:
    """Split a lateral without a norm into its spatial layer and its 1×1 convolution to D."""
    if isinstance(lateral, nn.Sequential):
        return lateral[0], cast(nn.Conv2d, lateral[1])
    return nn.Identity(), cast(nn.Conv2d, lateral)


def dense_conv_weight(conv: nn.Conv2d) -> Tensor:
    """Return the matrix [D, C] of a 1×1 convolution, with zeros between its groups."""
    blocks = conv.weight.flatten(1).chunk(conv.groups)
    return torch.block_diag(*blocks) if conv.groups > 1 else blocks[0]


def merge_linear_maps(
    merge: Merge, weights: list[Tensor], biases: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Combine linear maps and the merge behind them into one: [D, C_i], [D] → [D, ΣC_i], [D]."""
    if merge.convolve is not None:
        dim = merge.convolve.out_channels
        blocks = dense_conv_weight(merge.convolve).split(dim, dim=1)  # [D, D] each
        weights = [block @ weight for block, weight in zip(blocks, weights, strict=True)]
        biases = [block @ bias for block, bias in zip(blocks, biases, strict=True)]
        biases.append(cast(Tensor, merge.convolve.bias))
    elif merge.weights is not None:
        weights = [factor * weight for factor, weight in zip(merge.weights, weights, strict=True)]
        biases = [factor * bias for factor, bias in zip(merge.weights, biases, strict=True)]
    return torch.cat(weights, dim=1), torch.stack(biases).sum(0)
