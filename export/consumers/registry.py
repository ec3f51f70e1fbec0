"""All consumers by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from export.consumers.base import Consumer
from export.consumers.boxmot import BoxMot
from export.consumers.deepstream import DeepStream
from export.consumers.hub import Hub
from export.consumers.openvino import OpenVino
from export.consumers.triton import Triton
from export.consumers.ultralytics import Ultralytics
from export.consumers.web import Web
from pivl_distill.errors import PivlError, unknown_name

_ALL: tuple[Consumer, ...] = (
    BoxMot(),
    OpenVino(),
    Ultralytics(),
    Web(),
    Hub(),
    Triton(),
    DeepStream(),
)
CONSUMERS = {consumer.name: consumer for consumer in _ALL}


def parse_consumers(names: Iterable[str]) -> list[Consumer]:
    """Return the consumers of names such as "boxmot" or "boxmot,openvino", each once, in order.

    Raises PivlError for an unknown name.
    """
    chosen = {}
    for name in (part.strip() for text in names for part in text.split(",")):
        if name not in CONSUMERS:
            raise unknown_name("consumer", name, CONSUMERS)
        chosen[name] = CONSUMERS[name]
    return list(chosen.values())


def check_pythons(pythons: Mapping[str, Path], consumers: Iterable[Consumer]) -> None:
    """Raise PivlError unless each named Python is of a chosen consumer and has it installed."""
    chosen = {consumer.name: consumer for consumer in consumers}
    for name, python in pythons.items():
        if name not in chosen:
            raise PivlError(
                f"--consumer-python names '{name}', but --for does not; it names"
                f" {', '.join(chosen) or 'nothing'}."
            )
        chosen[name].check_python(python)
