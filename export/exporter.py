"""Export a checkpoint: write the ONNX files, verify and time each, and describe them in a manifest.

The float32 file is written first; the other precisions are derived from it. The manifest is written
whether or not verification passes: a failed file has its reason there, and `export_model` raises at
the end. Engines are built afterwards, by `export.engine_exporter`. Printing is left to the command
line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from export.accuracy import DEFAULT_BUDGETS, AccuracyBudget, ExportPrecision, measure_reference
from export.calibration import measure_ranges
from export.fp16 import write_fp16
from export.golden_crop import write_golden_crop
from export.int8 import INT8_FILES, sensitivity_inputs, write_int8_within_budget
from export.latency import measure_latency
from export.loading import embedding_model_from_spec, load_forward
from export.manifest_schema import (
    Artifact,
    GoldenCrop,
    Manifest,
    OutputSpec,
    TestData,
    installed_versions,
    write_manifest,
)
from export.onnx_export import OUTPUT
from export.source import ExportSource, checkpoint_source, input_spec
from export.verification import Verifier
from pivl_distill.data.store import CropStore
from pivl_distill.errors import VerificationError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval.evaluation import CPU, QueryGalleryCrops
from pivl_distill.retrieval.robustness import CorruptedSplit, check_scored, measure_robustness
from pivl_distill.runtime.onnx_session import open_session
from pivl_distill.storage.filenames import (
    FP16_FILE,
    FP32_FILE,
    GOLDEN_CROP_FILE,
    MANIFEST_FILE,
    utf8_name,
)
from pivl_distill.storage.files import sha256

LATENCY_BATCHES = (1, 32)


@dataclass(frozen=True)
class ExportReport:
    """The export folder, its manifest, and the verifier for engines built later."""

    folder: Path
    manifest: Manifest
    verifier: Verifier

    @property
    def onnx_path(self) -> Path:
        """The float32 file."""
        return self.folder / FP32_FILE

    @property
    def manifest_path(self) -> Path:
        return self.folder / MANIFEST_FILE


class ExportError(VerificationError):
    """At least one file failed verification; `report` holds the measurements of all files."""

    def __init__(self, report: ExportReport) -> None:
        failed = [a for a in report.manifest.artifacts if a.status == "failed"]
        reasons = " ".join(f"{artifact.file}: {artifact.failure}" for artifact in failed)
        super().__init__(
            f"Verification failed for files in {report.folder}. {reasons} The files are kept for"
            " inspection; do not deploy the failed ones. To export again, remove the folder or pass"
            " another with --out."
        )
        self.report = report


def export_model(
    model: EmbeddingModel | ExportSource,
    folder: Path,
    *,
    test: QueryGalleryCrops,
    calibration: CropStore | None = None,
    precisions: Collection[ExportPrecision] = (),
    normalize: bool = False,
    bake_preprocessing: bool = False,
    budgets: dict[ExportPrecision, AccuracyBudget] | None = None,
    source: Path | None = None,
    data: TestData | None = None,
    device: torch.device = CPU,
    threads: int | None = None,
    corrupted: CorruptedSplit | None = None,
) -> ExportReport:
    """Export `model` to `folder` in float32 and `precisions`, and verify each file on `test`.

    Args:
        model: the bare network and its preprocessing, or another source.
        folder: where the files are written.
        test: query and gallery crops, or unscored crops: then only features are compared.
        calibration: crops of the training split; required for INT8.
        precisions: precisions to write in addition to float32.
        normalize: L2-normalise the features inside the graph.
        bake_preprocessing: do all preprocessing except resizing inside the graph.
        budgets: override `DEFAULT_BUDGETS` per precision.
        source: the checkpoint; the manifest records its name and SHA-256.
        data: describes the data set of `test` in the manifest.
        device: where torch computes the reference features; files run where they are made for.
        threads: CPU threads while latency is measured; None for all.
        corrupted: what is corrupted to measure the robustness of each file; None: not measured.

    Raises:
        ExportError: a file is not the bare network, cannot run, or exceeds its budget. All files
            and the manifest are kept.
    """
    if "int8" in precisions and calibration is None:
        raise ValueError("INT8 needs calibration crops.")
    if corrupted is not None:
        check_scored(test)
    options = {"normalize": normalize, "bake_preprocessing": bake_preprocessing}
    exported = model if isinstance(model, ExportSource) else checkpoint_source(model, device)
    onnx_path = exported.write(folder / FP32_FILE, **options)
    verifier = _verifier(exported, folder, test, budgets or {}, **options)
    manifest = _manifest(exported, folder, verifier, normalize, source, data)
    artifacts = _export_precisions(verifier, onnx_path, precisions, calibration)
    return _complete(folder, manifest, verifier, artifacts, threads, corrupted)


def _verifier(
    source: ExportSource,
    folder: Path,
    test: QueryGalleryCrops,
    budgets: dict[ExportPrecision, AccuracyBudget],
    *,
    normalize: bool,
    bake_preprocessing: bool,
) -> Verifier:
    """Measure the source on `test` and write the golden crop to `folder`."""
    return Verifier(
        spec=input_spec(source.model, bake_preprocessing),
        reference=measure_reference(
            source.model, test, normalize=normalize, forward=source.forward
        ),
        bare=source.cost,
        golden_crop=write_golden_crop(folder, source.model.size_hw),
        budgets=DEFAULT_BUDGETS | budgets,
    )


def _manifest(
    source: ExportSource,
    folder: Path,
    verifier: Verifier,
    normalize: bool,
    file: Path | None,
    data: TestData | None,
) -> Manifest:
    """Return the manifest without artifacts."""
    return Manifest(
        name=source.model.name,
        pooling=source.model.pooling,
        opset=source.opset,
        data=data,
        not_measured=_not_measured(verifier.reference.test),
        input=verifier.spec,
        output=OutputSpec(
            name=OUTPUT,
            dim=verifier.reference.features.query.shape[1],
            l2_normalised=normalize,
        ),
        **source.space.metadata(),
        golden_crop=GoldenCrop(file=GOLDEN_CROP_FILE, sha256=sha256(folder / GOLDEN_CROP_FILE)),
        artifacts=(),
        source={utf8_name(file.name): sha256(file)} if file else {},
        budgets=verifier.budgets,
        cost=verifier.bare,
        versions=installed_versions(),
    )


def _not_measured(test: QueryGalleryCrops) -> str | None:
    """Return why there are no scores, or None if there are."""
    if test.scored:
        return None
    return (
        "not measured: the network was trained with --no-evaluation; features were compared on"
        f" {len(test.query) + len(test.gallery)} crops of the training split"
    )


def _export_precisions(
    verifier: Verifier,
    onnx_path: Path,
    precisions: Collection[ExportPrecision],
    calibration: CropStore | None,
) -> Iterator[Artifact]:
    """Yield the verified float32 file and, unless it failed, the files of other precisions."""
    artifact = verifier.verify(onnx_path, "fp32", "any")
    yield artifact
    if artifact.status == "failed":
        return
    if "fp16" in precisions:
        yield verifier.verify(write_fp16(onnx_path, onnx_path.with_name(FP16_FILE)), "fp16", "any")
    if "int8" in precisions and calibration is not None:
        yield from _export_int8(verifier, onnx_path, calibration)


def _export_int8(verifier: Verifier, onnx_path: Path, crops: CropStore) -> Iterator[Artifact]:
    """Yield the INT8 file of each target, with as few float32 nodes as its budget allows."""
    ranges = measure_ranges(onnx_path, verifier.spec, crops)
    inputs = sensitivity_inputs(verifier.spec, crops)
    for target in INT8_FILES:
        verify = partial(verifier.verify, precision="int8", runs_on=target)
        yield write_int8_within_budget(onnx_path, target, ranges, inputs, verify)


def _complete(
    folder: Path,
    manifest: Manifest,
    verifier: Verifier,
    artifacts: Iterator[Artifact],
    threads: int | None,
    corrupted: CorruptedSplit | None,
) -> ExportReport:
    """Write all artifacts and measure their latency and robustness; ExportError if one failed."""
    written: list[Artifact] = []
    for artifact in artifacts:
        written.append(artifact)
        # Written after each file, so that an error in the next one does not lose this one.
        write_manifest(folder, manifest.with_artifacts(written))
    manifest = manifest.with_artifacts(_measure_latency(folder, written, threads))
    write_manifest(folder, manifest)
    if corrupted is not None:
        manifest = manifest.with_artifacts(
            _measure_robustness(folder, manifest, verifier, corrupted)
        )
        write_manifest(folder, manifest)
    report = ExportReport(folder, manifest, verifier)
    if any(artifact.status == "failed" for artifact in written):
        raise ExportError(report)
    return report


def _measure_latency(
    folder: Path, artifacts: Sequence[Artifact], threads: int | None
) -> list[Artifact]:
    """Return the artifacts, with latencies for the verified ones that ONNX Runtime runs here."""
    chosen = [artifact for artifact in artifacts if _runs_here(artifact)]
    sessions = [open_session(folder / artifact.file, threads=threads) for artifact in chosen]
    batches = [measure_latency(sessions, batch) for batch in LATENCY_BATCHES]
    timed = {a.file: latency for a, *latency in zip(chosen, *batches, strict=True)}
    return [a.model_copy(update={"latency": tuple(timed.get(a.file, ()))}) for a in artifacts]


def _measure_robustness(
    folder: Path, manifest: Manifest, verifier: Verifier, corrupted: CorruptedSplit
) -> Iterator[Artifact]:
    """Yield the artifacts, with a robustness card for those that ONNX Runtime runs here."""
    model = embedding_model_from_spec(manifest.name, manifest.input)
    for artifact in manifest.artifacts:
        if _runs_here(artifact):
            forward = load_forward(folder / artifact.file)
            card = measure_robustness(model, verifier.reference.test, forward, split=corrupted)
            artifact = artifact.model_copy(update={"robustness": card})
        yield artifact


def _runs_here(artifact: Artifact) -> bool:
    """Whether a file is verified and made for ONNX Runtime on the CPU."""
    return artifact.status == "verified" and artifact.runs_on != "tensorrt"
