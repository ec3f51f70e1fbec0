"""Write the page: find the runs, build every section, render."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pivl_distill.console import summary
from pivl_distill.errors import PivlError
from pivl_distill.report.blocks import LeftOutError, Section
from pivl_distill.report.context import ReportContext, ReportSettings
from pivl_distill.report.page import Page, check_packages, render
from pivl_distill.report.runs import find_runs
from pivl_distill.report.sections import SECTIONS, SectionBuilder
from pivl_distill.runs.run import RUNS_DIR
from pivl_distill.storage.filenames import utf8_name
from pivl_distill.storage.files import check_writable, write_text

logger = logging.getLogger(__name__)

DEFAULTS = ReportSettings()


@dataclass(frozen=True)
class WrittenReport:
    """The file, the names of its runs, and title → reason of sections that are left out."""

    path: Path
    runs: tuple[str, ...]
    left_out: dict[str, str]


def write_report(
    runs: Sequence[Path], out: Path, settings: ReportSettings = DEFAULTS
) -> WrittenReport:
    """Write the page about some run folders; default: the latest run of each kind.

    Raises PivlError, before anything is computed, if a package or run is missing, or `out` cannot
    be written.
    """
    check_packages()
    check_writable(out)
    context = ReportContext(find_runs(runs), settings)
    sections = [build_section(builder, context) for builder in SECTIONS]
    page = Page(context.runs, sections, describe_photographs(context))
    write_text(out, utf8_name(render(page)))
    left_out = {section.title: section.left_out for section in sections if section.left_out}
    return WrittenReport(out, tuple(run.name for run in context.runs), left_out)


def write_demo_report(runs: Sequence[Path]) -> Path | None:
    """Write `runs/report.html`; without the extra `[report]`, warn and return None."""
    try:
        check_packages()
    except PivlError as error:
        logger.warning(str(error))
        return None
    return write_report(runs, RUNS_DIR / "report.html").path


def print_report(report: WrittenReport) -> None:
    """Print where the page is, and what is not on it."""
    rows: dict[str, object] = {
        "page": report.path,
        "runs": ", ".join(report.runs),
        "size": f"{report.path.stat().st_size / 1e6:.1f} MB",
    }
    rows |= {f"left out: {title}": reason for title, reason in report.left_out.items()}
    summary("Report", rows)


def build_section(builder: SectionBuilder, context: ReportContext) -> Section:
    """Return a section, or the sentence in its place if its input is missing."""
    try:
        return Section(builder.title, builder.build(context))
    except (LeftOutError, PivlError) as error:
        return Section(builder.title, left_out=str(error))


def describe_photographs(context: ReportContext) -> str:
    """Return the sentence about photographs; there are none if the data set cannot be read."""
    try:
        return context.pictures.statement()
    except PivlError as error:
        return f"This page contains no photographs: {error}"
