"""`evaluate` on a network of others."""

from __future__ import annotations

from pathlib import Path

import pivl_distill
from command_line import refuse, succeed

DATA = ("--data", "synthetic:tiny")
INPUT = ("--size", "64x32", "--colour", "rgb", "--range", "1")
NORMALISATION = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")


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
