"""Triton Inference Server: a model repository with one model per file of the export.

Never run in Triton; where `tritonclient` is installed, its protobuf parses the configurations. The
ONNX models take resized RGB crops as bytes, uint8 [H, W, 3], so that a client cannot normalise them
in another way. Engines of TensorRT keep the input that the manifest describes, and their batches
stay within the profile that they were built for.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from export.consumers.base import (
    Consumer,
    ExportFolder,
    Frame,
    NetworkFile,
    NotRunnableError,
    Runner,
    RunOptions,
)
from export.consumers.graphs import InputForm, write_graph
from export.consumers.worker import SCRIPTS, installed_version
from export.manifest_schema import Artifact, Manifest
from export.onnx_export import INPUT, OUTPUT
from pivl_distill.data.images import resize_crop
from pivl_distill.errors import PivlError, VerificationError
from pivl_distill.runtime.onnx_session import open_session
from pivl_distill.storage.files import sha256, write_bytes, write_text

REPOSITORY = "repo"
CONFIG, ONNX_FILE, ENGINE_FILE = "config.pbtxt", "1/model.onnx", "1/model.plan"
BYTES = InputForm(std=(1 / 255,) * 3, layout="NHWC", dtype="uint8")
"""RGB crops as they are decoded."""
MAX_BATCH, PREFERRED_BATCHES = 64, (8, 32)
MAX_DELAY_US = 1000
"""How long a request waits for others, in microseconds."""
NEVER_RUN = "Never run in Triton: the network was run in ONNX Runtime, which is its backend."


class Triton(Consumer):
    """Writes `repo/<name>/` for each precision, and for each TensorRT engine of the export."""

    name, title = "triton", "Triton"

    def write(self, export: ExportFolder, folder: Path) -> tuple[NetworkFile, ...]:
        manifest, files = export.manifest, []
        for precision, source in export.sources().items():
            name = manifest.name if precision == "fp32" else f"{manifest.name}_{precision}"
            model = _make_model(folder, name)
            write_graph(source, model / ONNX_FILE, manifest.input, BYTES)
            write_text(model / CONFIG, _onnx_config(name, manifest))
            files.append(NetworkFile(f"{REPOSITORY}/{name}/{ONNX_FILE}", precision))
        for engine in manifest.artifacts:
            if engine.kind == "tensorrt" and engine.status != "failed":
                name = f"{manifest.name}_{engine.precision}_tensorrt"
                model = _make_model(folder, name)
                write_bytes(model / ENGINE_FILE, _read_engine(export, engine))
                write_text(model / CONFIG, _engine_config(name, manifest, engine))
                files.append(NetworkFile(f"{REPOSITORY}/{name}/{ENGINE_FILE}", engine.precision))
        return tuple(files)

    @contextmanager
    def open(
        self, export: ExportFolder, folder: Path, file: NetworkFile, options: RunOptions
    ) -> Iterator[Runner]:
        config = (folder / file.path).parent.parent / CONFIG
        by = ["ONNX Runtime"]
        if (python := options.pythons.get(self.name)) is not None:
            by.append(f"parsed by {parse_configs(python, [config])['by']}")
        if not file.path.endswith(ONNX_FILE):
            raise NotRunnableError("Never run in Triton: engines need the GPU they were built for.")
        session = open_session(folder / file.path)

        def embed(frames: Sequence[Frame]) -> np.ndarray:
            size_hw = export.manifest.input.size_hw
            crops = [
                resize_crop(Image.fromarray(frame.pixels).crop(frame.box), size_hw)
                for frame in frames
            ]
            vectors: np.ndarray = session.run([OUTPUT], {INPUT: np.stack(crops)})[0]
            return vectors

        yield Runner(embed, ", ".join(by), unverified=NEVER_RUN, our_crops=True)

    def check_python(self, python: Path) -> None:
        installed_version("tritonclient", python)


def parse_configs(python: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """Parse configurations by the protobuf of tritonclient in `python`.

    Returns `by`, its version, and `configs`, their fields. Raises VerificationError if one has a
    field or value that Triton does not know.
    """
    command = [str(python), str(SCRIPTS / "check_triton.py"), *map(str, paths)]
    ended = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    if ended.returncode:
        raise VerificationError(f"Triton's protobuf refuses it: {ended.stderr.strip()[-300:]}")
    parsed: dict[str, Any] = json.loads(ended.stdout)
    return parsed


def _make_model(folder: Path, name: str) -> Path:
    model = folder / REPOSITORY / name
    (model / "1").mkdir(parents=True)
    return model


def _read_engine(export: ExportFolder, engine: Artifact) -> bytes:
    path = export.path / engine.file
    if not path.is_file() or sha256(path) != engine.sha256:
        raise PivlError(f"{path} is not the file its manifest describes; export it again.")
    return path.read_bytes()


def _onnx_config(name: str, manifest: Manifest) -> str:
    height, width = manifest.input.size_hw
    return _config(
        name,
        'backend: "onnxruntime"',
        MAX_BATCH,
        ("TYPE_UINT8", (height, width, 3)),
        manifest,
        f"Input: RGB crops resized to {height}×{width}, as bytes.",
    )


def _engine_config(name: str, manifest: Manifest, engine: Artifact) -> str:
    spec = manifest.input
    return _config(
        name,
        'platform: "tensorrt_plan"',
        min(MAX_BATCH, engine.max_batch or MAX_BATCH),
        ("TYPE_FP32", (3, *spec.size_hw)),
        manifest,
        f"Input: (RGB / 255 − mean) / std, with mean {list(spec.mean)}, std {list(spec.std)}.",
    )


def _config(
    name: str,
    backend: str,
    max_batch: int,
    crop: tuple[str, tuple[int, ...]],
    manifest: Manifest,
    comment: str,
) -> str:
    """Return a config.pbtxt; `crop` is data type and shape of the input without the batch."""
    kind, shape = crop
    preferred = [size for size in PREFERRED_BATCHES if size <= max_batch]
    batching = f"preferred_batch_size: {preferred}\n  " if preferred else ""
    return f"""\
# {manifest.name}. {NEVER_RUN}
# {comment}
name: {json.dumps(name)}
{backend}
max_batch_size: {max_batch}
input [ {{ name: "{INPUT}" data_type: {kind} dims: {list(shape)} }} ]
output [ {{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ {manifest.output.dim} ] }} ]
dynamic_batching {{
  {batching}max_queue_delay_microseconds: {MAX_DELAY_US}
}}
"""
