"""Layer names of other libraries, mapped to timm's where both have the same layers in one order.

torchvision's ResNets have timm's names. Its MobileNets and EfficientNets, and the networks of
d-li14 and of EfficientNet-PyTorch, name the same layers differently, so they are renamed by
position; shapes are compared afterwards, by `load_matching_state`. Their batch norms may add
another ε to the variance than timm's. The difference is added to the variance itself, so that the
renamed network computes the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import Tensor, nn

from pivl_distill.storage.state_dict import BATCH_COUNTER

logger = logging.getLogger(__name__)

SortKey = tuple[int, list[int]]

TORCH_EPSILON, TENSORFLOW_EPSILON = 1e-5, 1e-3
"""ε of batch norms: the default of PyTorch, and that of TensorFlow's networks."""

_STAGES = ("_conv_stem", "_bn0", "_blocks", "_conv_head", "_bn1", "_fc")
_BLOCK_LAYERS = (
    "_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_se_reduce", "_se_expand",
    "_project_conv", "_bn2",
)  # fmt: skip
"""Layers of EfficientNet-PyTorch, in the order in which they run."""


def _features_order(layer: str) -> SortKey:
    """Return the sort key of `features.2.conv.0`, `features.3.block.2.fc1`, `conv.1`, …."""
    stage, *rest = layer.split(".")
    order = ("features", "conv", "classifier")
    position = order.index(stage) if stage in order else len(order)
    return position, [int(name.removeprefix("fc")) for name in rest if _is_number(name)]


def _is_number(name: str) -> bool:
    return name.removeprefix("fc").isdigit()


def _efficientnet_order(layer: str) -> SortKey:
    """Return the sort key of EfficientNet-PyTorch's `_conv_stem`, `_blocks.2._bn0` or `_fc`."""
    first, *rest = layer.split(".")
    number, name = rest if len(rest) == 2 else ("0", "")
    stage = _STAGES.index(first) if first in _STAGES else len(_STAGES)
    return stage, [int(number), _BLOCK_LAYERS.index(name) if name in _BLOCK_LAYERS else 0]


def _torchvision_epsilon(layers: set[str]) -> float:
    """Return ε of torchvision's EfficientNet: TensorFlow's for B5 to B7 and V2.

    These have three blocks or more in their first stage, and V2 no squeeze-and-excitation there.
    """
    squeezes, deep = "features.1.0.block.1.fc1" in layers, "features.1.2.block.0.0" in layers
    return TORCH_EPSILON if squeezes and not deep else TENSORFLOW_EPSILON


@dataclass(frozen=True)
class Naming:
    """How a library names the layers of a family of networks."""

    title: str
    """The library and its family."""
    sign: re.Pattern[str]
    """Matches the name of a layer that only this family has."""
    order: Callable[[str], SortKey]
    """Sorts layers in the order in which they run."""
    classifier: str
    """The layer, or its parent, that maps features to classes."""
    network: Any
    """timm's class of the family."""
    archs: tuple[str, ...]
    """timm's names of the published networks."""
    epsilon: Callable[[set[str]], float]
    """Returns ε of the batch norms of a file, given its layers."""


_BS = tuple(f"efficientnet_b{size}" for size in range(8))
NAMINGS = (
    Naming(
        "MobileNetV2 by torchvision or d-li14",
        re.compile(r"features\.1\.conv\."),
        _features_order,
        "classifier",
        EfficientNet,
        ("mobilenetv2_100", "mobilenetv2_050", "mobilenetv2_025"),
        lambda _: TORCH_EPSILON,
    ),
    Naming(
        "torchvision's MobileNetV3",
        re.compile(r"features\.1\.block\."),
        _features_order,
        "classifier.3",
        MobileNetV3,
        ("mobilenetv3_large_100", "mobilenetv3_small_100"),
        lambda _: TENSORFLOW_EPSILON,
    ),
    Naming(
        "torchvision's EfficientNet",
        re.compile(r"features\.1\.0\.block\."),
        _features_order,
        "classifier",
        EfficientNet,
        (*_BS, "efficientnetv2_s", "efficientnetv2_m", "efficientnetv2_l"),
        _torchvision_epsilon,
    ),
    Naming(
        "EfficientNet-PyTorch",
        re.compile("_conv_stem$"),
        _efficientnet_order,
        "_fc",
        EfficientNet,
        (*(f"tf_efficientnet_lite{size}" for size in range(5)), *(f"tf_{name}" for name in _BS)),
        lambda _: TENSORFLOW_EPSILON,
    ),
)


def recognise(state: dict[str, Tensor]) -> Naming | None:
    """Return the naming of a state dict, or None if it is timm's own or unknown."""
    layers = _layers(state)
    return next((n for n in NAMINGS if any(map(n.sign.match, layers))), None)


def convert_to_timm_names(state: dict[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Return published weights under timm's names; unchanged if they cannot be those of `network`.

    Names that the network has no layer for stay as they are.
    """
    naming = recognise(state)
    if naming is None or not isinstance(network, naming.network):
        return state
    layers, head = _layers(state), naming.classifier
    classifiers = {layer for layer in layers if f"{layer}.".startswith(f"{head}.")}
    published = sorted(layers - classifiers, key=naming.order)
    own = dict.fromkeys(_layer(key) for key in network.state_dict())
    names = dict(zip(published, (layer for layer in own if layer != "classifier"), strict=False))
    names |= dict.fromkeys(classifiers, "classifier")
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    converted = {}
    for key, value in state.items():
        layer, _, leaf = key.rpartition(".")
        name = f"{names.get(layer, layer)}.{leaf}"
        converted[name] = _as_kernel(value, shapes.get(name))
    _adjust_variances(converted, network, naming.epsilon(layers))
    return converted


def suggest_arch(state: dict[str, Tensor]) -> str:
    """Return a sentence that says which `arch` a file of a known naming fits."""
    naming = recognise(state)
    if naming is None:
        return "Set arch to the architecture of the file."
    start = f"The file has the layer names of {naming.title}. Set arch to"
    for arch in naming.archs:
        with torch.device("meta"):
            network: Any = timm.create_model(arch, num_classes=0)
        meta = {name: tensor.to("meta") for name, tensor in state.items()}
        converted = {
            name: value.shape
            for name, value in convert_to_timm_names(meta, network).items()
            if not name.startswith("classifier.") and not name.endswith(BATCH_COUNTER)
        }
        own = {
            name: value.shape
            for name, value in network.state_dict().items()
            if not name.endswith(BATCH_COUNTER)
        }
        if converted == own:
            return f"{start} {arch}, which it fits."
    return f"{start} a network of that family, such as {naming.archs[0]}; it fits none of timm's."


def warn_of_padding(state: dict[str, Tensor], network: Any, source: object) -> None:
    """Log a warning if weights that were trained with TensorFlow's padding get another one."""
    arch = network.pretrained_cfg["architecture"]
    naming = recognise(state)
    if naming is None or naming.network is not EfficientNet or naming.classifier != "_fc":
        return
    if not arch.startswith("tf_") and timm.is_model(f"tf_{arch}"):
        logger.warning(
            f"The weights in '{source}' come from TensorFlow, whose padding {arch} lacks; set arch"
            f" to tf_{arch}, which has it."
        )


def _adjust_variances(state: dict[str, Tensor], network: Any, epsilon: float) -> None:
    """Add to each variance what the file's ε exceeds that of the network's batch norm by."""
    for name, module in network.named_modules():
        key = f"{name}.running_var"
        if key in state and isinstance(module, nn.BatchNorm2d) and module.eps != epsilon:
            state[key] = (state[key] + (epsilon - module.eps)).clamp(min=0)


def _as_kernel(weight: Tensor, shape: torch.Size | None) -> Tensor:
    """Return the weight [O, I] of a linear layer as that of a 1×1 convolution if `shape` is one."""
    is_kernel = shape is not None and len(shape) == 4 and shape[2:] == (1, 1)
    return weight[:, :, None, None] if is_kernel and weight.ndim == 2 else weight


def _layers(state: dict[str, Tensor]) -> set[str]:
    return {_layer(key) for key in state}


def _layer(key: str) -> str:
    return key.rpartition(".")[0]
