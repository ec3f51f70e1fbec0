"""The network that a student's training starts from: architecture and initial weights."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import timm
from torch import nn

from pivl_distill.config import StudentConfig
from pivl_distill.data.records import ReIDDataset
from pivl_distill.errors import PivlError
from students.backbones import create_backbone

logger = logging.getLogger(__name__)

WEIGHTS_DIR = Path(__file__).parent / "weights"


def build_network(
    config: StudentConfig, dataset: ReIDDataset, embedding_dim: int | None = None
) -> tuple[nn.Module, str]:
    """Return the network to train, without heads, and the weights it starts from.

    With `embedding_dim` a new linear layer of so many outputs ends it. If published weights cannot
    be downloaded, "auto" falls back to the embedded weights of the architecture, or to random ones,
    with a message; weights requested by name raise PivlError.
    """
    start = resolve_pretrained(config.arch, config.pretrained, dataset)
    build = partial(
        create_backbone,
        config.arch,
        image_size_hw=config.data.size_hw,
        last_stride=config.last_stride,
        embedding_dim=embedding_dim,
    )
    try:
        return build(pretrained=start), start
    except PivlError as error:
        if start != "timm" or config.pretrained != "auto":
            raise
        embedded = embedded_weights(config.arch)
        instead = "random weights" if embedded is None else "weights made of synthetic people"
        logger.warning(f"{error} Training starts from {instead}.")
        start = str(embedded or "none")
        return build(pretrained=start), start


def embedded_weights(arch: str) -> Path | None:
    """Return the file of the embedded weights of an architecture, or None."""
    path = WEIGHTS_DIR / f"{arch}.safetensors"
    return path if path.is_file() else None


def without_download(config: StudentConfig, dataset: ReIDDataset) -> StudentConfig:
    """Return settings with `pretrained` resolved, random weights in place of a download."""
    start = resolve_pretrained(config.arch, config.pretrained, dataset)
    return config.model_copy(update={"pretrained": "none" if start == "timm" else start})


def resolve_pretrained(arch: str, pretrained: str, dataset: ReIDDataset) -> str:
    """Resolve the setting `pretrained` to "timm", "none" or a file.

    "auto" takes the embedded weights on synthetic people if the architecture has them, timm's
    published weights on photographs if there are any, and otherwise random weights with a message.
    """
    embedded = embedded_weights(arch)
    if pretrained == "embedded" and embedded is None:
        raise PivlError(
            f"There are no embedded weights for {arch}; set pretrained to timm or none."
        )
    if pretrained not in ("auto", "embedded"):
        return pretrained
    if embedded is not None and (pretrained == "embedded" or dataset.synthetic):
        return str(embedded)
    if not dataset.synthetic and timm.is_model(arch) and timm.is_model_pretrained(arch):
        return "timm"
    logger.warning(
        f"{arch} starts from random weights; name a file with --pretrained for a better start."
    )
    return "none"
