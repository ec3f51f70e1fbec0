"""Embed image files with a network of others, as the `Extractor` of the runtime does with ours."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pivl_distill.data.images import read_crop
from pivl_distill.errors import PivlError
from pivl_distill.foreign.network import BATCH_SIZE
from pivl_distill.retrieval.loaded_network import LoadedNetwork
from pivl_distill.storage.files import sha256
from pivl_distill.vectors.space import VectorSpace


@dataclass(frozen=True)
class NetworkFile:
    """The file that computes the embeddings."""

    file: str
    sha256: str


class FileEmbedder:
    """A network that `load_foreign` opened, with the attributes of an Extractor that `embed` uses.

    Attributes:
        name: name of the file.
        dim: length F of a vector.
        space: the vector space of its vectors.
        device: where it runs.
        artifact: name and hash of the file.
    """

    device = "cpu"

    def __init__(self, network: LoadedNetwork) -> None:
        self.network = network
        self.name, self.dim = network.model.name, network.dim
        self.space: VectorSpace | None = network.space
        self.artifact = NetworkFile(network.path.name, sha256(network.path))

    def stream_files(
        self, paths: Sequence[Path], cameras: Sequence[int] | None = None
    ) -> Iterator[tuple[Path, np.ndarray | PivlError]]:
        """Yield each path with its unit vector, float32 [F], or the error of reading it.

        Only one batch is in memory at a time. `cameras` must be None: networks of others take none.
        """
        if cameras is not None:
            raise PivlError(f"{self.name} takes no camera ids; remove --camera.")
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(paths), BATCH_SIZE):
                batch = paths[start : start + BATCH_SIZE]
                results = list(pool.map(self._read, batch))
                read = {n: crop for n, crop in enumerate(results) if isinstance(crop, np.ndarray)}
                if read:
                    vectors = self._unit(self.network.embed(np.stack(list(read.values()))))
                    for number, vector in zip(read, vectors, strict=True):
                        results[number] = vector
                yield from zip(batch, results, strict=True)

    def _read(self, path: Path) -> np.ndarray | PivlError:
        try:
            return read_crop(path, self.network.model.size_hw)
        except PivlError as error:
            return error

    def _unit(self, vectors: np.ndarray) -> np.ndarray:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (lengths > 0).all():
            raise PivlError(f"{self.name} returned a vector of zeros; check how its input is made.")
        unit: np.ndarray = vectors / lengths
        return unit
