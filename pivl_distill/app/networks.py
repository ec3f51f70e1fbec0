"""Load any network that a command names: runs, checkpoints, exports, engines, those of others.

Stages are imported inside the functions: a student must not load CLIP, nor a teacher ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pivl_distill.config import DeviceChoice, Preprocessing
from pivl_distill.device import pick_device
from pivl_distill.errors import PivlError
from pivl_distill.foreign import (
    check_network_file,
    is_foreign_network,
    load_foreign,
    load_preprocessing,
)
from pivl_distill.models.embedding import EmbeddingModel, vector_space
from pivl_distill.models.map_layer import MapLayer
from pivl_distill.retrieval.loaded_network import LoadedNetwork
from pivl_distill.runs.run import Run
from pivl_distill.storage.filenames import CHECKPOINT_FILES, FP32_FILE, OPENVINO_FILE
from pivl_distill.storage.tensors import is_foreign, load_tensors

if TYPE_CHECKING:
    from pivl_distill.runtime.onnx_session import ExecutionDevice

EXPORTED = (".onnx", ".xml", ".engine")


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


def load_network(
    target: Path,
    preprocessing: Preprocessing | None = None,
    cameras: Cameras = CAMERAS_AS_INPUT,
    device: DeviceChoice = "auto",
) -> LoadedNetwork:
    """Load the network at `target`, a run folder or a file.

    Args:
        target: run folder, checkpoint, exported file or folder, engine, or a network of others.
        preprocessing: of an ONNX file or OpenVINO IR without manifest; required there.
        cameras: how camera embeddings (SIE) of a checkpoint are used.
        device: where to compute; "auto": a GPU if there is one, the CPU for ONNX files.

    Raises: PivlError if there is no network at `target`.
    """
    if is_foreign_network(target):
        check_network_file(target)
        return load_foreign(target, preprocessing or load_preprocessing(), _file_device(device))
    refuse_preprocessing(target, preprocessing)
    if (exported := _exported_file(target)) is not None:
        return _load_exported(exported, device)
    path, compute_device = find_checkpoint(target), pick_device(device)
    model = load_checkpoint(path, cameras)
    space = vector_space(model)
    model.network.to(compute_device)
    return LoadedNetwork(path, model, space=space)


def refuse_preprocessing(target: Path, preprocessing: Preprocessing | None) -> None:
    """Raise PivlError if the user declares the preprocessing of a network that declares its own."""
    if preprocessing is not None:
        raise PivlError(
            f"The preprocessing of {target} is known. Declare it only for an ONNX file or an"
            " OpenVINO IR of others, without a manifest beside it."
        )


def names_its_data(target: Path) -> bool:
    """Whether `target` is of a run that knows its data set: not a file of others."""
    foreign_checkpoint = target.is_file() and target.suffix not in EXPORTED and is_foreign(target)
    return not is_foreign_network(target) and not foreign_checkpoint


def _exported_file(target: Path) -> Path | None:
    """The exported file at `target`: itself, or the float32 file of an export; or None."""
    if target.suffix in EXPORTED:
        return target
    files = (target / name for name in (FP32_FILE, OPENVINO_FILE))
    return next((file for file in files if file.is_file()), None)


def _load_exported(path: Path, device: DeviceChoice) -> LoadedNetwork:
    from export.loading import load_exported
    from export.manifest_schema import read_manifest

    if not path.is_file():
        raise PivlError(f"No ONNX file or engine at {path}.")
    if path.suffix == ".engine" and device == "cpu":
        raise PivlError(f"{path} is an engine, which runs on a GPU; remove --device cpu.")
    model, forward = load_exported(path, _file_device(device))
    return LoadedNetwork(path, model, forward, read_manifest(path.parent).space)


def _file_device(device: DeviceChoice) -> ExecutionDevice:
    return "cuda" if device == "cuda" else "cpu"


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
