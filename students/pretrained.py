"""Pretrained weights for a bare backbone: timm's published weights, or a file.

A classifier in the file is ignored. Layer names of other libraries (`published_names`) and position
tables of other sizes are converted. Of a wider network of the same family the channels with the
largest weights are used (`weight_selection`); any other missing, unexpected or misshapen tensor is
an error.
"""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path
from typing import Any

import timm
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from pivl_distill.errors import PivlError
from pivl_distill.storage.state_dict import load_matching_state, require_matching_state
from pivl_distill.storage.weights_file import read_state_dict
from students.published_names import convert_to_timm_names, suggest_arch, warn_of_padding
from students.weight_selection import convolution_channels, is_wider, select_channels

logger = logging.getLogger(__name__)


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
    state = resize_tables(convert_to_timm_names(published, network), network)
    warn_of_padding(published, network, path)
    ignored = _classifier(network)
    if is_wider(state, network, ignored):
        wide = convolution_channels(state)
        state = select_channels(state, network)
        logger.info(
            f"'{path}' holds a wider network; this one starts from those of its channels that have"
            f" the largest weights: {wide:,} → {convolution_channels(state):,} in all convolutions."
        )
    remedy = "" if _fits(state, network) else suggest_arch(published)
    load_matching_state(network, state, path, "the architecture", remedy, ignored=ignored)


def resize_tables(state: dict[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Return a state dict whose position tables have the sizes of `network`, resized as by timm.

    Absolute position embeddings are resized from a square grid of patches, or from one of the
    network's aspect ratio; others have an unknown grid and stay as they are. timm's own conversion
    for the network resizes the rest (relative positions, patch kernels). A state dict that fits, or
    that timm cannot convert, is returned unchanged.
    """
    if _fits(state, network):
        return state
    position, target = state.get("pos_embed"), getattr(network, "pos_embed", None)
    if position is not None and target is not None and _lengths_differ(position, target):
        grid, prefix = network.patch_embed.grid_size, network.num_prefix_tokens
        if (old_grid := _find_grid(position.shape[1] - prefix, grid)) is None:
            return state
        resized = resample_abs_pos_embed(
            position, list(grid), list(old_grid), num_prefix_tokens=prefix
        )
        state = state | {"pos_embed": resized}
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None or _fits(state, network):
        return state
    try:
        converted: dict[str, Tensor] = convert(dict(state), network)
    except Exception:  # written for the files of one publisher; others may raise anything
        return state
    return converted


def _lengths_differ(table: Tensor, target: Tensor) -> bool:
    """Whether the tables are [1, N, width] and differ in N alone."""
    (_, *own), (_, *other) = table.shape or (0,), target.shape or (0,)
    return len(own) == len(other) == 2 and own[0] != other[0] and own[1] == other[1]


def _find_grid(patches: int, grid_hw: tuple[int, int]) -> tuple[int, int] | None:
    """Return the grid (h, w) of so many patches: square, or in proportion to `grid_hw`."""
    height, width = grid_hw
    if patches <= 0:
        return None
    for h, w in ((1, 1), (height, width)):
        common = math.gcd(h, w)
        h, w = h // common, w // common
        scale = math.isqrt(patches // (h * w))
        if scale**2 * h * w == patches:
            return h * scale, w * scale
    return None


def _fits(state: dict[str, Tensor], network: Any) -> bool:
    """Whether a state dict has the names and shapes of a network, apart from its classifier."""
    try:
        require_matching_state(
            network.state_dict(), state, "", "", "", ignored=_classifier(network)
        )
    except PivlError:
        return False
    return True


def _classifier(network: Any) -> tuple[str, ...]:
    """Return the prefixes of the names of a network's classifier."""
    classifier = network.pretrained_cfg["classifier"]
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    return tuple(f"{head}." for head in heads)
