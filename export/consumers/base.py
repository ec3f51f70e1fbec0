"""What a consumer is: a program that runs our networks with preprocessing of its own.

A consumer writes a folder with the graph in the form it feeds, and with its own configuration.
`export.consumers.measure` then runs every network file of the folder through a `Runner`: the
consumer's own code where it is installed, else our imitation of it or nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from export.accuracy import ExportPrecision
from export.consumer_schema import ConsumerRun
from export.int8 import INT8_FILES
from export.manifest_schema import Manifest
from pivl_distill.errors import PivlError
from pivl_distill.storage.filenames import FP16_FILE, FP32_FILE
from pivl_distill.storage.files import sha256
from pivl_distill.storage.readers import check_inside

SOURCES: dict[ExportPrecision, str] = {
    "fp32": FP32_FILE,
    "fp16": FP16_FILE,
    "int8": INT8_FILES["cpu"],
}
"""The ONNX file of an export that the files of each precision are made from."""


class Frame(NamedTuple):
    """An image, uint8 RGB [H, W, 3], and the person in it."""

    pixels: np.ndarray
    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels; right and bottom exclusive."""


class NotRunnableError(PivlError):
    """The consumer cannot be run here: its folder is written, but unverified."""


@dataclass(frozen=True)
class Runner:
    """Something that embeds people in frames as the consumer does."""

    embed: Callable[[Sequence[Frame]], np.ndarray]
    """Frames → vectors float32 [N, F], of any length; raises PivlError if the file cannot run."""
    by: str
    """Program and version that run the network, such as "BoxMOT 25.0.0"."""
    unverified: str | None = None
    """Why the measurements do not verify the file, such as an imitation of the consumer."""
    our_crops: bool = False
    """Whether it cuts and resizes exactly as our Extractor: then nothing but the network differs,
    and the budget of the precision also holds for mAP and Rank-1."""
    sessions: tuple[Any, Any] | None = None
    """The network here and in ONNX Runtime, to be timed in turns; see `measure_latency`."""


@dataclass(frozen=True)
class NetworkFile:
    """A network in a consumer's folder: its path relative to the folder, and its precision.

    `program` is set where not the consumer itself but a program built on it is to run it.
    """

    path: str
    precision: ExportPrecision
    program: str | None = None


@dataclass(frozen=True)
class ExportFolder:
    """An export: where it is and its manifest."""

    path: Path
    manifest: Manifest

    def sources(self) -> dict[ExportPrecision, Path]:
        """The verified ONNX files for CPUs by precision, float32 first.

        Raises PivlError if one is missing or not the file of the manifest, or without float32.
        """
        artifacts = {artifact.file: artifact for artifact in self.manifest.artifacts}
        found = {}
        for precision, name in SOURCES.items():
            if name not in artifacts or artifacts[name].status != "verified":
                continue
            path = self.path / name
            check_inside(path)
            if not path.is_file() or sha256(path) != artifacts[name].sha256:
                raise PivlError(f"{path} is not the file its manifest describes; export it again.")
            found[precision] = path
        if "fp32" not in found:
            raise PivlError(f"{self.path} has no verified {FP32_FILE}; export it again.")
        return found


@dataclass(frozen=True)
class RunOptions:
    """Where consumers are installed: the Python of each one by its name, if not ours."""

    pythons: Mapping[str, Path] = field(default_factory=dict)


class Consumer(ABC):
    """One program that runs our networks."""

    name: ClassVar[str]
    """Name on the command line, and of the folder in the export."""
    title: ClassVar[str]
    """Its own name."""

    def check(self, manifest: Manifest) -> None:
        """Raise PivlError, with the reason, if the consumer cannot use the export.

        Here: it needs one input, crops normalised outside the graph.
        """
        if manifest.input.preprocessing_in_graph:
            raise PivlError(
                f"{self.title} needs a graph without preprocessing, to which its own is adapted:"
                " export without --bake-preprocessing."
            )
        if manifest.input.cameras:
            raise PivlError(
                f"{self.title} feeds crops only, but {manifest.name} also takes the camera id of"
                " each crop: export with --camera mean, or with one camera."
            )

    def check_python(self, python: Path) -> None:
        """Raise PivlError unless the consumer is installed in `python`, which the user named."""
        raise PivlError(f"{self.title} is not run by another Python; remove --consumer-python.")

    @abstractmethod
    def write(self, export: ExportFolder, folder: Path) -> tuple[NetworkFile, ...]:
        """Write networks and configuration to the empty `folder`; return the networks to run."""

    def networks(
        self, written: tuple[NetworkFile, ...], options: RunOptions
    ) -> tuple[NetworkFile, ...]:
        """Return what is to be measured, here each network that was `written`, once."""
        return written

    @abstractmethod
    def open(
        self, export: ExportFolder, folder: Path, file: NetworkFile, options: RunOptions
    ) -> AbstractContextManager[Runner]:
        """Open a network of `folder` in the consumer.

        Raises NotRunnableError if the consumer cannot be run here, PivlError if the file cannot.
        """

    def configure(  # noqa: B027  (nothing, unless a consumer's configuration has thresholds)
        self, export: ExportFolder, folder: Path, runs: Sequence[ConsumerRun]
    ) -> None:
        """Write to `folder` what depends on the measurements, such as thresholds."""
