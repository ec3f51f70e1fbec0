"""The sections of the page, in order. Each module has a `TITLE` and a function `build`.

`build(context)` returns the blocks of the section. It raises LeftOutError, or PivlError, if the
input of the section is missing; its message then stands in place of the section.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pivl_distill.report.blocks import Block
from pivl_distill.report.context import ReportContext
from pivl_distill.report.sections import (
    activations,
    alignment,
    bank,
    consistency,
    deployment,
    retrieval,
    robustness,
    summary,
    training,
)


@dataclass(frozen=True)
class SectionBuilder:
    """The title of a section, and the function that makes its blocks."""

    title: str
    build: Callable[[ReportContext], Sequence[Block]]


_MODULES = (
    summary,
    training,
    retrieval,
    activations,
    consistency,
    alignment,
    bank,
    deployment,
    robustness,
)
SECTIONS = tuple(SectionBuilder(module.TITLE, module.build) for module in _MODULES)
