"""ImageNet weights for a bare backbone: timm's published ones, or a file.

Files are read without unpickling. The classifier is ignored, present or not; anything else that
does not fit is an error, for a network half loaded trains without complaint.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import timm
from timm.layers import resample_abs_pos_embed
from timm.models import load_state_dict
from timm.models.efficientnet import EfficientNet
from torch import Tensor

from pivl_distill.errors import PivlError
from pivl_distill.storage.state_dict import load_matching_state


def load_network(name: str, image_size_hw: tuple[int, int], pretrained: str | Path) -> Any:
    """The timm network `name` without its classifier, as `create_backbone` describes it."""
    settings: dict[str, Any] = {"num_classes": 0}
    if timm.get_pretrained_cfg(name).fixed_input_size:
        settings["img_size"] = image_size_hw
    if pretrained == "timm":
        try:
            return timm.create_model(name, pretrained=True, **settings)
        except Exception as error:  # whatever the download libraries raise
            raise PivlError(
                f"No published weights of {name} could be loaded ({error}). Set pretrained to a "
                ".safetensors or .pth file that holds them, or to none."
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
    try:
        published = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # torch and safetensors each have their own
        raise PivlError(f"'{path}' is not a readable weights file: {error}") from error
    state = convert_to_timm_names(published, network)
    classifier = network.pretrained_cfg["classifier"]
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    load_matching_state(
        network,
        state,
        path,
        "the architecture",
        "Set arch to the one that the file was made for.",
        ignored=tuple(f"{head}." for head in heads),
    )


def convert_to_timm_names(state: dict[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Published weights as `network` names and shapes them; what is not known stays as it is.

    d-li14's MobileNetV2 files number the same layers in the same order. Position embeddings of a
    square image are interpolated to the network's grid, as timm does.
    """
    if "features.0.0.weight" in state and isinstance(network, EfficientNet):
        theirs = sorted({key.rpartition(".")[0] for key in state}, key=_layer_name)
        ours = dict.fromkeys(key.rpartition(".")[0] for key in network.state_dict())
        names = dict(zip(theirs, (n for n in ours if n != "classifier"), strict=False))
        names["classifier"] = "classifier"
        parts = [(key.rpartition("."), value) for key, value in state.items()]
        return {f"{names.get(m, m)}.{leaf}": value for (m, _, leaf), value in parts}
    position, ours_position = state.get("pos_embed"), getattr(network, "pos_embed", None)
    if position is None or ours_position is None or position.shape == ours_position.shape:
        return state
    grid, prefix = network.patch_embed.grid_size, network.num_prefix_tokens
    patches = position.shape[1] - prefix
    if math.isqrt(patches) ** 2 != patches:
        return state  # the file does not say which grid it was made for
    resized = resample_abs_pos_embed(position, list(grid), num_prefix_tokens=prefix)
    return state | {"pos_embed": resized}


def _layer_name(layer: str) -> tuple[int, list[int]]:
    """Where d-li14's `features.2.conv.0`, `conv.1` or `classifier` stands in the network."""
    stage, *numbers = layer.split(".")
    order = ("features", "conv", "classifier")
    known = order.index(stage) if stage in order else len(order)
    return known, [int(number) for number in numbers if number.isdigit()]
