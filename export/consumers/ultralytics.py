"""Ultralytics: ONNX files for the appearance encoder of its trackers, and a tracker file.

Its encoder enlarges each box by 2 % and 10 pixels, resizes with torch, bilinear without
antialiasing, and feeds RGB in 0–1: mean and deviation must be in the graph. It reads the input size
from a static ONNX graph only. An OpenVINO folder is fed 224×224 whatever its input, and fails or
returns nonsense, so there is none here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from export.consumer_schema import ConsumerRun
from export.consumers.base import ExportFolder, NetworkFile
from export.consumers.graphs import UNIT, write_graph
from export.consumers.worker import Package, PackageConsumer
from pivl_distill.storage.files import write_text

FALSE_ACCEPT_RATES = (1e-3, 1e-2)
"""Rates whose threshold goes into the tracker file: the first that was measured."""
DEFAULT_THRESHOLD = 0.8
"""Ultralytics' own `appearance_thresh`."""
_TRACKER = {
    "tracker_type": "botsort",
    "track_high_thresh": 0.25,
    "track_low_thresh": 0.1,
    "new_track_thresh": 0.25,
    "track_buffer": 30,
    "match_thresh": 0.8,
    "fuse_score": True,
    "gmc_method": "sparseOptFlow",
    "proximity_thresh": 0.5,
    "with_reid": True,
}
"""Settings of BoT-SORT that have nothing to do with the network, at Ultralytics' defaults."""


class Ultralytics(PackageConsumer):
    """Writes `reid.onnx` and `botsort.yaml`, and both once more per further precision."""

    name, title = "ultralytics", "Ultralytics"
    package = Package("ultralytics", "run_ultralytics.py", "Ultralytics")

    def write(self, export: ExportFolder, folder: Path) -> tuple[NetworkFile, ...]:
        files = []
        for precision, source in export.sources().items():
            suffix = "" if precision == "fp32" else f".{precision}"
            path = write_graph(source, folder / f"reid{suffix}.onnx", export.manifest.input, UNIT)
            files.append(NetworkFile(path.name, precision))
            _write_tracker(
                folder, path.name, DEFAULT_THRESHOLD, "Ultralytics' default; not measured"
            )
        return tuple(files)

    def arguments(self, folder: Path, file: NetworkFile) -> tuple[Path]:
        return (_tracker_file(folder, file.path),)

    def configure(self, export: ExportFolder, folder: Path, runs: Sequence[ConsumerRun]) -> None:
        """Write the measured threshold of each network into its tracker file."""
        for run in runs:
            measured = {t.far: t.cosine for t in run.thresholds if t.cosine is not None}
            for rate in FALSE_ACCEPT_RATES:
                if rate in measured:
                    cosine = measured[rate]
                    reason = f"cosine {cosine:.4f}, false-accept rate {rate:g} on {_data(export)}"
                    _write_tracker(folder, run.file, appearance_threshold(cosine), reason)
                    break


def appearance_threshold(cosine: float) -> float:
    """Return `appearance_thresh` of a cosine: Ultralytics compares (1 + cosine) / 2 with it."""
    return (1 + cosine) / 2


def _data(export: ExportFolder) -> str:
    return "the test data" if export.manifest.data is None else export.manifest.data.name


def _tracker_file(folder: Path, network: str) -> Path:
    return folder / network.replace("reid", "botsort", 1).replace(".onnx", ".yaml")


def _write_tracker(folder: Path, network: str, threshold: float, reason: str) -> None:
    """Write the tracker file of a network; `reason` says where the threshold is from."""
    settings = {**_TRACKER, "appearance_thresh": round(threshold, 4), "model": network}
    path = _tracker_file(folder, network)
    write_text(
        path,
        f"# yolo track model=yolo26n.pt source=video.mp4 tracker={path.name}\n"
        "# Ultralytics looks for `model` in the working folder: start there, or write its path.\n"
        f"# appearance_thresh: {reason}\n" + yaml.safe_dump(settings, sort_keys=False),
    )
