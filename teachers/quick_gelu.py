"""Which activation weights in a file need: GELU, or OpenAI's approximation QuickGELU.

A state dict does not say so, and with the wrong one a CLIP works, only worse. OpenAI's archives are
recognised by their own entries. Other files are compared with what open_clip publishes for the
architecture: by file name, and by hash. Failing that, weights in half precision may be OpenAI's,
and the user has to say it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import open_clip
from torch import Tensor

from pivl_distill.errors import PivlError
from pivl_distill.storage.files import sha256

logger = logging.getLogger(__name__)

Activation = Literal["auto", "quick_gelu", "gelu"]

QUICKGELU_SUFFIX = "-quickgelu"
"""Suffix of open_clip architectures with QuickGELU, the activation of OpenAI's weights."""
_SHORTEST_FAMILY = 3
"""Letters that the name of a family of weights, such as "openai", has at least."""
_EMBEDDINGS = ("token_embedding.weight", "positional_embedding")
"""Matrices that OpenAI keeps in single precision."""


def needs_quick_gelu(name: str, path: Path, state: Mapping[str, Tensor]) -> bool:
    """Return whether the weights `state` of CLIP `name` in a file without a mark need QuickGELU.

    Raises PivlError if that is open.
    """
    published = _published(name)
    if name.endswith(QUICKGELU_SUFFIX) or not published:
        return name.endswith(QUICKGELU_SUFFIX)
    answers = {bool(settings.get("quick_gelu")) for settings in published.values()}
    if len(answers) > 1:
        answers = _by_name(path, published) or _by_hash(path, published) or answers
    if len(answers) == 1:
        (quick,) = answers
        activation = "QuickGELU" if quick else "GELU"
        logger.info(
            f"'{path}' is used with {activation}, as the published weights of {name} that it"
            " resembles; clip.activation sets another one."
        )
        return quick
    if _is_half_precision(state):
        raise PivlError(
            f"'{path}' does not say which activation it needs. All of its weights are in half"
            " precision, as OpenAI's are, which need QuickGELU; with the wrong one a CLIP works,"
            " but worse. Set clip.activation to quick_gelu if they are OpenAI's or were fine-tuned"
            " from them, and to gelu if they are from LAION or DataComp."
        )
    logger.info(
        f"'{path}' is used with GELU. If it was fine-tuned from OpenAI's weights, set"
        " clip.activation to quick_gelu."
    )
    return False


def _published(name: str) -> dict[str, Mapping[str, Any]]:
    """Return open_clip's entries of the published weights of an architecture, by tag."""
    base = name.removesuffix(QUICKGELU_SUFFIX)
    return {
        tag: open_clip.get_pretrained_cfg(model, tag)
        for model in (base, f"{base}{QUICKGELU_SUFFIX}")
        for tag in open_clip.list_pretrained_tags_by_model(model)
    }


def _by_name(path: Path, published: Mapping[str, Mapping[str, Any]]) -> set[bool]:
    """Return the answers of the families of weights that a file name holds, such as "laion"."""
    words = re.sub(r"[^a-z0-9]+", " ", path.name.lower())
    families = {
        match[0]: tag
        for tag in published
        if (match := re.match("[a-z]+", tag)) and len(match[0]) >= _SHORTEST_FAMILY
    }
    held = [family for family in families if re.search(rf"\b{family}", words)]
    return {
        bool(settings.get("quick_gelu"))
        for tag, settings in published.items()
        if tag.startswith(tuple(held))
    }


def _by_hash(path: Path, published: Mapping[str, Mapping[str, Any]]) -> set[bool]:
    """Return the answer of the published file with this hash; URLs hold its first digits."""
    digest = sha256(path)
    return {
        bool(settings.get("quick_gelu"))
        for settings in published.values()
        for start in re.findall(r"[-/]([0-9a-f]{8,64})[/.]", settings.get("url", ""))
        if digest.startswith(start)
    }


def _is_half_precision(state: Mapping[str, Tensor]) -> bool:
    """Whether every matrix and kernel has values of half precision, whatever its own format."""
    matrices = [
        value
        for name, value in state.items()
        if value.ndim > 1 and value.is_floating_point() and not name.endswith(_EMBEDDINGS)
    ]
    return all(bool((value.half().to(value.dtype) == value).all()) for value in matrices)
