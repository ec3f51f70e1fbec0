"""The browser and Node: onnxruntime-web with `reid.mjs`, a reader in plain JavaScript.

The ONNX files are those of the export, under the names that transformers.js looks for. The reader
crops, resizes and normalises as our Extractor does, bit for bit. It compares the golden vector of
each file with that of float32 by the cosine budget: INT8 vectors differ between runtimes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from export.accuracy import ExportPrecision
from export.consumer_schema import ConsumerRun
from export.consumers.base import (
    Consumer,
    ExportFolder,
    NetworkFile,
    NotRunnableError,
    Runner,
    RunOptions,
)
from export.consumers.worker import SCRIPTS, run_worker
from pivl_distill.data.images import read_pixels
from pivl_distill.storage.filenames import FP32_FILE, MANIFEST_FILE
from pivl_distill.storage.files import sha256, write_bytes, write_text

FORMAT = 1
"""Of the manifest; `reid.mjs` reads this one only."""
READER = Path(__file__).with_name("reid.mjs")
FILES: dict[ExportPrecision, str] = {
    "fp32": "onnx/model.onnx",
    "fp16": "onnx/model_fp16.onnx",
    "int8": "onnx/model_quantized.onnx",
}
"""Names of transformers.js, where `model_quantized.onnx` is the default in a browser."""
GOLDEN_PIXELS = "golden.rgb"
"""The golden crop as plain RGB bytes, since Node decodes no images."""
RESIZING = "bilinear with antialiasing, as Pillow's BILINEAR"
PACKAGE = "onnxruntime-web@1.30.0"
MIN_NODE = 20
"""The first version of Node with the hashes of browsers."""
_FIND = "process.versions.node + ' ' + require.resolve('onnxruntime-web')"


class Web(Consumer):
    """Writes the reader, its manifest, and one ONNX file per precision."""

    name, title = "web", "onnxruntime-web"

    def write(self, export: ExportFolder, folder: Path) -> tuple[NetworkFile, ...]:
        (folder / "onnx").mkdir()
        files = []
        for precision, source in export.sources().items():
            write_bytes(folder / FILES[precision], source.read_bytes())
            files.append(NetworkFile(FILES[precision], precision))
        write_bytes(folder / READER.name, READER.read_bytes())
        golden = read_pixels(export.path / export.manifest.golden_crop.file)
        write_bytes(folder / GOLDEN_PIXELS, golden.tobytes())
        not_run = [
            ConsumerRun(file=file.path, precision=file.precision, status="unverified")
            for file in files
        ]
        self.configure(export, folder, not_run)
        return tuple(files)

    @contextmanager
    def open(
        self, export: ExportFolder, folder: Path, file: NetworkFile, options: RunOptions
    ) -> Iterator[Runner]:
        command = [find_node(), SCRIPTS / "run_web.mjs", folder, file.precision]
        with run_worker(command, self.title) as runner:
            yield replace(runner, our_crops=True)

    def configure(self, export: ExportFolder, folder: Path, runs: Sequence[ConsumerRun]) -> None:
        manifest = export.manifest
        content = {
            "format": FORMAT,
            "consumer": self.name,
            "name": manifest.name,
            "vector_space": manifest.vector_space,
            "input": manifest.input.model_dump(include={"name", "size_hw", "mean", "std"})
            | {"resizing": RESIZING},
            "output": manifest.output.model_dump(),
            "golden": {
                "file": GOLDEN_PIXELS,
                "sha256": sha256(folder / GOLDEN_PIXELS),
                "vector": manifest.artifact(FP32_FILE).golden_vector,
            },
            "files": [_file_entry(export, folder, run) for run in runs],
        }
        write_text(folder / MANIFEST_FILE, json.dumps(content, indent=2) + "\n")


def _file_entry(export: ExportFolder, folder: Path, run: ConsumerRun) -> dict[str, Any]:
    measured = run.model_dump(mode="json", include={"file", "precision", "status", "reason"})
    return measured | {
        "sha256": sha256(folder / run.file),
        "min_cosine": export.manifest.budgets[run.precision].min_cosine,
        "thresholds": [
            {"far": threshold.far, "cosine": threshold.cosine} for threshold in run.thresholds
        ],
    }


def find_node() -> str:
    """Return the path of a Node that finds onnxruntime-web from the current folder.

    Raises NotRunnableError, with what to install, if there is none.
    """
    node = shutil.which("node")
    if node is None:
        raise NotRunnableError(f"Node is not installed here: install Node {MIN_NODE} or newer.")
    probe = subprocess.run([node, "-p", _FIND], capture_output=True, text=True)  # noqa: S603
    if probe.returncode:
        raise NotRunnableError(
            f"onnxruntime-web is not installed here: run `npm install --ignore-scripts {PACKAGE}`"
            " in this folder, or name a folder node_modules that has it in NODE_PATH."
        )
    version = probe.stdout.split()[0]
    if int(version.split(".")[0]) < MIN_NODE:
        raise NotRunnableError(f"Node {version} is too old: install Node {MIN_NODE} or newer.")
    return node
