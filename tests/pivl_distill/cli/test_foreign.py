"""Commands on a network of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import pivl_distill
from command_line import refuse, succeed

DATA = ("--data", "synthetic:tiny")
INPUT = ("--size", "64x32", "--colour", "rgb", "--range", "1")
NORMALISATION = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Three images of noise."""
    folder = tmp_path / "crops"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (3, 70, 30, 3), dtype=np.uint8)
    for number, image in enumerate(noise):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


def test_a_file_without_manifest_scores_as_its_export(deployed: Path, tmp_path: Path) -> None:
    expected = succeed("evaluate", deployed, *DATA)
    alone = (deployed / "model.onnx").rename(tmp_path / "model.onnx")
    output = succeed("evaluate", alone, *DATA, *INPUT, *NORMALISATION)
    assert output.split("mAP", 1)[1] == expected.split("mAP", 1)[1]
    declared = {"colour": "bgr", "range": 255}
    evaluation = pivl_distill.evaluate(alone, data=DATA[1], preprocessing=declared)
    assert 0 < evaluation.result.mAP <= 1


def test_mistakes_are_refused_before_the_data_is_read(deployed: Path, tmp_path: Path) -> None:
    assert "preprocessing of" in refuse("evaluate", deployed, *DATA, "--preset", "osnet")
    alone = (deployed / "model.onnx").rename(tmp_path / "model.onnx")
    assert "declare colour and range" in refuse("evaluate", alone, *DATA)
    assert "with --data" in refuse("evaluate", alone, *INPUT)
    assert "--size takes 2 numbers" in refuse("evaluate", alone, *DATA, "--size", "64")
    assert "--mean takes 3 numbers" in refuse("evaluate", alone, *DATA, "--mean", "a,b,c")
    assert "There is no ONNX file" in refuse("evaluate", "none.xml", *DATA, *INPUT)


def test_a_file_of_others_is_embedded_and_exported(
    deployed: Path, crops: Path, tmp_path: Path
) -> None:
    """Its vectors and those of its export are in one space."""
    alone = (deployed / "model.onnx").rename(tmp_path / "model.onnx")
    model = onnx.load(alone)
    del model.metadata_props[:]
    onnx.save(model, alone)
    declared = (*INPUT, *NORMALISATION)
    succeed("embed", crops, "--network", alone, *declared, "-o", tmp_path / "v.npz")
    output = succeed(
        "export", alone, *declared, *DATA, "--precision", "fp16", "-o", tmp_path / "out"
    )
    assert "verified" in output
    extractor = pivl_distill.Extractor(tmp_path / "out")
    names, vectors = extractor.load_vectors(tmp_path / "v.npz")
    np.testing.assert_allclose(vectors, extractor.embed_folder(crops)[1], atol=1e-5)
    assert names == extractor.embed_folder(crops)[0]
    output = succeed("bench", tmp_path / "out", "--seconds", "0", "--batch", "1", "--threads", "1")
    assert "ONNX file of others" in output


def test_mistakes_in_exporting_and_embedding_others(
    deployed: Path, crops: Path, tmp_path: Path
) -> None:
    alone = (deployed / "model.onnx").rename(tmp_path / "model.onnx")
    out = ("-o", tmp_path / "v.npz")
    assert "verify" in refuse("export", alone, *INPUT)
    assert "graph of" in refuse("export", alone, *INPUT, *DATA, "--normalize")
    assert "is an export already" in refuse("export", deployed, *INPUT, *DATA)
    assert "declares its preprocessing" in refuse("embed", crops, *INPUT, *out)
    both = ("--network", alone, "--export", deployed)
    assert "remove --export" in refuse("embed", crops, *both, *INPUT, *out)
    assert "declare colour" in refuse("embed", crops, "--network", alone, *out)
    assert not (tmp_path / "v.npz").exists()
