"""Open a file of an export in the library that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pivl_distill.errors import PivlError
from pivl_distill.runtime.manifest_reader import Artifact, Manifest
from pivl_distill.runtime.onnx_file import OnnxFile
from pivl_distill.runtime.onnx_session import PROVIDERS, ExecutionDevice, open_session
from pivl_distill.runtime.openvino_session import OpenVinoFile, OpenVinoSession
from pivl_distill.runtime.verified_files import read_verified


class Session(Protocol):
    """What is used of an ONNX Runtime session, and offered for OpenVINO."""

    def get_inputs(self) -> Sequence[Any]:
        """The inputs, each with `name`, `type` and `shape`."""

    def run(self, names: Sequence[str] | None, feed: Mapping[str, np.ndarray]) -> Sequence[Any]:
        """Return the outputs of these names, or all."""


def open_network(path: Path, device: ExecutionDevice, threads: int | None = None) -> Session:
    """Open an ONNX file on `device`, or an OpenVINO IR (.xml) on the CPU.

    Raises PivlError if it cannot be loaded.
    """
    if path.suffix == ".xml":
        return OpenVinoSession(path, threads)
    session: Session = open_session(path, threads=threads, providers=[PROVIDERS[device]])
    return session


def open_artifact(
    manifest: Manifest, artifact: Artifact, device: ExecutionDevice, threads: int | None
) -> Session:
    """Open a file as `open_network` does, after its hash was compared with the manifest's.

    Raises PivlError if it is another file, or cannot be loaded.
    """
    path = manifest.folder / artifact.file
    content = read_verified(path, artifact.bytes, artifact.sha256)
    if artifact.kind != "openvino":
        model = OnnxFile(path, content)
        session: Session = open_session(model, threads=threads, providers=[PROVIDERS[device]])
        return session
    weights = artifact.weights
    if weights is None:
        raise PivlError(f"The manifest names no weights of {path}; export it again.")
    stored = read_verified(manifest.folder / weights.file, weights.bytes, weights.sha256)
    return OpenVinoSession(OpenVinoFile(path, content, stored), threads)
