"""Image files embedded by a network of others: as crops are, with errors in their place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pivl_distill.config import Preprocessing
from pivl_distill.errors import PivlError
from pivl_distill.foreign import FileEmbedder, load_foreign
from pivl_distill.storage.files import sha256

PLAIN = Preprocessing(colour="rgb", range=255)


@pytest.fixture
def embedder(mean_net: Callable[..., Path]) -> FileEmbedder:
    return FileEmbedder(load_foreign(mean_net(), PLAIN))


def test_files_become_unit_vectors_in_order(embedder: FileEmbedder, tmp_path: Path) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (40, 16, 8, 3), np.uint8)
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for path, crop in zip(paths, crops, strict=True):
        Image.fromarray(crop).save(path)
    paths[3].write_bytes(b"no image")
    streamed = list(embedder.stream_files(paths))
    assert [path for path, _ in streamed] == paths
    assert isinstance(streamed[3][1], PivlError)
    means = crops.mean((1, 2))
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    rows = [n for n in range(40) if n != 3]
    vectors = np.stack([streamed[n][1] for n in rows])
    np.testing.assert_allclose(vectors, expected[rows], atol=1e-5)
    assert embedder.artifact.sha256 == sha256(embedder.network.path)
    assert (embedder.name, embedder.dim, embedder.space) == ("mean.onnx", 3, embedder.network.space)


def test_camera_ids_and_vectors_of_zeros_are_refused(
    embedder: FileEmbedder, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 16)).save(tmp_path / "black.png")
    with pytest.raises(PivlError, match="takes no camera ids"):
        list(embedder.stream_files([tmp_path / "black.png"], [1]))
    with pytest.raises(PivlError, match="vector of zeros"):
        list(embedder.stream_files([tmp_path / "black.png"]))
