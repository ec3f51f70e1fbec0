"""Settings of the fusion-alignment head."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, field_validator

from pivl_distill.config.base import Settings, setting

LEVELS = (2, 3, 4, 5)
"""Indices i of the feature maps F_i: 2, 3, 4 (the paper's) have strides 4, 8, 16; 5 has 32."""


class HeadSettings(Settings):
    """The fusion-alignment head (§3.4), which exists in training only."""

    levels: tuple[int, ...] = setting(
        (2, 3, 4),
        "indices of the fused feature maps; 2, 3, 4 and 5 have strides 4, 8, 16 and 32 (5: ViT"
        " only)",
        source="Eq. 10; printed: [2, 4]",
        advanced=True,
    )
    merge: Literal["sum", "concat", "weighted"] = setting(
        "sum",
        "how maps are merged: their sum, a 1×1 convolution of their concatenation, or a sum with"
        " learned weights",
        source="Eq. 10: sum",
        advanced=True,
    )
    lateral: Literal["pointwise", "depthwise", "auto", "separable", "grouped"] = setting(
        "pointwise",
        "lateral convolution of a CNN's map with C channels to D dimensions: 1×1; depthwise 1×1;"
        " auto: depthwise if C divides D, else 1×1; separable: depthwise 3×3 then 1×1; grouped:"
        " 1×1 in gcd(C, D) groups",
        source="Eq. 9: depthwise",
        advanced=True,
    )
    lateral_norm: Literal["none", "batch", "layer"] = setting(
        "none", "normalisation after each lateral convolution", source="Eq. 9: none", advanced=True
    )
    up: Literal["bilinear", "nearest"] = setting(
        "bilinear", "upsampling of smaller maps", source="Eq. 10: not specified", advanced=True
    )
    down: Literal["average", "nearest", "strided"] = setting(
        "average",
        "downsampling of larger maps; strided: a depthwise 3×3 convolution of stride 2",
        source="Eq. 10: not specified",
        advanced=True,
    )
    vit: Literal["simple", "blocks"] = setting(
        "simple",
        "feature maps of a ViT. simple: ViTDet's pyramid of the last block; blocks: tokens after"
        " one third, two thirds and all of the blocks, each through a lateral convolution",
        source="Fig. 4b: not specified",
        advanced=True,
    )
    align_dim: PositiveInt | None = setting(
        None,
        "dimension in which Eq. 11 compares cells and part texts; a fixed orthogonal projection"
        " brings the texts there and preserves their angles. null: the bank's dimension",
        source="§4.2: 1024",
        advanced=True,
    )

    @field_validator("levels")
    @classmethod
    def _check_levels(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if not levels or list(levels) != sorted(set(levels) & set(LEVELS)):
            raise ValueError(f"must be some of {list(LEVELS)}, ascending")
        return levels
