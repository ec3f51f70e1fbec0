"""Networks of others are timed in the rounds of an export, or alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from command_line import refuse, succeed
from pivl_distill.app.bench_rivals import Rival, find_targets
from pivl_distill.config import Preprocessing
from pivl_distill.errors import PivlError

QUICK = ("--seconds", "0", "--threads", "1", "--batch", "1", "--batch", "2")
INPUT = "size_hw: [64, 32]\ncolour: rgb\nrange: 1\n"


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def other(deployed: Path, tmp_path: Path) -> str:
    """An ONNX file without manifest, and how its input is made, as --rival takes them."""
    (deployed / "model.onnx").rename(tmp_path / "other.onnx")
    (tmp_path / "input.yaml").write_text(INPUT)
    return f"{tmp_path / 'other.onnx'}={tmp_path / 'input.yaml'}"


def test_a_rival_is_timed_beside_every_file(
    other: str, deployed_once: Path, tmp_path: Path
) -> None:
    report = tmp_path / "bench.json"
    output = succeed("bench", deployed_once, *QUICK, "--rival", other, "--json", report)
    assert "other.onnx" in output
    figures = json.loads(report.read_text())
    names = [(timing["name"], timing["batch"]) for timing in figures["timings"]]
    for batch in (1, 2):
        assert ("model.onnx", batch) in names
        assert ("other.onnx", batch) in names
    (cost,) = (file for file in figures["files"] if file["name"] == "other.onnx")
    assert cost["file_bytes"] == (tmp_path / "other.onnx").stat().st_size
    assert cost["mAP"] is None


def test_a_network_of_others_alone(other: str, tmp_path: Path) -> None:
    path, preset = other.split("=")
    output = succeed("bench", path, "--preset", preset, *QUICK)
    assert "other.onnx: latency" in output
    assert "multiply-adds" not in output
    plot = tmp_path / "a.png"
    assert "no mAP to plot" in refuse("bench", path, "--preset", preset, "--plot", plot)


def test_mistakes_are_refused_before_the_work(other: str, deployed_once: Path) -> None:
    path, preset = other.split("=")
    assert "takes FILE=PRESET" in refuse("bench", deployed_once, "--rival", path)
    assert "Unknown preprocessing" in refuse("bench", deployed_once, "--rival", f"{path}=x")
    assert "There is no ONNX" in refuse("bench", deployed_once, "--rival", f"none.onnx={preset}")
    assert "declare colour and range" in refuse("bench", path)
    assert "preprocessing of" in refuse("bench", deployed_once, "--preset", preset)


def test_the_case_runs_the_network_on_the_batch(other: str) -> None:
    rival = Rival.parse(other)
    assert rival.preprocessing == Preprocessing(size_hw=(64, 32), colour="rgb", range=1)
    case = rival.case("cpu", 1, 3)
    result = case.run()
    assert isinstance(result, np.ndarray)
    assert result.shape == (3, 24)
    folder, rivals = find_targets(rival.path, rival.preprocessing, [other])
    assert (folder, rivals) == (None, [rival, rival])
    with pytest.raises(PivlError, match="FILE=PRESET"):
        Rival.parse("x")
