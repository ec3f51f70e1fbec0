"""OpenVINO: IRs in float32, fp16 and INT8 for the Extractor, Model API and DL Streamer.

The folder is an export of its own, with a manifest and the golden crop: `Extractor("…/openvino")`
runs it. Each IR takes what `model.onnx` takes, and says in `rt_info/model_info` how a BGR frame
becomes that, which Model API and DL Streamer read. `model.bgr.xml` does all of it inside: it takes
uint8 BGR crops of any size and resizes them as Pillow does.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from export.accuracy import ExportPrecision
from export.consumer_schema import ConsumerRun
from export.consumers.base import (
    Consumer,
    ExportFolder,
    Frame,
    NetworkFile,
    Runner,
    RunOptions,
)
from export.consumers.openvino_ir import model_info, write_bgr_ir, write_ir
from export.consumers.worker import Package, installed_version
from export.manifest_schema import Artifact, InputSpec, Manifest, StoredFile, write_manifest
from pivl_distill.data.images import read_pixels, resize_crop
from pivl_distill.errors import PivlError
from pivl_distill.runtime.feature_graph import normalise
from pivl_distill.runtime.manifest_reader import vector_sha256
from pivl_distill.runtime.onnx_session import open_session
from pivl_distill.runtime.openvino_session import OpenVinoSession, import_openvino
from pivl_distill.storage.filenames import CONFIG_FILE, OPENVINO_FILE
from pivl_distill.storage.files import sha256

IR_FILES: dict[ExportPrecision, str] = {
    "fp32": OPENVINO_FILE,
    "fp16": "model.fp16.xml",
    "int8": "model.int8.xml",
}
BGR_FILE = "model.bgr.xml"
MODEL_API = Package("openvino-model-api", "run_model_api.py", "Model API")


class OpenVino(Consumer):
    """Writes `IR_FILES` (INT8 if the export has it) and `BGR_FILE`, a manifest, a golden crop."""

    name, title = "openvino", "OpenVINO"

    def check_python(self, python: Path) -> None:
        installed_version(MODEL_API.distribution, python)

    def networks(
        self, written: tuple[NetworkFile, ...], options: RunOptions
    ) -> tuple[NetworkFile, ...]:
        """All, and the float32 IR in Model API too if a Python that has it was named."""
        if self.name not in options.pythons:
            return written
        return (*written, NetworkFile(IR_FILES["fp32"], "fp32", MODEL_API.title))

    def check(self, manifest: Manifest) -> None:
        super().check(manifest)
        import_openvino()

    def write(self, export: ExportFolder, folder: Path) -> tuple[NetworkFile, ...]:
        """fp16 is float32 with halved weights; INT8 is made from the calibrated file for CPUs."""
        sources = export.sources()
        spec, fp32 = export.manifest.input, sources["fp32"]
        info = model_info(spec)
        write_ir(fp32, folder / IR_FILES["fp32"], info)
        write_ir(fp32, folder / IR_FILES["fp16"], info, half=True)
        files = [NetworkFile(IR_FILES[precision], precision) for precision in ("fp32", "fp16")]
        if "int8" in sources:
            write_ir(sources["int8"], folder / IR_FILES["int8"], info)
            files.append(NetworkFile(IR_FILES["int8"], "int8"))
        write_bgr_ir(fp32, folder / BGR_FILE, spec)
        # The golden crop for the Extractor, and the data settings for `evaluate`.
        for name in (export.manifest.golden_crop.file, CONFIG_FILE):
            if (export.path / name).is_file():
                shutil.copyfile(export.path / name, folder / name)
        return (*files, NetworkFile(BGR_FILE, "fp32"))

    @contextmanager
    def open(
        self, export: ExportFolder, folder: Path, file: NetworkFile, options: RunOptions
    ) -> Iterator[Runner]:
        """Run an IR as the Extractor or Model API does, and `BGR_FILE` on boxes as they are."""
        if file.program == MODEL_API.title:
            with MODEL_API.open(self.name, options, folder / file.path) as runner:
                yield runner
            return
        threads = torch.get_num_threads()  # the same in both libraries, for their latency
        session = OpenVinoSession(folder / file.path, threads)
        by = f"OpenVINO {version('openvino')}"
        if file.path == BGR_FILE:
            yield Runner(_embed_bgr(session), by)
        else:
            source = export.sources()[file.precision if file.precision == "int8" else "fp32"]
            yield Runner(
                _embed_crops(session, export.manifest.input),
                by,
                our_crops=True,
                sessions=(session, open_session(source, threads=threads)),
            )

    def configure(self, export: ExportFolder, folder: Path, runs: Sequence[ConsumerRun]) -> None:
        """Write the manifest of the folder, from which the Extractor runs it."""
        golden = read_pixels(folder / export.manifest.golden_crop.file)
        spec = export.manifest.input
        own: dict[str, ConsumerRun] = {}
        for run in runs:  # the first run of each file is that of the Extractor
            if run.file != BGR_FILE:
                own.setdefault(run.file, run)
        artifacts = [_artifact(folder, run, spec, golden) for run in own.values()]
        versions = export.manifest.versions | {"openvino": version("openvino")}
        update = {"artifacts": tuple(artifacts), "consumers": (), "versions": versions}
        write_manifest(folder, export.manifest.model_copy(update=update))


def _embed_crops(
    session: OpenVinoSession, spec: InputSpec
) -> Callable[[Sequence[Frame]], np.ndarray]:
    """Return the function that embeds people as the Extractor does."""

    def embed(frames: Sequence[Frame]) -> np.ndarray:
        crops = [
            resize_crop(Image.fromarray(frame.pixels).crop(frame.box), spec.size_hw)
            for frame in frames
        ]
        return _features(session, normalise(np.stack(crops), spec.mean, spec.std))

    return embed


def _embed_bgr(session: OpenVinoSession) -> Callable[[Sequence[Frame]], np.ndarray]:
    """Return the function that feeds each person as it is, uint8 BGR [1, H, W, 3]."""

    def embed(frames: Sequence[Frame]) -> np.ndarray:
        vectors = []
        for pixels, (left, top, right, bottom) in frames:
            person = np.ascontiguousarray(pixels[None, top:bottom, left:right, ::-1])
            vectors.append(_features(session, person))
        return np.concatenate(vectors)

    return embed


def _features(session: OpenVinoSession, images: np.ndarray) -> np.ndarray:
    try:
        (features,) = session.run(None, {session.get_inputs()[0].name: images})
    except (RuntimeError, ValueError) as error:  # of OpenVINO, and of a shape that does not fit
        raise PivlError(f"OpenVINO cannot run it: {error}") from error
    return features


def _artifact(folder: Path, run: ConsumerRun, spec: InputSpec, golden: np.ndarray) -> Artifact:
    """Return the artifact of an IR in the folder's own manifest."""
    measured: dict[str, Any] = {"status": run.status, "failure": run.reason}
    if run.status == "verified":
        session = OpenVinoSession(folder / run.file)
        (vector,) = _features(session, normalise(golden[None], spec.mean, spec.std))
        measured["golden_vector"] = tuple(vector.tolist())
        measured["golden_vector_sha256"] = vector_sha256(vector)
    weights = (folder / run.file).with_suffix(".bin")
    return Artifact.from_file(
        folder / run.file,
        run.precision,
        "cpu",
        kind="openvino",
        float32_nodes=(),
        parity=run.as_used,
        retrieval=run.retrieval,
        thresholds=run.thresholds,
        latency=run.latency,
        weights=StoredFile(file=weights.name, sha256=sha256(weights), bytes=weights.stat().st_size),
        **measured,
    )
