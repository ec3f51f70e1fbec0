"""What `evaluate` scores and `export` reads: runs, checkpoints, files, networks of others.

Stages are imported inside the functions: a student must not load CLIP, nor a teacher ONNX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from pivl_distill.config import DataSettings, DeviceChoice, Preprocessing
from pivl_distill.data.corruptions import CORRUPTIONS
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.scorable import check_scorable
from pivl_distill.data.unused import report_unused
from pivl_distill.device import pick_device
from pivl_distill.errors import PivlError
from pivl_distill.foreign import (
    check_network_file,
    is_foreign_network,
    load_foreign,
    load_preprocessing,
)
from pivl_distill.models.embedding import EmbeddingModel, ForwardFunction
from pivl_distill.models.map_layer import MapLayer
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
from pivl_distill.runs.run import Run, read_data_settings
from pivl_distill.storage.filenames import CHECKPOINT_FILES, FP32_FILE, OPENVINO_FILE
from pivl_distill.storage.tensors import is_foreign, load_tensors
from pivl_distill.training.host_memory import keep_freed_memory

if TYPE_CHECKING:
    from pivl_distill.runtime.onnx_session import ExecutionDevice

EXPORTED = (".onnx", ".xml", ".engine")
OTHER_DATA = "Name another data set with --data."


@dataclass(frozen=True)
class Cameras:
    """How a network with camera embeddings (SIE) is used.

    `choice` is "input" (or None: each crop's camera is an input), "mean", or a camera id from 0.
    """

    choice: str | None = None
    coefficient: float = 1.0

    def metadata(self) -> dict[str, str | float | None]:
        """As written to run.json."""
        return {"camera": self.choice, "sie_coefficient": self.coefficient}


CAMERAS_AS_INPUT = Cameras()


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


class _Loaded(NamedTuple):
    """A network, ready to embed."""

    path: Path
    model: EmbeddingModel
    forward: ForwardFunction | None
    """None: that of `model`."""
    device: torch.device
    """Where the scores are computed; a file itself may run elsewhere."""


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
        loaded = _load_foreign(target, spec, preprocessing, device)
    elif preprocessing is not None:
        raise PivlError(
            f"The preprocessing of {target} is known. Declare it only for an ONNX file or an"
            " OpenVINO IR of others, without a manifest beside it."
        )
    elif (exported := _exported_file(target)) is not None:
        loaded = _load_exported(exported, device)
    else:
        loaded = _load_checkpoint(target, spec, cameras, device)
    path, model, forward, compute_device = loaded
    keep_freed_memory(compute_device)
    data = data_settings(path.parent, spec)
    cache_gib = data.crop_cache_gib if cached else 0
    dataset = load_dataset(data.spec)
    check_scorable(dataset, OTHER_DATA)
    report_unused(dataset, data.spec)
    test = QueryGalleryCrops.load(dataset, model.size_hw, cache_gib)
    features = embed_query_gallery(model, test, forward)
    result = evaluate_features(features, test, compute_device)
    return Evaluation(path, data.spec, result, features, test, model, forward, compute_device)


def _load_foreign(
    path: Path, spec: str | None, preprocessing: Preprocessing | None, device: DeviceChoice
) -> _Loaded:
    check_network_file(path)
    _require_data(path, spec)
    declared = preprocessing or load_preprocessing()
    network = load_foreign(path, declared, _file_device(device))
    return _Loaded(path, network.model, network.forward, CPU)


def _exported_file(target: Path) -> Path | None:
    """The exported file at `target`: itself, or the float32 file of an export; or None."""
    if target.suffix in EXPORTED:
        return target
    files = (target / name for name in (FP32_FILE, OPENVINO_FILE))
    return next((file for file in files if file.is_file()), None)


def _load_exported(path: Path, device: DeviceChoice) -> _Loaded:
    from export.loading import load_exported

    if not path.is_file():
        raise PivlError(f"No ONNX file or engine at {path}.")
    if path.suffix == ".engine" and device == "cpu":
        raise PivlError(f"{path} is an engine, which runs on a GPU; remove --device cpu.")
    return _Loaded(path, *load_exported(path, _file_device(device)), CPU)


def _load_checkpoint(
    target: Path, spec: str | None, cameras: Cameras, device: DeviceChoice
) -> _Loaded:
    path = find_checkpoint(target)
    if is_foreign(path):
        _require_data(path, spec)
    compute_device = pick_device(device)
    model = load_checkpoint(path, cameras)
    model.network.to(compute_device)
    return _Loaded(path, model, None, compute_device)


def _file_device(device: DeviceChoice) -> ExecutionDevice:
    return "cuda" if device == "cuda" else "cpu"


def _require_data(path: Path, spec: str | None) -> None:
    if spec is None:
        raise PivlError(f"Name the data set to score {path} on with --data.")


def load_checkpoint(path: Path, cameras: Cameras = CAMERAS_AS_INPUT) -> EmbeddingModel:
    """Load the bare network of a student, a teacher or a published checkpoint."""
    model = _bare_network(path, cameras.coefficient)
    if cameras.choice is None:
        return model
    from teachers.teacher import with_camera

    return with_camera(model, cameras.choice)


def _bare_network(path: Path, sie_coefficient: float) -> EmbeddingModel:
    if is_foreign(path):
        from teachers.clip_reid_checkpoint import load_clip_reid_checkpoint

        return load_clip_reid_checkpoint(path, sie_coefficient).embedding_model()
    kind, _, _ = load_tensors(path, "student", "teacher")
    if kind == "student":
        from students.student import load_student

        return load_student(path)
    from teachers.teacher import load_teacher

    return load_teacher(path)


def load_map_layer(path: Path) -> tuple[EmbeddingModel, MapLayer]:
    """Load the bare network of a checkpoint, and its last layer with a map."""
    model = load_checkpoint(path)
    if not is_foreign(path) and load_tensors(path, "student", "teacher")[0] == "student":
        from students.student import student_map_layer

        return model, student_map_layer(model)
    from teachers.teacher import teacher_map_layer

    return model, teacher_map_layer(model)


def find_checkpoint(source: Path) -> Path:
    """The checkpoint file at `source`, a file or a finished run; raises PivlError if none."""
    if source.is_file():
        return source
    for name in CHECKPOINT_FILES:
        if (Run.open(source).path / name).is_file():
            return source / name
    raise PivlError(f"{source} contains none of {', '.join(CHECKPOINT_FILES)}.")


def data_settings(folder: Path, spec: str | None) -> DataSettings:
    """Settings of the data set `spec`; default: those of the run in `folder`.

    They are those of the run too if `spec` names its data set.
    """
    own = read_data_settings(folder)
    return own if spec in (None, own.spec) else DataSettings(spec=spec)
