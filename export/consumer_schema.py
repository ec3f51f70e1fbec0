"""The part of manifest.json that describes folders for other programs; see `export.consumers`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from export.accuracy import ExportPrecision, FeatureParity, RetrievalComparison
from export.latency import Latency
from pivl_distill.retrieval.thresholds import OperatingThreshold
from pivl_distill.storage.paths import plain_name, relative_path

FileName = Annotated[str, AfterValidator(plain_name)]
"""Name of a file in the export folder; never a path, which could lead out of it."""
RelativePath = Annotated[str, AfterValidator(relative_path)]
"""Path of a file below a folder, separated by /; it never leads out of the folder."""
Status = Literal["verified", "unverified", "failed"]


class Section(BaseModel):
    """A section of the manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ConsumerRun(Section):
    """A network in a consumer's folder, and what was measured through the consumer.

    `file` is relative to that folder. Status as for `Artifact`; `reason` says why it is not
    verified, `by` what ran it. `exact` compares crops of the input size, which need no resizing,
    with the float32 file; `as_used`, `retrieval` and `thresholds` are those of the consumer's own
    crop and resize. All features are compared at unit length. `latency` is timed in turns with
    that of the same network in ONNX Runtime, `onnxruntime_latency`.
    """

    file: RelativePath
    precision: ExportPrecision
    status: Status
    reason: str | None = None
    by: str | None = None
    exact: FeatureParity | None = None
    as_used: FeatureParity | None = None
    retrieval: RetrievalComparison | None = None
    thresholds: tuple[OperatingThreshold, ...] = ()
    latency: tuple[Latency, ...] = ()
    onnxruntime_latency: tuple[Latency, ...] = ()


class ConsumerFolder(Section):
    """The folder of a consumer: SHA-256 of its files by their paths in it, and its networks."""

    name: str
    folder: FileName
    files: dict[RelativePath, str]
    runs: tuple[ConsumerRun, ...]

    @property
    def status(self) -> Status:
        """Of its worst network."""
        found = {run.status for run in self.runs}
        return next((s for s in ("failed", "unverified") if s in found), "verified")

    @property
    def reason(self) -> str | None:
        """Why the worst networks are not verified."""
        reasons = {r.reason: None for r in self.runs if r.status == self.status and r.reason}
        return " ".join(reasons) or None
