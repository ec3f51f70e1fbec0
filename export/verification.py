"""Verify exported files: each one is run over query and gallery and compared with the checkpoint.

Every file is verified on its own; no precision is trusted because another one passed. The results
go into the manifest whether or not the file passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.accuracy import (
    AccuracyBudget,
    ExportPrecision,
    Reference,
    check_budget,
    compare_with_reference,
)
from export.cost import Cost, check_no_training_layers
from export.loading import embedding_model_from_spec, load_forward
from export.manifest_schema import Artifact, ArtifactKind, ExecutionTarget, InputSpec
from pivl_distill.errors import PivlError, VerificationError
from pivl_distill.models.embedding import EmbeddingModel, ForwardFunction
from pivl_distill.retrieval.evaluation import (
    QueryGalleryCrops,
    QueryGalleryFeatures,
    embed_query_gallery,
)
from pivl_distill.retrieval.thresholds import OperatingThreshold, operating_thresholds
from pivl_distill.runtime.manifest_reader import vector_sha256


@dataclass(frozen=True)
class Verifier:
    """Compares files of one export with its checkpoint.

    `bare` is the cost of the network without its training heads; `golden_crop` is uint8 RGB
    [H, W, 3].
    """

    spec: InputSpec
    reference: Reference
    bare: Cost
    golden_crop: np.ndarray
    budgets: dict[ExportPrecision, AccuracyBudget]

    def verify(
        self,
        path: Path,
        precision: ExportPrecision,
        runs_on: ExecutionTarget,
        *,
        kind: ArtifactKind = "onnx",
        float32_nodes: Sequence[str] = (),
    ) -> Artifact:
        """Run a file over query and gallery and return its artifact, verified or failed.

        The cost of an engine cannot be counted; that of the ONNX file it was built from was. A
        RuntimeError of torch fails the file if running the file raised it, for example because the
        GPU is out of memory. Elsewhere it is a bug and propagates.

        Args:
            path: the ONNX file or engine.
            precision: selects the budget.
            runs_on: recorded in the artifact.
            kind: ONNX file, or the library of an engine.
            float32_nodes: recorded in the artifact.
        """
        metadata: dict[str, Any] = {"status": "verified"}
        try:
            # Filled step by step, so that a failure keeps what was measured before it.
            if kind == "onnx":
                check_no_training_layers(path, self.bare)
            model, forward = embedding_model_from_spec(path.name, self.spec), _guarded_forward(path)
            metadata |= self._golden(model, forward)
            features = embed_query_gallery(model, self.reference.test, forward)
            metadata["parity"], metadata["retrieval"] = compare_with_reference(
                self.reference, features
            )
            metadata["thresholds"] = measure_thresholds(self.reference.test, features)
            check_budget(metadata["parity"], metadata["retrieval"], self.budgets[precision])
        except PivlError as error:
            metadata |= {"status": "failed", "failure": str(error)}
        return Artifact.from_file(
            path, precision, runs_on, kind=kind, float32_nodes=float32_nodes, **metadata
        )

    def _golden(self, model: EmbeddingModel, forward: ForwardFunction) -> dict[str, Any]:
        inputs = [model.preprocess(self.golden_crop[None])]
        if model.cameras:
            inputs.append(torch.zeros(1, dtype=torch.long))
        vector = forward(*inputs)[0].numpy()
        if not np.isfinite(vector).all():
            raise VerificationError(f"{model.name} returns no finite vector for the golden crop.")
        return {"golden_vector": vector.tolist(), "golden_vector_sha256": vector_sha256(vector)}


def measure_thresholds(
    test: QueryGalleryCrops, features: QueryGalleryFeatures
) -> tuple[OperatingThreshold, ...]:
    """Return the operating thresholds of features; none on crops that are not scored."""
    if not test.scored:
        return ()
    query, gallery = test.query, test.gallery
    return operating_thresholds(
        features.query,
        features.gallery,
        query.pids,
        gallery.pids,
        query.camids,
        gallery.camids,
    )


def _guarded_forward(path: Path) -> ForwardFunction:
    """Return the file's forward pass, with features on the CPU and errors of torch as PivlError.

    A GPU reports errors when results are copied to the CPU, so the copy is part of the pass.
    """

    def run(*inputs: Tensor) -> Tensor:
        with _runtime_errors():
            return forward(*inputs).cpu()

    with _runtime_errors():
        forward = load_forward(path)
    return run


@contextmanager
def _runtime_errors() -> Iterator[None]:
    """Convert RuntimeError to PivlError, keeping its first line."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise PivlError(f"It could not be run here: {reason}") from error
