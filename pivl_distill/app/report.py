"""What each command prints when it is done.

The stages are imported for their types only: reporting a student must not load CLIP.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pivl_distill.console import summary, table
from pivl_distill.data.check import CheckReport
from pivl_distill.data.published_counts import PUBLISHED, Counts, PublishedCounts
from pivl_distill.data.records import ReIDDataset
from pivl_distill.retrieval import RetrievalResult

if TYPE_CHECKING:
    from pivl_distill.parsing.parse_dataset import ParseReport
    from pivl_distill.training.dry_run import DryRunReport
    from students.distill import StudentReport
    from teachers.clip_reid_bank import ClipReIDBankReport
    from teachers.teach import TeachReport

logger = logging.getLogger(__name__)

NO_CAMERA_RULE = "unknown: crops of the query's own camera count as hits (not the usual protocol)"

NOT_MEASURED = "not measured"
"""In place of a score of a run without evaluation."""

EMPTY_SHARE = 0.02
"""Share of maps without a person above which the parser or its preprocessing may be wrong."""


def percent(share: float) -> str:
    """Format a value in 0..1 as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def retrieval_rows(result: RetrievalResult | None) -> dict[str, object]:
    """Name → value of mAP, Rank-k, mINP, and the queries that have no match.

    None stands for a run without evaluation.
    """
    if result is None:
        return {"mAP, Rank-1": f"{NOT_MEASURED} (--no-evaluation)"}
    rows: dict[str, object] = {
        "mAP": percent(result.mAP),
        "Rank-1 / 5 / 10": " / ".join(percent(result.rank(k)) for k in (1, 5, 10)),
        "mINP": percent(result.mINP),
        "queries": result.valid_queries,
    }
    if result.skipped_queries:
        rows["queries without a match"] = result.skipped_queries
    if not result.camera_rule:
        rows["cameras"] = NO_CAMERA_RULE
    return rows


def print_settings(command: str, *, advanced: bool) -> None:
    """Print the basic settings of `teach` or `student`, or all of them."""
    from pivl_distill.config.reference import COMMANDS, settings_help

    rows: dict[str, object] = {}
    for entry in settings_help(COMMANDS[command], advanced):
        unit = f" ({entry.unit})" if entry.unit else ""
        source = f"\nSource: {entry.source}" if entry.source else ""
        rows[entry.name] = f"{entry.default}{unit}\n{entry.description}{source}"
    title = f"{'All' if advanced else 'Basic'} settings of `pivl-distill {command}`: default (unit)"
    summary(title, rows)


def print_dry_run(report: DryRunReport) -> None:
    """Print what a training run would do, and its memory and time."""
    summary(report.title, report.rows)


def print_teach(report: TeachReport) -> None:
    """Print the probes of the bank and the teacher's scores."""
    readout = report.readout
    rows: dict[str, object] = {
        "prompt bank": report.bank,
        "image → own identity text": percent(readout.own_identity),
    }
    if readout.nearest_label is not None:
        rows["part text → own part word"] = percent(readout.nearest_label)
    if readout.colour is not None:
        rows["part text → true colour"] = ", ".join(
            f"{name} {percent(value)}" for name, value in readout.colour.items()
        )
    cosines = {
        "cosine of two identities": (readout.identity_cosine, readout.part_cosine),
        "the same, centred (RMS)": (readout.identity_cosine_centred, readout.part_cosine_centred),
    }
    rows |= {name: _text_cosines(*both) for name, both in cosines.items() if both[0] is not None}
    rows |= {"teacher": report.teacher, **retrieval_rows(report.retrieval)}
    rows["time"] = ", ".join(f"{name} {value:.0f} s" for name, value in report.seconds.items())
    summary(f"Taught in {report.run}", rows)
    _warn_missing_maps(report.missing_maps)


def _text_cosines(identity: float | None, parts: Mapping[str, float] | None) -> str:
    """Cosines of identity texts and of part texts, the latter as a mean over parts."""
    part_texts = f", part texts {statistics.mean(parts.values()):.3f}" if parts else ""
    return f"identity texts {identity:.3f}{part_texts}"


def print_clip_reid_bank(report: ClipReIDBankReport) -> None:
    """Print what was imported, and whether the checkpoint fits the data."""
    rows = {
        "prompt bank": report.bank,
        "identities": report.identities,
        "part texts": "yes" if report.parts else "no; --base makes them",
        "image → own identity text": percent(report.agreement),
        "teacher": report.teacher,
    }
    summary(f"Imported to {report.run}", rows)
    if report.agreement < 0.5:
        logger.warning(
            "Fewer than half of the crops are nearest to their own identity text; check that the"
            " checkpoint was trained on this data set."
        )


def print_student(report: StudentReport) -> None:
    """Print the student's scores."""
    rows = {
        "student": report.student,
        "started from": report.start,
        **retrieval_rows(report.retrieval),
        "training time": f"{report.seconds:.0f} s",
    }
    if report.gallery is not None:
        command = f"pivl-distill evaluate {report.run} --gallery {report.gallery}"
        rows["trained for the gallery of"] = f"{report.gallery}; `{command}` measures it"
    summary(f"Student in {report.run}", rows)
    _warn_missing_maps(report.missing_maps)


def print_check(report: CheckReport) -> None:
    """Print the counts, each finding with an example, and the verdict."""
    _print_counts(report.name, report.counts, report.published)
    rows = [
        (finding.subject, f"{len(finding.found):,}", finding.verdict, next(iter(finding.found), ""))
        for finding in report.findings
    ]
    table("Looked for", ("", "found", "verdict", "first"), rows)
    images = report.counts["train"][0]
    share = percent(report.mapped / images)
    details: dict[str, object] = {
        "folder": report.root,
        "parsing maps": f"{report.mapped:,} of {images:,} training images ({share})",
    }
    if not report.has_cameras:
        details["cameras"] = NO_CAMERA_RULE
    if report.published is not None:
        details["protocol"] = report.published.protocol
    details["verdict"] = f"{report.problems or 'no'} problem{'s' * (report.problems != 1)}"
    summary("Checked", details)


def print_parse(spec: str, report: ParseReport) -> None:
    """Print the statistics of the maps per class, and where they are."""
    statistics, agreement = report.statistics, report.agreement
    columns, iou = ["", "maps", "pixels"], None
    if agreement is not None:
        columns, iou = [*columns, "IoU"], agreement.iou()
    rows = []
    for number, (label, images, pixels) in enumerate(statistics.shares()):
        row = [label, percent(images), percent(pixels)]
        rows.append(row if iou is None else [*row, f"{iou[number]:.3f}".replace("nan", "-")])
    table(f"Classes ({statistics.vocabulary.name})", columns, rows)
    details: dict[str, object] = {
        "maps": f"{report.written:,} written, {report.kept:,} kept from an earlier run",
        "classes present": f"{statistics.classes} of {len(statistics.vocabulary)}",
        "foreground": f"{percent(statistics.foreground)} of the known pixels",
        "unknown": f"{percent(statistics.unknown)} of all pixels",
        "maps without a person": f"{len(statistics.empty):,}",
    }
    if statistics.left_share is not None:
        details["left of left and right"] = f"{percent(statistics.left_share)} of the pixels"
    if agreement is not None:
        details["mIoU with the data set's own maps"] = f"{agreement.mean_iou:.3f}"
    details |= {"QA sheet": report.sheet, "train with": f"--data {spec} --parsing {report.folder}"}
    summary(f"Maps in {report.folder}", details)
    if report.missing:
        logger.warning(
            f"{len(report.missing)} images have no map; the first is {report.missing[0]}."
        )
    if len(statistics.empty) > EMPTY_SHARE * statistics.maps:
        logger.warning(
            f"{len(statistics.empty)} maps contain no person; the first is that of"
            f" {statistics.empty[0]}."
        )


def print_synthetic(dataset: ReIDDataset, tier: str, seed: int, sheet: Path | None) -> None:
    """Print where synthetic people were written, and the counts of each split."""
    rows: dict[str, object] = {"folder": dataset.root}
    for split, (images, identities, cameras) in dataset.summary().items():
        rows[split] = f"{images} images, {identities} identities, {cameras} cameras"
    if sheet is not None:
        rows["sheet"] = sheet
    summary(f"Synthetic people, tier {tier}, seed {seed}", rows)


def print_dataset(dataset: ReIDDataset) -> None:
    """Print where a rebuilt data set is, and its counts next to the published ones."""
    published = PUBLISHED.get(dataset.name)
    _print_counts(dataset.name, dataset.summary(), published)
    summary("Written", {"folder": dataset.root})


def _print_counts(title: str, counts: Counts, published: PublishedCounts | None) -> None:
    columns = ["", "images", "identities", "cameras"]
    rows = [[split, *(f"{number:,}" for number in count)] for split, count in counts.items()]
    if published is not None:
        columns += ["published images", "identities", "cameras"]
        for row in rows:
            row += [f"{number:,}" for number in published.counts[row[0]]]
    table(title, columns, rows)


def _warn_missing_maps(missing: int) -> None:
    if missing:
        logger.warning(f"{missing} training images have no parsing map; their parts were left out.")
