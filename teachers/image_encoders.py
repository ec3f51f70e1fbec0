"""CLIP's image encoders with named outputs for prompts, losses and the fusion head.

ResNets (RN50 and the tiny CLIP) and ViTs have one output type. The three features follow CLIP-ReID
(Li et al., AAAI 2023), which trains on the penultimate stage, the last stage and the projection
into the joint space:

    ResNet   previous = GAP(layer3)   feature = GAP(layer4)          projected = attention pooling
    ViT      previous = CLS(block−1)  feature = CLS(ln_post(last))   projected = feature @ proj

`joint_tokens` projects every grid position into the joint space (Eq. 5–7). `value_tokens` does so
through the value path of the last attention only, which mixes no positions (MaskCLIP, Zhou et al.,
ECCV 2022).

A ViT may have CLIP-ReID's two additions: overlapping patches (OLP) and camera embeddings (SIE, He
et al., TransReID, ICCV 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pivl_distill.errors import PivlError
from pivl_distill.models.fusion import block_thirds


@dataclass(frozen=True)
class ImageEncoderOutput:
    """Features of one forward pass."""

    previous: Tensor
    """[B, C] the penultimate stage, pooled."""
    feature: Tensor
    """[B, F] the last stage, pooled."""
    projected: Tensor
    """[B, D] the image in the joint space."""
    pyramid: tuple[Tensor, ...]
    """Maps [B, C_i, h_i, w_i] for the fusion head (Eq. 9), from the earliest stage or block on."""


class ResNetImageEncoder(nn.Module):
    """open_clip's `ModifiedResNet` for crops of `size_hw` pixels with output stride 8, 16 or 32.

    Output stride 16 is the "last stride 1" of ReID. The tiny CLIP uses 8, so that a crop 64 pixels
    wide has a grid of eight columns.
    """

    kind: Literal["cnn", "vit"] = "cnn"

    def __init__(
        self, visual: ModifiedResNet, size_hw: tuple[int, int], output_stride: int
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise PivlError(f"A ResNet encoder has output stride 8, 16 or 32, not {output_stride}.")
        self.visual = visual
        self.grid_hw = (size_hw[0] // output_stride, size_hw[1] // output_stride)
        for stride, layer in ((8, visual.layer3), (16, visual.layer4)):
            if output_stride <= stride:
                layer[0].avgpool = nn.Identity()
                layer[0].downsample[0] = nn.Identity()
        pool = visual.attnpool
        side = round((len(pool.positional_embedding) - 1) ** 0.5)
        pool.positional_embedding = nn.Parameter(
            resize_position_embedding(pool.positional_embedding.data, (side, side), self.grid_hw)
        )
        self.pyramid_channels = tuple(
            layer[-1].conv3.out_channels for layer in (visual.layer1, visual.layer2, visual.layer3)
        )
        self.previous_dim = self.pyramid_channels[-1]
        self.feature_dim: int = visual.layer4[-1].conv3.out_channels
        self.dim: int = pool.c_proj.out_features

    def forward(self, images: Tensor) -> ImageEncoderOutput:
        """Encode normalised images [B, 3, H, W]."""
        conv2, conv3, conv4, conv5 = self._stages(images)
        pooled = attention_pool(self.visual.attnpool, conv5, every_token=False)
        return ImageEncoderOutput(
            previous=conv4.mean((2, 3)),
            feature=conv5.mean((2, 3)),
            projected=pooled[:, 0],
            pyramid=(conv2, conv3, conv4),
        )

    def last_map(self, images: Tensor) -> Tensor:
        """Return the map [B, F, h, w] that is pooled."""
        return self._stages(images)[-1]

    def pool(self, last_map: Tensor) -> Tensor:
        """Return `feature` and `projected` of the last map, [B, F + D]."""
        pooled = attention_pool(self.visual.attnpool, last_map, every_token=False)
        return torch.cat([last_map.mean((2, 3)), pooled[:, 0]], dim=1)

    def joint_tokens(self, images: Tensor) -> Tensor:
        """Return [B, 1 + h·w, D]: the image, then the grid positions, in the joint space."""
        *_, conv5 = self._stages(images)
        return attention_pool(self.visual.attnpool, conv5, every_token=True)

    def value_tokens(self, images: Tensor) -> Tensor:
        """As `joint_tokens`, but each position is its own attention value, projected."""
        *_, conv5 = self._stages(images)
        pool = self.visual.attnpool
        image = attention_pool(pool, conv5, every_token=False)
        cells = pool.c_proj(pool.v_proj(conv5.flatten(2).transpose(1, 2)))
        return torch.cat([image, cells], dim=1)

    def _stages(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        visual = self.visual
        conv2 = visual.layer1(visual.stem(images))
        conv3 = visual.layer2(conv2)
        conv4 = visual.layer3(conv3)
        return conv2, conv3, conv4, visual.layer4(conv4)


@dataclass(frozen=True)
class ViTOptions:
    """CLIP-ReID's additions to CLIP's ViT; the defaults add nothing."""

    stride: int | None = None
    """Patch stride in pixels; None is the patch size. OLP uses 12, so that patches overlap."""
    cameras: int = 0
    """Number of camera embeddings (SIE); 0 for none."""
    sie_coefficient: float = 1.0
    """Factor of the camera embeddings; CLIP-ReID trains on people with 1."""


class ViTImageEncoder(nn.Module):
    """open_clip's `VisionTransformer` with a class token, for crops of `size_hw` pixels.

    Position embeddings are resampled to the grid as in CLIP-ReID. `camera` [cameras, C] are the
    camera embeddings of SIE, or None. `checkpointing` turns on gradient checkpointing per block.
    """

    kind: Literal["cnn", "vit"] = "vit"
    checkpointing = False

    def __init__(
        self,
        visual: VisionTransformer,
        size_hw: tuple[int, int],
        options: ViTOptions = ViTOptions(),
    ) -> None:
        super().__init__()
        self.visual = visual
        (height, width), (patch_h, patch_w) = size_hw, visual.patch_size
        stride_h, stride_w = (options.stride or patch for patch in (patch_h, patch_w))
        self.grid_hw = ((height - patch_h) // stride_h + 1, (width - patch_w) // stride_w + 1)
        visual.conv1.stride = (stride_h, stride_w)
        positions = visual.positional_embedding
        visual.positional_embedding = nn.Parameter(
            resize_position_embedding(positions.data, visual.grid_size, self.grid_hw)
        )
        channels: int = positions.shape[1]
        self.options = options
        self.camera: nn.Parameter | None = None
        if options.cameras:
            self.camera = nn.Parameter(torch.randn(options.cameras, channels) * 0.02)
        self.pyramid_blocks = block_thirds(len(visual.transformer.resblocks))
        self.pyramid_channels = (channels,) * len(self.pyramid_blocks)
        self.previous_dim = self.feature_dim = channels
        self.dim: int = visual.proj.shape[1]

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> ImageEncoderOutput:
        """Encode normalised images [B, 3, H, W] with camera ids int64 [B].

        Without `cameras` no camera embedding is added, as in stage 1 of CLIP-ReID.
        """
        hidden = [self._embed(images, cameras)]
        for block in self.visual.transformer.resblocks:
            recompute = self.checkpointing and torch.is_grad_enabled()
            run = partial(checkpoint, block, use_reentrant=False) if recompute else block
            x = run(hidden[-1])
            hidden.append(x)
        previous, last = hidden[-2], self.visual.ln_post(hidden[-1])
        after_block = [*hidden[1:-1], last]
        return ImageEncoderOutput(
            previous=previous[:, 0],
            feature=last[:, 0],
            projected=last[:, 0] @ self.visual.proj,
            pyramid=tuple(self._grid(after_block[block]) for block in self.pyramid_blocks),
        )

    def joint_tokens(self, images: Tensor) -> Tensor:
        """Return [B, 1 + h·w, D]: the image, then the grid positions, in the joint space."""
        visual = self.visual
        hidden = visual.transformer(self._embed(images, None))
        tokens: Tensor = visual.ln_post(hidden) @ visual.proj
        return tokens

    def value_tokens(self, images: Tensor) -> Tensor:
        """As `joint_tokens`, but in the last block each position attends to itself only."""
        visual = self.visual
        *blocks, last = visual.transformer.resblocks
        hidden = self._embed(images, None)
        for block in blocks:
            hidden = block(hidden)
        attention = last.attn
        *_, weight = attention.in_proj_weight.chunk(3)
        *_, bias = attention.in_proj_bias.chunk(3)
        values = attention.out_proj(F.linear(last.ln_1(hidden), weight, bias))
        alone = hidden + last.ls_1(values)
        alone = alone + last.ls_2(last.mlp(last.ln_2(alone)))
        mixed = torch.cat([last(hidden)[:, :1], alone[:, 1:]], dim=1)
        tokens: Tensor = visual.ln_post(mixed) @ visual.proj
        return tokens

    def fix_camera(self, camera: int | Literal["mean"]) -> None:
        """Add the embedding of one camera, or the mean over cameras, to the class token for good.

        Afterwards the encoder has no cameras and takes images only.
        """
        assert self.camera is not None
        with torch.no_grad():
            vector = self.camera.mean(0) if camera == "mean" else self.camera[camera]
            self.visual.class_embedding += self.options.sie_coefficient * vector
        self.camera = None
        self.options = ViTOptions(self.options.stride)

    def _grid(self, tokens: Tensor) -> Tensor:
        """Return tokens [B, 1 + h·w, C] without the class token, as a map [B, C, h, w]."""
        return tokens[:, 1:].transpose(1, 2).unflatten(2, self.grid_hw)

    def _embed(self, images: Tensor, cameras: Tensor | None) -> Tensor:
        """Return the input of the first block, [B, 1 + h·w, C]."""
        visual = self.visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)
        token = visual.class_embedding.expand(len(patches), 1, -1)
        if cameras is not None:
            assert self.camera is not None, "this encoder has no camera embeddings"
            token = token + self.options.sie_coefficient * self.camera[cameras][:, None]
        x = torch.cat([token, patches], dim=1) + visual.positional_embedding
        embedded: Tensor = visual.ln_pre(visual.patch_dropout(x))
        return embedded


ImageEncoder = ResNetImageEncoder | ViTImageEncoder


def attention_pool(pool: AttentionPool2d, x: Tensor, *, every_token: bool) -> Tensor:
    """CLIP's attention pooling: [B, C, h, w] → [B, 1 + h·w, D], the pooled token first.

    CLIP-ReID and π-VL use every token. Without `every_token` only the first is computed, [B, 1, D].
    """
    tokens = x.flatten(2).transpose(1, 2)
    tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
    tokens = tokens + pool.positional_embedding
    queries = tokens if every_token else tokens[:, :1]
    query, key, value = (
        projection(source).unflatten(2, (pool.num_heads, -1)).transpose(1, 2)
        for projection, source in (
            (pool.q_proj, queries),
            (pool.k_proj, tokens),
            (pool.v_proj, tokens),
        )
    )
    attended = F.scaled_dot_product_attention(query, key, value)
    return pool.c_proj(attended.transpose(1, 2).flatten(2))


def resize_position_embedding(
    embedding: Tensor, old_hw: tuple[int, int], new_hw: tuple[int, int]
) -> Tensor:
    """Resample [1 + h·w, C], class token first, to another grid, bilinearly as in CLIP-ReID."""
    if old_hw == new_hw:
        return embedding
    token, grid = embedding[:1], embedding[1:]
    grid = grid.T.unflatten(1, old_hw)[None]
    grid = F.interpolate(grid, size=new_hw, mode="bilinear", align_corners=False)
    return torch.cat([token, grid[0].flatten(1).T])
