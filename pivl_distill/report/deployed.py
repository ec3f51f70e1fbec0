"""Exported files of a workspace: their speed, their drift, and what INT8 costs per layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.calibration import calibration_crops, measure_ranges
from export.int8 import layer_sensitivity, sensitivity_inputs
from export.loading import load_exported
from export.manifest_schema import Artifact
from pivl_distill.data.records import ReIDDataset
from pivl_distill.errors import PivlError
from pivl_distill.report.networks import checkpoint_digests
from pivl_distill.report.runs import ReportRun
from pivl_distill.retrieval.evaluation import QueryGalleryCrops, embed_query_gallery
from pivl_distill.storage.filenames import FP32_FILE
from pivl_distill.storage.files import sha256
from pivl_distill.vectors.unit import unit

MAX_DRIFT_CROPS = 2048
"""Query and gallery crops, each, on which the drift of a precision is measured."""


@dataclass(frozen=True)
class DeployedFile:
    """One exported file, and the training run it comes from, if that is in the workspace."""

    export: ReportRun
    artifact: Artifact
    training: ReportRun | None

    @property
    def name(self) -> str:
        """Run and file, e.g. "export-4/model.onnx"."""
        return f"{self.export.name}/{self.artifact.file}"

    @property
    def network(self) -> str:
        """Label of the training run, else the name of the network."""
        return self.training.label if self.training else self.export.architecture

    @property
    def network_name(self) -> str:
        """Short name of the network, for legends."""
        return self.training.name if self.training else self.export.architecture

    @property
    def mean_ap(self) -> float | None:
        """mAP of the file as exported, as a share of 1."""
        return None if self.artifact.retrieval is None else self.artifact.retrieval.exported_mAP

    def latency_ms(self, batch: int) -> float | None:
        """Median latency at a batch size; None if it was not measured."""
        found = (timed.median_ms for timed in self.artifact.latency if timed.batch == batch)
        return next(found, None)


def deployed_files(workspace: Sequence[ReportRun]) -> list[DeployedFile]:
    """Return all files of all exports, in their order."""
    digests = {sha256(run.checkpoint): run for run in workspace if run.checkpoint is not None}
    files = []
    for run in workspace:
        if run.manifest is None:
            continue
        training = next((digests[d] for d in checkpoint_digests(run) if d in digests), None)
        files += [DeployedFile(run, artifact, training) for artifact in run.manifest.artifacts]
    return files


def pareto_front(latency: Sequence[float], score: Sequence[float]) -> list[int]:
    """Return the positions that no other one beats in both, by ascending latency.

    A position is beaten by one that is at most as slow and at least as good, and better in one.
    """
    order = sorted(range(len(latency)), key=lambda n: (latency[n], -score[n]))
    front: list[int] = []
    for position in order:
        if not front or score[position] > score[front[-1]]:
            front.append(position)
    return front


def drift(export: ReportRun, test: QueryGalleryCrops) -> dict[str, np.ndarray]:
    """Return the cosine of each crop's features with those of the float32 file, by file name.

    float64 [N], of the first `MAX_DRIFT_CROPS` crops of query and gallery each; files that failed
    or that this machine cannot run are left out. Raises PivlError if the float32 file failed.
    """
    assert export.manifest is not None
    some = QueryGalleryCrops(test.query.first(MAX_DRIFT_CROPS), test.gallery.first(MAX_DRIFT_CROPS))
    features = {}
    for artifact in export.manifest.artifacts:
        if artifact.kind == "onnx" and artifact.status != "failed":
            model, forward = load_exported(export.path / artifact.file)
            found = embed_query_gallery(model, some, forward)
            features[artifact.file] = unit(np.concatenate([found.query, found.gallery]))
    if FP32_FILE not in features:
        raise PivlError(
            f"{FP32_FILE} of {export.name} failed, and the others are compared with it."
        )
    reference = features.pop(FP32_FILE)
    return {file: (reference * other).sum(axis=1) for file, other in features.items()}


def int8_sensitivity(export: ReportRun, dataset: ReIDDataset) -> dict[str, float]:
    """Return the squared error of the features, relative to their variance, by layer.

    Each layer is quantised alone, in the form for CPUs. Raises PivlError without training images.
    """
    assert export.manifest is not None
    path, spec = export.path / FP32_FILE, export.manifest.input
    crops = calibration_crops(dataset.train, spec.size_hw)
    ranges = measure_ranges(path, spec, crops)
    return layer_sensitivity(path, "cpu", ranges, sensitivity_inputs(spec, crops))
