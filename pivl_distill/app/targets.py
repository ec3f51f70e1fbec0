"""Score what `evaluate` names on the query and gallery of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pivl_distill.app.networks import (
    CAMERAS_AS_INPUT,
    Cameras,
    load_network,
    names_its_data,
)
from pivl_distill.config import DataSettings, DeviceChoice, Preprocessing
from pivl_distill.data.corruptions import CORRUPTIONS
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.scorable import check_scorable
from pivl_distill.data.unused import report_unused
from pivl_distill.errors import PivlError
from pivl_distill.foreign import check_network_file, is_foreign_network
from pivl_distill.models.embedding import EmbeddingModel, ForwardFunction
from pivl_distill.retrieval import RetrievalResult
from pivl_distill.retrieval.evaluation import (
    CPU,
    QueryGalleryCrops,
    QueryGalleryFeatures,
    embed_query_gallery,
    evaluate_features,
    evaluate_reranked,
)
from pivl_distill.retrieval.robustness import (
    CorruptedSplit,
    RobustnessCard,
    measure_robustness,
)
from pivl_distill.runs.run import read_data_settings
from pivl_distill.training.host_memory import keep_freed_memory
from pivl_distill.vectors.space import VectorSpace

OTHER_DATA = "Name another data set with --data."


@dataclass(frozen=True)
class Evaluation:
    """Retrieval scores of the network in `path` on the data set `spec`, and what they came from."""

    path: Path
    spec: str
    result: RetrievalResult
    features: QueryGalleryFeatures
    test: QueryGalleryCrops
    model: EmbeddingModel
    forward: ForwardFunction | None = None
    """None: that of `model`."""
    device: torch.device = CPU
    space: VectorSpace | None = None
    """Of the features; None for exports of earlier versions."""

    def rerank(self) -> RetrievalResult:
        """Scores after k-reciprocal re-ranking with the parameters of its paper."""
        return evaluate_reranked(self.features, self.test, self.device)

    def robustness(
        self,
        corruptions: Sequence[str] = tuple(CORRUPTIONS),
        split: CorruptedSplit = "query",
    ) -> RobustnessCard:
        """Scores with the `split` under the named corruptions, at five strengths each."""
        return measure_robustness(
            self.model, self.test, self.forward, self.features, corruptions, split
        )


def evaluate_target(
    target: Path,
    spec: str | None,
    cameras: Cameras = CAMERAS_AS_INPUT,
    preprocessing: Preprocessing | None = None,
    *,
    cached: bool = True,
    device: DeviceChoice = "auto",
) -> Evaluation:
    """Score a run, a checkpoint, an exported file, an engine or a network of others.

    Args:
        target: run folder or file.
        spec: data set; default: the run's own.
        cameras: how camera embeddings (SIE) of a checkpoint are used.
        preprocessing: of an ONNX file or OpenVINO IR without manifest; required there.
        cached: whether decoded crops may be read from and written to the cache folder.
        device: where to compute; "auto": a GPU if there is one, the CPU for ONNX files.

    Raises: PivlError if there is nothing to score at `target`.
    """
    if is_foreign_network(target):
        check_network_file(target)
    if spec is None and not names_its_data(target):
        raise PivlError(f"Name the data set to score {target} on with --data.")
    network = load_network(target, preprocessing, cameras, device)
    path, model, forward = network.path, network.model, network.forward
    compute_device = model.device
    keep_freed_memory(compute_device)
    data = data_settings(path.parent, spec)
    cache_gib = data.crop_cache_gib if cached else 0
    dataset = load_dataset(data.spec)
    check_scorable(dataset, OTHER_DATA)
    report_unused(dataset, data.spec)
    test = QueryGalleryCrops.load(dataset, model.size_hw, cache_gib)
    features = embed_query_gallery(model, test, forward)
    result = evaluate_features(features, test, compute_device)
    return Evaluation(
        path, data.spec, result, features, test, model, forward, compute_device, network.space
    )


def data_settings(folder: Path, spec: str | None) -> DataSettings:
    """Settings of the data set `spec`; default: those of the run in `folder`.

    They are those of the run too if `spec` names its data set.
    """
    own = read_data_settings(folder)
    return own if spec in (None, own.spec) else DataSettings(spec=spec)
