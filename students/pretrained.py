"""Pretrained weights for a bare backbone: timm's published weights, or a file.

Files are read without running their code (`storage.weights_file`). A classifier in the file is
ignored. Of a wider network of the same family the channels with the largest weights are used
(`weight_selection`); any other missing, unexpected or misshapen tensor is an error.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import timm
from timm.layers import resample_abs_pos_embed
from timm.models.efficientnet import EfficientNet
from torch import Tensor

from pivl_distill.errors import PivlError
from pivl_distill.storage.state_dict import load_matching_state
from pivl_distill.storage.weights_file import read_state_dict
from students.weight_selection import convolution_channels, is_wider, select_channels

logger = logging.getLogger(__name__)

_STAGES = ("_conv_stem", "_bn0", "_blocks", "_conv_head", "_bn1", "_fc")
_BLOCK_LAYERS = (
    "_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_se_reduce", "_se_expand",
    "_project_conv", "_bn2",
)  # fmt: skip
"""Layers of EfficientNet-PyTorch, in the order in which they run."""


def load_network(name: str, image_size_hw: tuple[int, int], pretrained: str | Path) -> Any:
    """Return the timm network `name` without its classifier.

    The parameters are those of `create_backbone`. Raises PivlError if the weights cannot be
    downloaded or read, or do not fit.
    """
    settings: dict[str, Any] = {"num_classes": 0}
    if timm.get_pretrained_cfg(name).fixed_input_size:
        settings["img_size"] = image_size_hw
    if pretrained == "timm":
        try:
            return timm.create_model(name, pretrained=True, **settings)
        except Exception as error:  # the download libraries raise many types
            raise PivlError(
                f"No published weights of {name} could be loaded ({error}). Set pretrained to a "
                ".safetensors or .pth file with the weights, or to none."
            ) from error
    network = timm.create_model(name, **settings)
    if pretrained != "none":
        _load_file(network, Path(pretrained))
    return network


def _load_file(network: Any, path: Path) -> None:
    if not path.is_file():
        raise PivlError(
            f"There are no weights at '{path}'; set pretrained to none, timm or a file."
        )
    published = read_state_dict(path)
    state = convert_to_timm_names(published, network)
    classifier = network.pretrained_cfg["classifier"]
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    ignored = tuple(f"{head}." for head in heads)
    if is_wider(state, network, ignored):
        wide = convolution_channels(state)
        state = select_channels(state, network)
        logger.info(
            f"'{path}' holds a wider network; this one starts from those of its channels that have"
            f" the largest weights: {wide:,} → {convolution_channels(state):,} in all convolutions."
        )
    load_matching_state(
        network,
        state,
        path,
        "the architecture",
        "Set arch to the architecture of the file.",
        ignored=ignored,
    )


def convert_to_timm_names(state: dict[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Return published weights under timm's names, with position embeddings of the right size.

    MobileNetV2 files of d-li14 and torchvision, and EfficientNet files of EfficientNet-PyTorch
    (`_conv_stem`, `_blocks`), have the same layers in the same order, so they are renamed by
    position. Position embeddings of a square patch grid are interpolated to the network's grid, as
    in timm. Other tensors are returned unchanged.
    """
    orders = {"features.0.0.weight": _layer_order, "_conv_stem.weight": _efficientnet_order}
    order = next((orders[first] for first in orders if first in state), None)
    if order is not None and isinstance(network, EfficientNet):
        published = sorted({key.rpartition(".")[0] for key in state}, key=order)
        layers = dict.fromkeys(key.rpartition(".")[0] for key in network.state_dict())
        names = dict(zip(published, (n for n in layers if n != "classifier"), strict=False))
        names |= {"classifier": "classifier", "_fc": "classifier"}
        parts = [(key.rpartition("."), value) for key, value in state.items()]
        return {f"{names.get(m, m)}.{leaf}": value for (m, _, leaf), value in parts}
    position, target = state.get("pos_embed"), getattr(network, "pos_embed", None)
    if position is None or target is None or position.shape == target.shape:
        return state
    grid, prefix = network.patch_embed.grid_size, network.num_prefix_tokens
    patches = position.shape[1] - prefix
    if math.isqrt(patches) ** 2 != patches:
        return state  # the file's grid is unknown
    resized = resample_abs_pos_embed(position, list(grid), num_prefix_tokens=prefix)
    return state | {"pos_embed": resized}


def _layer_order(layer: str) -> tuple[int, list[int]]:
    """Return the sort key of `features.2.conv.0`, `conv.1` or `classifier`."""
    stage, *numbers = layer.split(".")
    order = ("features", "conv", "classifier")
    position = order.index(stage) if stage in order else len(order)
    return position, [int(number) for number in numbers if number.isdigit()]


def _efficientnet_order(layer: str) -> tuple[int, list[int]]:
    """Return the sort key of EfficientNet-PyTorch's `_conv_stem`, `_blocks.2._bn0` or `_fc`."""
    first, *rest = layer.split(".")
    number, name = rest if len(rest) == 2 else ("0", "")
    stage = _STAGES.index(first) if first in _STAGES else len(_STAGES)
    return stage, [int(number), _BLOCK_LAYERS.index(name) if name in _BLOCK_LAYERS else 0]
