"""DeepStream: a section for nvtracker's configuration, and a configuration for nvinfer.

Never run in DeepStream. Both elements feed `scale · (p − offset[c])` for pixels p, with one scale
for all channels, which no network with a deviation per channel fits. So the normalisation is in the
graph, and they feed plain pixels: scale 1 and offsets 0. The configuration is read back from the
files, and the network is run in ONNX Runtime on what it says.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import yaml

from export.consumer_schema import ConsumerRun
from export.consumers.base import (
    Consumer,
    ExportFolder,
    Frame,
    NetworkFile,
    Runner,
    RunOptions,
)
from export.consumers.graphs import PIXELS, write_graph
from export.manifest_schema import Manifest
from export.onnx_export import OUTPUT
from pivl_distill.errors import VerificationError
from pivl_distill.runtime.onnx_session import open_session
from pivl_distill.storage.files import write_text

NETWORK = "reid.onnx"
TRACKER, SECONDARY = "tracker_reid.yml", "sgie_reid.txt"
BATCH = {TRACKER: 100, SECONDARY: 16}
"""Crops per run, for which DeepStream builds its engine."""
NEVER_RUN = "Never run in DeepStream: its formula was computed here, from these settings."
_SECTION = "ReID"


class _Feed(NamedTuple):
    """What one of the two files says about the input of the network."""

    size_hw: tuple[int, int]
    scale: float
    offsets: tuple[float, ...]


class DeepStream(Consumer):
    """Writes one float32 graph for pixels 0–255; DeepStream makes engines of it."""

    name, title = "deepstream", "DeepStream"

    def write(self, export: ExportFolder, folder: Path) -> tuple[NetworkFile, ...]:
        source = export.sources()["fp32"]
        write_graph(source, folder / NETWORK, export.manifest.input, PIXELS)
        self.configure(export, folder, ())
        return (NetworkFile(NETWORK, "fp32"),)

    @contextmanager
    def open(
        self, export: ExportFolder, folder: Path, file: NetworkFile, options: RunOptions
    ) -> Iterator[Runner]:
        tracker, secondary = read_tracker(folder / TRACKER), read_secondary(folder / SECONDARY)
        if tracker != secondary or tracker.size_hw != export.manifest.input.size_hw:
            raise VerificationError(f"{TRACKER} and {SECONDARY} do not feed the network's input.")
        session = open_session(folder / file.path)

        def embed(frames: Sequence[Frame]) -> np.ndarray:
            crops = np.stack([_cut(frame, tracker.size_hw) for frame in frames])
            pixels = crops.transpose(0, 3, 1, 2).astype(np.float32)
            offsets = np.array(tracker.offsets, np.float32).reshape(1, 3, 1, 1)
            feed = np.float32(tracker.scale) * (pixels - offsets)
            vectors: np.ndarray = session.run(None, {session.get_inputs()[0].name: feed})[0]
            return vectors

        yield Runner(embed, "ONNX Runtime, by DeepStream's formula", unverified=NEVER_RUN)

    def configure(self, export: ExportFolder, folder: Path, runs: Sequence[ConsumerRun]) -> None:
        head = [f"{export.manifest.name}. {NEVER_RUN}", *_describe_thresholds(runs)]
        comment = "".join(f"# {line}\n" for line in head)
        write_text(folder / TRACKER, comment + _tracker(export.manifest))
        write_text(folder / SECONDARY, comment + _secondary(export.manifest))


def read_tracker(path: Path) -> _Feed:
    """Read how nvtracker feeds the network; raises VerificationError if it pads or swaps."""
    section = yaml.safe_load(path.read_text())[_SECTION]
    if (section["inputOrder"], section["colorFormat"], section["keepAspc"]) != (0, 0, 0):
        raise VerificationError(f"{path.name} does not feed stretched RGB crops in NCHW.")
    _, height, width = section["inferDims"]
    return _Feed((height, width), section["netScaleFactor"], tuple(section["offsets"]))


def read_secondary(path: Path) -> _Feed:
    """Read how nvinfer feeds the network; raises VerificationError if it pads or swaps."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(path.read_text())
    keys = parser["property"]
    if (keys["model-color-format"], keys["maintain-aspect-ratio"]) != ("0", "0"):
        raise VerificationError(f"{path.name} does not feed stretched RGB crops.")
    _, height, width = map(int, keys["infer-dims"].split(";"))
    offsets = tuple(map(float, keys["offsets"].split(";")))
    return _Feed((height, width), float(keys["net-scale-factor"]), offsets)


def _cut(frame: Frame, size_hw: tuple[int, int]) -> np.ndarray:
    """Cut out and stretch a box without antialiasing, as DeepStream's scaler does by default."""
    left, top, right, bottom = frame.box
    crop = np.ascontiguousarray(frame.pixels[top:bottom, left:right])
    resized: np.ndarray = cv2.resize(crop, size_hw[::-1], interpolation=cv2.INTER_LINEAR)
    return resized


def _describe_thresholds(runs: Sequence[ConsumerRun]) -> list[str]:
    """One line per measured false-accept rate."""
    return [
        f"Cosine {threshold.cosine:.4f}: one person, at a false-accept rate of {threshold.far:g}"
        " on the data of the export."
        for run in runs
        for threshold in run.thresholds
        if threshold.cosine is not None
    ]


def _tracker(manifest: Manifest) -> str:
    """The section for a tracker configuration of nvtracker."""
    section = {
        "reidType": 2,  # re-association; 1: association of NvDeepSORT, 3: both
        "batchSize": BATCH[TRACKER],
        "workspaceSize": 1000,  # MiB
        "reidFeatureSize": manifest.output.dim,
        "reidHistorySize": 100,
        "inferDims": [3, *manifest.input.size_hw],
        "networkMode": 0,  # float32, as the network was verified; 1: fp16
        "inputOrder": 0,
        "colorFormat": 0,
        "offsets": [0.0, 0.0, 0.0],
        "netScaleFactor": 1.0,
        "keepAspc": 0,
        "addFeatureNormalization": 1,
        "outputReidTensor": 1,
        "onnxFile": NETWORK,
        "modelEngineFile": f"{NETWORK}_b{BATCH[TRACKER]}_gpu0_fp32.engine",
    }
    return (
        "# Section of a configuration of nvtracker; its other sections are yours.\n"
        + yaml.safe_dump({_SECTION: section}, sort_keys=False)
    )


def _secondary(manifest: Manifest) -> str:
    """The configuration of nvinfer on detected people; vectors are in the tensor metadata."""
    height, width = manifest.input.size_hw
    keys = {
        "gpu-id": 0,
        "onnx-file": NETWORK,
        "model-engine-file": f"{NETWORK}_b{BATCH[SECONDARY]}_gpu0_fp32.engine",
        "batch-size": BATCH[SECONDARY],
        "process-mode": 2,
        "network-type": 100,
        "network-mode": 0,
        "output-tensor-meta": 1,
        "output-blob-names": OUTPUT,
        "infer-dims": f"3;{height};{width}",
        "model-color-format": 0,
        "net-scale-factor": "1.0",
        "offsets": "0.0;0.0;0.0",
        "maintain-aspect-ratio": 0,
    }
    return "[property]\n" + "".join(f"{key}={value}\n" for key, value in keys.items())
