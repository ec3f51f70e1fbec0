"""Initial weights from a wider network of the same family, by weight selection.

Xu et al. 2024, "Initializing models with larger ones" (ICLR): a small network starts from a subset
of the channels of a larger pretrained one, chosen consistently, so that the outputs chosen in one
layer are the inputs of the next. They take evenly spaced channels; here the channels are those
whose filters have the largest L1 norm (Li et al. 2017, "Pruning filters for efficient convnets").

Batch-norm tensors follow their channels. The statistics are those of the wider network, of whose
inputs a part is missing; training replaces them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.models._efficientnet_blocks import (
    ConvBnAct,
    DepthwiseSeparableConv,
    EdgeResidual,
    InvertedResidual,
    SqueezeExcite,
)
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import Tensor, nn

from pivl_distill.storage.state_dict import BATCH_COUNTER

BLOCKS = (ConvBnAct, DepthwiseSeparableConv, EdgeResidual, InvertedResidual)
"""Blocks whose layers run in the order in which they are registered."""


def is_wider(state: Mapping[str, Tensor], network: nn.Module, heads: tuple[str, ...]) -> bool:
    """Whether `state` is of the family of `network`, with more channels in at least one layer.

    The family: MobileNetV2, MobileNetV3 and EfficientNets of timm's plain blocks, with the same
    layers and kernels. `heads` are prefixes of classifier tensors, which are not compared.
    """
    narrow = {k: v for k, v in network.state_dict().items() if not k.endswith(BATCH_COUNTER)}
    names = {k for k in state if not k.endswith(BATCH_COUNTER) and not k.startswith(heads)}
    if not _is_supported(network) or names != narrow.keys():
        return False
    shapes = [(tuple(state[name].shape), tuple(narrow[name].shape)) for name in narrow]
    fits = all(
        len(wide) == len(own)
        and wide[2:] == own[2:]
        and all(w >= n for w, n in zip(wide, own, strict=True))
        for wide, own in shapes
    )
    return fits and any(wide != own for wide, own in shapes) and _is_consistent(state, network)


def select_channels(state: Mapping[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Return `state` reduced to the widths of `network`; `is_wider` must be true of them.

    A convolution keeps the output channels whose filters have the largest L1 norm, in their order.
    Depthwise convolutions, squeeze-and-excitation and batch norms follow. Where the wider network
    adds a block's input to its output, the output keeps the channels of the input. Such additions
    that only `network` has, because rounding made two widths equal (MobileNetV2 ×0.25's first
    block), join different channels.
    """
    selected = dict(state)
    for name, outputs, inputs in _choices(state, network):
        for key in _tensors_of(state, name):
            selected[key] = state[key][outputs.kept]
        if inputs is not None:
            selected[f"{name}.weight"] = selected[f"{name}.weight"][:, inputs.kept]
    return selected


def largest_filters(weight: Tensor, count: int) -> Tensor:
    """Return the ascending indices [count] of the filters of `weight` [O, I, h, w] by L1 norm."""
    norms = weight.abs().flatten(1).double().sum(1)
    return norms.sort(descending=True, stable=True).indices[:count].sort().values


def convolution_channels(state: Mapping[str, Tensor]) -> int:
    """Return the number of output channels of all convolutions."""
    return sum(len(value) for value in state.values() if value.ndim == 4)


@dataclass(frozen=True)
class _Channels:
    """The channels of one feature map: their number in the wider network, and the kept ones."""

    width: int
    kept: Tensor

    @classmethod
    def choose(cls, weight: Tensor, count: int) -> _Channels:
        return cls(len(weight), largest_filters(weight, count))


def _choices(
    state: Mapping[str, Tensor], network: Any
) -> Iterator[tuple[str, _Channels, _Channels | None]]:
    """Yield each layer's name, output channels, and, if its weight has them, input channels."""
    colours = network.conv_stem.in_channels
    stream = _Channels(colours, torch.arange(colours))
    for layers, has_skip in _units(network):
        entering = squeezed = stream
        last = [name for name, layer in layers if _is_dense(name, layer)][-1:]
        for name, layer in layers:
            weight = state[f"{name}.weight"]
            if _is_dense(name, layer):
                inputs = stream
                skip = has_skip and [name] == last and len(weight) == entering.width
                stream = entering if skip else _Channels.choose(weight, layer.out_channels)
                yield name, stream, inputs
            elif name.endswith("se.conv_reduce"):
                squeezed = _Channels.choose(weight, layer.out_channels)
                yield name, squeezed, stream
            elif name.endswith("se.conv_expand"):
                yield name, stream, squeezed
            else:  # depthwise convolution or batch norm
                yield name, stream, None


def _is_consistent(state: Mapping[str, Tensor], network: Any) -> bool:
    """Whether each layer of `state` has the widths that the layers before it produce."""
    return all(
        (inputs is None or state[f"{name}.weight"].shape[1] == inputs.width)
        and all(len(state[key]) == outputs.width for key in _tensors_of(state, name))
        for name, outputs, inputs in _choices(state, network)
    )


def _tensors_of(state: Mapping[str, Tensor], layer: str) -> list[str]:
    leaves = ("weight", "bias", "running_mean", "running_var")
    return [key for leaf in leaves if (key := f"{layer}.{leaf}") in state]


def _is_supported(network: Any) -> bool:
    if not isinstance(network, EfficientNet | MobileNetV3):
        return False
    blocks = [block for stage in network.blocks for block in stage]
    plain = all(
        type(block) in BLOCKS
        and type(getattr(block, "se", None)) in (SqueezeExcite, nn.Identity, type(None))
        for block in blocks
    )
    layers = [layer for unit, _ in _units(network) for _, layer in unit] if plain else []
    return plain and all(
        isinstance(layer, nn.BatchNorm2d)
        or (isinstance(layer, nn.Conv2d) and layer.groups in (1, layer.in_channels))
        for layer in layers
    )


def _units(network: Any) -> Iterator[tuple[list[tuple[str, Any]], bool]]:
    """Yield the layers of stem, blocks and head by name, in order, and whether there is a skip."""
    layers = [
        (name, layer)
        for name, layer in network.named_modules()
        if any(True for _ in layer.parameters(recurse=False)) and name != "classifier"
    ]
    yield [(name, layer) for name, layer in layers if name in ("conv_stem", "bn1")], False
    for s, stage in enumerate(network.blocks):
        for b, block in enumerate(stage):
            prefix = f"blocks.{s}.{b}."
            yield [pair for pair in layers if pair[0].startswith(prefix)], block.has_skip
    yield (
        [(name, layer) for name, layer in layers if name in ("conv_head", "bn2", "norm_head")],
        False,
    )


def _is_dense(name: str, layer: nn.Module) -> bool:
    """Whether a layer is a convolution over all channels, outside squeeze-and-excitation."""
    return isinstance(layer, nn.Conv2d) and layer.groups == 1 and ".se." not in name
