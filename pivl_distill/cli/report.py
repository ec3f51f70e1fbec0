"""What each command prints at its end.

The stages are imported for their types only: reporting a student must not load CLIP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pivl_distill.console import note, summary, table
from pivl_distill.data.check import CheckReport
from pivl_distill.data.published import PUBLISHED, Counts, Published
from pivl_distill.data.records import ReIDDataset
from pivl_distill.retrieval import RetrievalResult

if TYPE_CHECKING:
    from export.exporter import EngineReport, ExportReport
    from pivl_distill.cli.sources import Evaluation
    from pivl_distill.parsing.writing import ParseReport
    from pivl_distill.rehearsal import Rehearsal
    from students.distill import StudentReport
    from teachers.released_bank import ReleasedBankReport
    from teachers.teach import TeachReport


NO_CAMERA_RULE = "unknown: crops of the query's own camera count as hits (not the usual protocol)"


EMPTY_SHARE = 0.02
"""Share of maps without a person above which the parser or its preprocessing is doubtful."""


def percent(share: float) -> str:
    """A share of 1 in percent, as the field writes it."""
    return f"{100 * share:.1f} %"


def retrieval_facts(result: RetrievalResult) -> dict[str, object]:
    """mAP, ranks and mINP in percent, and the queries that could not be scored."""
    facts: dict[str, object] = {
        "mAP": percent(result.mAP),
        "Rank-1 / 5 / 10": " / ".join(percent(result.rank(k)) for k in (1, 5, 10)),
        "mINP": percent(result.mINP),
        "queries": result.valid_queries,
    }
    if result.skipped_queries:
        facts["queries without a match"] = result.skipped_queries
    if not result.camera_rule:
        facts["cameras"] = NO_CAMERA_RULE
    return facts


def print_rehearsal(rehearsal: Rehearsal) -> None:
    """What a training would do and need."""
    summary(rehearsal.title, rehearsal.facts)


def print_teach(report: TeachReport) -> None:
    """The bank's read-out and the teacher's retrieval."""
    readout = report.readout
    facts: dict[str, object] = {
        "prompt bank": report.bank,
        "image → own identity text": percent(readout.own_identity),
    }
    if readout.nearest_label is not None:
        facts["part text → own part word"] = percent(readout.nearest_label)
    if readout.colour is not None:
        facts["part text → true colour"] = ", ".join(
            f"{name} {percent(value)}" for name, value in readout.colour.items()
        )
    facts |= {"teacher": report.teacher, **retrieval_facts(report.retrieval)}
    facts["time"] = ", ".join(f"{name} {value:.0f} s" for name, value in report.seconds.items())
    summary(f"Taught in {report.run}", facts)
    _warn_missing_maps(report.missing_maps)


def print_released_bank(report: ReleasedBankReport) -> None:
    """What a published checkpoint gave, and whether it belongs to the data."""
    facts = {
        "prompt bank": report.bank,
        "identities": report.identities,
        "part texts": "yes" if report.parts else "no; --words makes them",
        "image → own identity text": percent(report.agreement),
        "teacher": report.teacher,
    }
    summary(f"Taken over in {report.run}", facts)
    if report.agreement < 0.5:
        note("Crops are far from their own texts: is this the data the file was trained on?")


def print_student(report: StudentReport) -> None:
    """The student's retrieval."""
    facts = {
        "student": report.student,
        "started from": report.start,
        **retrieval_facts(report.retrieval),
        "training time": f"{report.seconds:.0f} s",
    }
    summary(f"Student in {report.run}", facts)
    _warn_missing_maps(report.missing_maps)


def print_retrieval(evaluation: Evaluation) -> None:
    """The figures of one evaluation."""
    summary(f"{evaluation.path} on {evaluation.spec}", retrieval_facts(evaluation.result))


def print_reranked(result: RetrievalResult) -> None:
    """The figures after re-ranking."""
    summary("The same after k-reciprocal re-ranking", retrieval_facts(result))


def print_export(report: ExportReport) -> None:
    """Parity, retrieval before and after, cost and latency of an export."""
    manifest = report.manifest
    retrieval, parity, cost = manifest.retrieval, manifest.parity, manifest.cost
    if retrieval is None or parity is None or cost is None:
        raise ValueError("only a verified export has a report")
    table(
        f"Exported {report.onnx_path}",
        ("", "mAP", "Rank-1"),
        [
            ("checkpoint", percent(retrieval.checkpoint_mAP), percent(retrieval.checkpoint_rank1)),
            ("ONNX file", percent(retrieval.exported_mAP), percent(retrieval.exported_rank1)),
        ],
    )
    facts: dict[str, object] = {
        "least / mean cosine": f"{parity.min_cosine:.7f} / {parity.mean_cosine:.7f}",
        "largest difference": f"{parity.max_abs_difference:.1e}",
        "parameters": f"{cost.parameters:,}",
        "multiply-adds": f"{cost.macs:,}",
        "file": f"{report.onnx_path.stat().st_size / 1e6:.2f} MB",
    }
    for latency in manifest.latency:
        facts[f"latency, batch {latency.batch}"] = f"{latency.median_ms:.2f} ms (ONNX Runtime, CPU)"
    if not retrieval.camera_rule:
        facts["cameras"] = NO_CAMERA_RULE
    facts["manifest"] = report.manifest_path
    summary("Verified", facts)


def print_engine(report: EngineReport) -> None:
    """What was built, and how far it was read back; nothing has run it yet."""
    info = report.info
    gpu = info.gpu
    facts = {
        "library": f"{info.library} {info.library_version}",
        "precision": info.precision,
        "batches": "min {}, opt {}, max {}".format(*info.profile.batches),
        "built": f"in {info.build_seconds:.1f} s {f'on {gpu.name}' if gpu else 'without a GPU'}",
        "file": f"{info.engine_bytes / 1e6:.2f} MB",
        "read back": "wholly" if report.loads else "its header; the rest needs the GPU",
        "verified": f"no; on the GPU: pivl-distill evaluate {report.path}",
    }
    summary(f"Engine {report.path}", facts)


def print_check(report: CheckReport) -> None:
    """Counts, findings with an example each, and the verdict."""
    _print_counts(report.name, report.counts, report.published)
    rows = [
        (finding.subject, f"{len(finding.found):,}", finding.verdict, next(iter(finding.found), ""))
        for finding in report.findings
    ]
    table("Looked for", ("", "found", "verdict", "first"), rows)
    images = report.counts["train"][0]
    share = percent(report.mapped / images)
    facts: dict[str, object] = {
        "folder": report.root,
        "parsing maps": f"{report.mapped:,} of {images:,} training images ({share})",
    }
    if not report.has_cameras:
        facts["cameras"] = NO_CAMERA_RULE
    if report.published is not None:
        facts["protocol"] = report.published.protocol
    facts["verdict"] = f"{report.problems or 'no'} problem{'s' * (report.problems != 1)}"
    summary("Checked", facts)


def print_parse(spec: str, report: ParseReport) -> None:
    """What the maps hold, class by class, and where they are."""
    survey, agreement = report.survey, report.agreement
    columns, iou = ["", "maps", "pixels"], None
    if agreement is not None:
        columns, iou = [*columns, "IoU"], agreement.iou()
    rows = []
    for number, (label, images, pixels) in enumerate(survey.shares()):
        row = [label, percent(images), percent(pixels)]
        rows.append(row if iou is None else [*row, f"{iou[number]:.3f}".replace("nan", "-")])
    table(f"Classes ({survey.vocabulary.name})", columns, rows)
    facts: dict[str, object] = {
        "maps": f"{report.written:,} written, {report.kept:,} kept from an earlier run",
        "classes seen": f"{survey.classes} of {len(survey.vocabulary)}",
        "foreground": f"{percent(survey.foreground)} of the known pixels",
        "unknown": f"{percent(survey.unknown)} of all pixels",
        "maps that show nobody": f"{len(survey.empty):,}",
    }
    if survey.left_share is not None:
        facts["left of left and right"] = f"{percent(survey.left_share)} of the pixels"
    if agreement is not None:
        facts["mIoU with the data set's own maps"] = f"{agreement.mean_iou:.3f}"
    facts |= {"QA sheet": report.sheet, "train with": f"--data {spec} --parsing {report.folder}"}
    summary(f"Maps in {report.folder}", facts)
    if report.missing:
        note(f"{len(report.missing)} images have no map, the first of them {report.missing[0]}.")
    if len(survey.empty) > EMPTY_SHARE * survey.maps:
        note(f"{len(survey.empty)} maps show nobody, the first of them that of {survey.empty[0]}.")


def print_made(dataset: ReIDDataset) -> None:
    """The counts of a dataset that was made beside the published ones, and where it is."""
    published = PUBLISHED.get(dataset.name)
    _print_counts(dataset.name, dataset.summary(), published)
    summary("Made", {"folder": dataset.root})


def _print_counts(title: str, counts: Counts, published: Published | None) -> None:
    columns = ["", "images", "identities", "cameras"]
    rows = [[split, *(f"{number:,}" for number in count)] for split, count in counts.items()]
    if published is not None:
        columns += ["published images", "identities", "cameras"]
        for row in rows:
            row += [f"{number:,}" for number in published.counts[row[0]]]
    table(title, columns, rows)


def _warn_missing_maps(missing: int) -> None:
    if missing:
        note(f"{missing} training images have no parsing map; their parts were left out.")
