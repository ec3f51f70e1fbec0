"""Student backbones: any timm model with feature stages, and MobileNetV2 at width 0.25.

Table 5 of the paper distils into MobileNetV2 ×0.25, which timm lacks. Importing this module
registers it with timm as `mobilenetv2_025`, with the URL of the published ImageNet weights.
`create_backbone` returns the bare network that is trained and later exported. `Backbone` adds the
intermediate maps for the fusion head: strides 4, 8 and 16 (Eq. 9–10), or a ViT's patch tokens.

Left out on purpose: heads and necks. The bare network's output is the student's retrieval feature.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
)
from timm.models.efficientnet import EfficientNet, decode_arch_def, round_channels
from torch import Tensor, nn

from pivl_distill.errors import PivlError, did_you_mean
from pivl_distill.models.fusion import block_thirds
from pivl_distill.models.gradient_cap import fork
from students.pretrained import load_network
from students.published_names import convert_to_timm_names

LastStride = Literal["auto", 1, 2]
PYRAMID_STRIDES = (4, 8, 16)

default_cfgs = generate_default_cfgs(
    {
        "mobilenetv2_025.in1k": {
            "url": "https://github.com/d-li14/mobilenetv2.pytorch/raw/master/pretrained/"
            "mobilenetv2_0.25-b61d2159.pth",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "conv_stem",
            "classifier": "classifier",
            "license": "apache-2.0",
        }
    }
)


@register_model
def mobilenetv2_025(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """Return MobileNetV2 (Sandler et al. 2018) at width 0.25, with 1,519,112 parameters.

    The last convolution has 1280 channels, as in that paper: only widths above 1 scale it.
    """
    stages = [
        ["ds_r1_k3_s1_c16"],
        ["ir_r2_k3_s2_e6_c24"],
        ["ir_r3_k3_s2_e6_c32"],
        ["ir_r4_k3_s2_e6_c64"],
        ["ir_r3_k3_s1_e6_c96"],
        ["ir_r3_k3_s2_e6_c160"],
        ["ir_r1_k3_s1_e6_c320"],
    ]
    settings = {
        "block_args": decode_arch_def(stages),
        "num_features": 1280,
        "stem_size": 32,
        "round_chs_fn": partial(round_channels, multiplier=0.25),
        "act_layer": nn.ReLU6,
    }
    return build_model_with_cfg(
        EfficientNet,
        "mobilenetv2_025",
        pretrained,
        pretrained_filter_fn=convert_to_timm_names,
        **settings | kwargs,
    )


@dataclass(frozen=True)
class BackboneOutput:
    """The network's output `feature` [B, F] and the maps `pyramid` [B, C, h, w], finest first.

    `final_map` [B, C', h', w'] is the last one, which is pooled to the feature.
    """

    feature: Tensor
    pyramid: tuple[Tensor, ...]
    final_map: Tensor


class Backbone(nn.Module):
    """A bare timm network that also returns the intermediate maps for the fusion head.

    For a CNN these are the maps of strides 4, 8 and 16; for a ViT the patch tokens after a third,
    two thirds and all of the blocks, before the final norm. `network` holds all parameters and is
    exported. `map_gradient_cap` limits the gradient of `final_map`, relative to the feature's.
    Raises PivlError if the network has no such maps.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network: Any = network
        self.kind, self._stages = _pyramid_stages(network)
        channels = [stage["num_chs"] for stage in _feature_stages(network)]
        self.pyramid_channels: tuple[int, ...] = tuple(channels[i] for i in self._stages)
        self.feature_dim: int = (
            network.num_classes or network.head_hidden_size or network.num_features
        )
        self.map_dim: int = network.num_features
        self.map_gradient_cap: float | None = None

    def forward(self, images: Tensor) -> BackboneOutput:
        """Return the feature and the pyramid of normalised images [B, 3, H, W]."""
        stages = sorted(set(self._stages))
        last, maps = self.network.forward_intermediates(images, indices=stages, output_fmt="NCHW")
        pyramid = tuple(maps[stages.index(stage)] for stage in self._stages)
        pooled, final = fork(last, self.map_gradient_cap)
        feature = self.network.forward_head(pooled, pre_logits=not self.network.num_classes)
        return BackboneOutput(feature, pyramid, self._as_map(final, pyramid[-1]))

    def _as_map(self, last: Tensor, like: Tensor) -> Tensor:
        """Return the last features as a map [B, C, h, w]: a ViT's are tokens of the grid `like`."""
        if self.kind == "cnn":
            return last
        grid = last[:, self.network.num_prefix_tokens :].mT
        return grid.unflatten(2, (like.shape[2], like.shape[3]))


def create_backbone(
    name: str,
    *,
    image_size_hw: tuple[int, int] = (256, 128),
    pretrained: str | Path = "none",
    last_stride: LastStride = "auto",
    embedding_dim: int | None = None,
) -> nn.Module:
    """Return the timm network `name` without its classifier.

    It maps normalised images [B, 3, H, W] to features [B, F].

    Args:
        name: timm's name of the architecture.
        image_size_hw: height and width in pixels. It fixes a ViT's patch grid; a CNN also takes
            other sizes.
        pretrained: "none", "timm" (downloads timm's published weights), or the path of a
            .safetensors or .pth file.
        last_stride: 1 keeps the final stage at stride 16, as is usual in re-identification (Sun et
            al. 2018, PCB); 2 leaves the network unchanged; "auto" is 1 if the network supports it
            and 2 otherwise.
        embedding_dim: F, where a new linear layer in the place of the classifier ends the network;
            None: F is that of the architecture.

    Raises:
        PivlError: The name is unknown, or the weights, the size or the stride do not fit.
    """
    if not timm.is_model(name):
        known = timm.list_models()
        raise PivlError(
            f"Unknown architecture '{name}'{did_you_mean(name, known)} timm.list_models() returns"
            f" all {len(known)} names."
        )
    network = load_network(name, image_size_hw, pretrained)
    if embedding_dim is not None:
        network.reset_classifier(embedding_dim)
    kind, _ = _pyramid_stages(network)
    if not _map_sizes(network, image_size_hw):
        raise PivlError(
            f"{name} cannot take images of {image_size_hw[0]}x{image_size_hw[1]} pixels; "
            "set a larger size_hw, or a multiple of its patch size."
        )
    if last_stride == 2:
        return network
    finer = _with_last_stride_1(network, image_size_hw) if kind == "cnn" else None
    if finer is None and last_stride == 1:
        raise PivlError(f"{name} does not support last_stride 1; set last_stride to 2 or auto.")
    return finer or network


_POOLING = {"avg": "average over the map", "token": "class token", "map": "attention pooling"}


def describe_pooling(network: Any) -> str | None:
    """Describe how a timm network pools its last map into one vector; None if unknown."""
    pool = getattr(network, "global_pool", None)
    if pool is None:
        pool = getattr(getattr(network, "head", None), "global_pool", None)
    kind = getattr(pool, "pool_type", pool)
    return _POOLING.get(kind, kind) if isinstance(kind, str) and kind else None


def _feature_stages(network: Any) -> list[dict[str, Any]]:
    info = getattr(network, "feature_info", [])
    return list(getattr(info, "info", info))


def _pyramid_stages(network: Any) -> tuple[Literal["cnn", "vit"], list[int]]:
    """Return the kind of network and the indices of the feature stages that form the pyramid.

    Raises PivlError if the network has no pyramid.
    """
    reductions = [stage["reduction"] for stage in _feature_stages(network)]
    if hasattr(network, "forward_intermediates") and reductions:
        if set(PYRAMID_STRIDES) <= set(reductions):
            return "cnn", [reductions.index(stride) for stride in PYRAMID_STRIDES]
        if len(set(reductions)) == 1:
            return "vit", list(block_thirds(len(reductions)))
    name = network.pretrained_cfg["architecture"]
    raise PivlError(
        f"{name} has neither maps of strides 4, 8 and 16 nor a fixed grid of patches, which the "
        "alignment with texts needs; choose another arch, for example mobilenetv2_025 or resnet18."
    )


def _map_sizes(network: Any, image_size_hw: tuple[int, int]) -> list[tuple[int, int]]:
    """Return (h, w) of every feature stage; empty if the network cannot run at this size."""
    training = network.training
    try:
        with torch.no_grad():
            last, maps = network.eval().forward_intermediates(torch.zeros(1, 3, *image_size_hw))
            network.forward_head(last)
    except (RuntimeError, AssertionError):
        return []
    finally:
        network.train(training)
    return [(m.shape[-2], m.shape[-1]) for m in maps]


def _with_last_stride_1(network: nn.Module, image_size_hw: tuple[int, int]) -> nn.Module | None:
    """Return a copy with stride 1 in the layers between the stride-16 and stride-32 features.

    Return None if the network has no stride 32 or the copy does not keep the map's size.
    """
    stages = {stage["reduction"]: stage["module"] for stage in _feature_stages(network)}
    if 32 not in stages:
        return None
    finer = copy.deepcopy(network)
    names = [name for name, _ in finer.named_modules()]
    ends = [
        max(i for i, n in enumerate(names) if f"{n}.".startswith(f"{stages[s]}.")) for s in (16, 32)
    ]
    for name in names[ends[0] + 1 : ends[1] + 1]:
        layer = finer.get_submodule(name)
        if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
            layer.stride = (1, 1)
        elif isinstance(layer, nn.AvgPool2d | nn.MaxPool2d) and layer.stride in (2, (2, 2)):
            # Non-overlapping pooling becomes the identity; overlapping pooling keeps its kernel.
            layer.kernel_size = 1 if layer.kernel_size == layer.stride else layer.kernel_size
            layer.stride = 1
    sizes = _map_sizes(finer, image_size_hw)
    return finer if sizes and sizes[-1] == sizes[-2] else None
