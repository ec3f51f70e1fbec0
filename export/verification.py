"""The gate: every file is itself run over query and gallery before it may be called verified.

What it finds goes into the manifest, whether the file passes or not. Nothing is believed of one
precision because another has passed.
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
from pivl_distill.retrieval.evaluation import QueryGalleryFeatures, embed_query_gallery
from pivl_distill.retrieval.thresholds import OperatingThreshold, operating_thresholds
from pivl_distill.runtime.manifest_reader import vector_sha256


@dataclass(frozen=True)
class Verifier:
    """What every file of an export is held against.

    `bare` is the cost of the network without its teaching, `golden_crop` uint8 RGB [H, W, 3].
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
        """Run a file over the test split: the artifact, verified or failed, never raised.

        An engine cannot be looked into; the ONNX file that it was built from was. A file also fails
        by what torch raises while it runs, as for lack of memory on a GPU; elsewhere that is a
        mistake of ours and raised.
        """
        metadata: dict[str, Any] = {"status": "verified"}
        try:
            # As it is found, so that a failure keeps what was measured before.
            if kind == "onnx":
                check_no_training_layers(path, self.bare)
            model, forward = embedding_model_from_spec(path.name, self.spec), _running(path)
            metadata |= self._golden(model, forward)
            features = embed_query_gallery(model, self.reference.test, forward)
            metadata["parity"], metadata["retrieval"] = compare_with_reference(
                self.reference, features
            )
            metadata["thresholds"] = self._thresholds(features)
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
            raise VerificationError(f"{model.name} gives no finite vector for the golden crop.")
        return {"golden_vector": vector.tolist(), "golden_vector_sha256": vector_sha256(vector)}

    def _thresholds(self, features: QueryGalleryFeatures) -> tuple[OperatingThreshold, ...]:
        query, gallery = self.reference.test.query, self.reference.test.gallery
        return operating_thresholds(
            features.query,
            features.gallery,
            query.pids,
            gallery.pids,
            query.camids,
            gallery.camids,
        )


def _running(path: Path) -> ForwardFunction:
    """The forward pass of a file, to main memory; PivlError also where torch gives up in it.

    A GPU tells what went wrong when its results are fetched, so that belongs to the pass.
    """

    def run(*inputs: Tensor) -> Tensor:
        with _stops():
            return forward(*inputs).cpu()

    with _stops():
        forward = load_forward(path)
    return run


@contextmanager
def _stops() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise PivlError(f"It could not be run here: {reason}") from error
