"""Networks of others in `bench`: timed in the same rounds as the files of an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.benchmark import BenchmarkCase
from pivl_distill.app.embed_folder import latest_export
from pivl_distill.app.networks import refuse_preprocessing
from pivl_distill.config import Preprocessing
from pivl_distill.errors import PivlError
from pivl_distill.foreign import (
    FileForward,
    check_network_file,
    is_foreign_network,
    load_foreign,
    load_preprocessing,
)
from pivl_distill.runtime.onnx_session import ExecutionDevice


@dataclass(frozen=True)
class Rival:
    """An ONNX file or OpenVINO IR of others, and how its input is made."""

    path: Path
    preprocessing: Preprocessing

    @classmethod
    def parse(cls, text: str) -> Rival:
        """Read FILE=PRESET; raises PivlError if it is not of this form."""
        path, separator, preset = text.rpartition("=")
        if not separator:
            raise PivlError(
                f"--rival takes FILE=PRESET, such as osnet.onnx=osnet; got '{text}'. PRESET may be"
                " a YAML file."
            )
        return cls(Path(path), load_preprocessing(preset))

    @property
    def file_bytes(self) -> int:
        """Size of the file, and of the weights beside an OpenVINO IR."""
        files = [self.path, *([self.path.with_suffix(".bin")] * (self.path.suffix == ".xml"))]
        return sum(file.stat().st_size for file in files if file.is_file())

    def case(self, device: ExecutionDevice, threads: int, batch: int) -> BenchmarkCase:
        """Return the network on random crops; torch's threads must be set to `threads`.

        As for files of an export, preprocessing is not timed. A file of a fixed batch size runs as
        often as the batch needs.
        """
        network = load_foreign(self.path, self.preprocessing, device)
        assert isinstance(network.forward, FileForward)
        forward = network.forward
        shape = (batch, *network.model.size_hw, 3)
        crops = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        fed = forward.feed(network.model.preprocess(crops))
        return BenchmarkCase(self.path.name, device, threads, batch, lambda: forward.run(fed))


def find_targets(
    target: Path | None, preprocessing: Preprocessing | None, rivals: Sequence[str]
) -> tuple[Path | None, list[Rival]]:
    """Return the export to time, if any, and the networks of others.

    Args:
        target: an export, or a network of others; default: the latest export.
        preprocessing: of such a network.
        rivals: further ones, each FILE=PRESET.

    Raises: PivlError if the preprocessing of a network is missing, or declared for an export.
    """
    others = [Rival.parse(text) for text in rivals]
    for rival in others:
        check_network_file(rival.path)
    if target is not None and is_foreign_network(target):
        check_network_file(target)
        return None, [Rival(target, preprocessing or load_preprocessing()), *others]
    folder = target or latest_export()
    refuse_preprocessing(folder, preprocessing)
    return folder, others
