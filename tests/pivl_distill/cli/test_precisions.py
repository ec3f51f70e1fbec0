"""Exports of students and teachers in every precision on the tiny tier, and failed exports.

Budgets are wider than the defaults: with 24 queries, one changed rank costs a point of mAP or more.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import export.exporter
from command_line import QUICK, end, refuse, succeed
from pivl_distill.errors import PivlError

FEW_QUERIES = tuple(
    part
    for key in ("fp16.mAP=5", "fp16.rank1=10", "int8.mAP=10", "int8.rank1=20", "int8.cosine=0.9")
    for part in ("--budget", key)
)
FILES = ["model.onnx", "model.fp16.onnx", "model.int8.onnx", "model.int8.trt.onnx"]


pytestmark = pytest.mark.usefixtures("quick_latency")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a student and two teachers."""
    folder = tmp_path_factory.mktemp("precisions")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        succeed("teach", *QUICK, "-o", "tiny_rn")
        vit = ("--set", "clip.name=tiny_vit", "--set", "clip.weights=none")
        succeed("teach", *QUICK, *vit, "-o", "tiny_vit")
        succeed("student", *QUICK, "--bank", "tiny_rn", "-o", "student")
    return folder


@pytest.fixture
def in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


def artifacts(folder: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path(folder, "manifest.json").read_text())["artifacts"]
    return found


@pytest.mark.usefixtures("in_workplace")
@pytest.mark.parametrize("source", ["student", "tiny_rn", "tiny_vit"])
def test_runs_in_every_precision(source: str) -> None:
    out = f"{source}-export"
    options = ("--precision", "fp16", "--precision", "fp32,int8", "--bake-preprocessing")
    output = succeed("export", source, *options, *FEW_QUERIES, "-o", out)
    assert "Verified" in output
    assert [artifact["file"] for artifact in artifacts(out)] == FILES
    for artifact in artifacts(out):
        assert artifact["status"] == "verified"
        assert artifact["file"] in output
        # `evaluate` gives the same scores.
        scored = succeed("evaluate", f"{out}/{artifact['file']}")
        assert f"{100 * artifact['retrieval']['exported_mAP']:.1f} %" in scored


def test_a_published_checkpoint_with_cameras_in_every_precision(
    small_reid_state: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(small_reid_state(cameras=6, identities=8), "sie_olp.pth")
    succeed("export", "sie_olp.pth", "--precision", "fp16,int8", *FEW_QUERIES, "-o", "out")
    assert [artifact["status"] for artifact in artifacts("out")] == ["verified"] * 4
    assert json.loads(Path("out/manifest.json").read_text())["input"]["cameras"] == 6


@pytest.mark.slow
@pytest.mark.usefixtures("in_workplace")
@pytest.mark.skipif(torch.cuda.is_available(), reason="here the engines run")
def test_engines_of_every_precision_are_exit_code_4_where_they_cannot_run() -> None:
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("TensorRT-RTX is not installed")
    options = ("--precision", "fp16,int8", *FEW_QUERIES, "--rtx", "--batch", "1,2,4")
    output = end(4, "export", "student", *options, "-o", "engines")
    assert "min 1, opt 2, max 4" in output
    engines = [f"model.{precision}.rtx.engine" for precision in ("fp32", "fp16", "int8")]
    assert f"Built, but unverified: {', '.join(engines)}." in output
    assert "pivl-distill evaluate engines/model.fp32.rtx.engine" in output
    found = artifacts("engines")
    assert [artifact["file"] for artifact in found] == FILES + engines
    assert [artifact["status"] for artifact in found] == ["verified"] * 4 + ["unverified"] * 3
    output = refuse("evaluate", f"engines/{engines[1]}")
    assert "runs on an NVIDIA GPU" in output
    # The ONNX files still run on the CPU.
    crops = "engines/crops"
    Path(crops).mkdir()
    shutil.copy("engines/golden.png", crops)
    succeed("embed", crops, "--export", "engines", "-o", "engines/features.npz")


@pytest.mark.usefixtures("in_workplace")
def test_a_broken_calibration_is_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranges of crops that were divided by 255 twice."""
    real = export.exporter.measure_ranges

    def shrunk(*arguments: Any) -> dict[str, tuple[float, float]]:
        return {name: (low / 255, high / 255) for name, (low, high) in real(*arguments).items()}

    monkeypatch.setattr(export.exporter, "measure_ranges", shrunk)
    monkeypatch.setattr("export.int8.MAX_FLOAT32_SHARE", 0.02)  # one try more is enough here
    output = end(3, "export", "student", "--precision", "int8", "-o", "broken")
    assert "Not verified" in output
    assert "model.int8.onnx: Over budget: minimum cosine" in output
    assert "do not deploy the failed ones" in output
    statuses = {artifact["file"]: artifact["status"] for artifact in artifacts("broken")}
    assert statuses == {
        "model.onnx": "verified",
        "model.int8.onnx": "failed",
        "model.int8.trt.onnx": "failed",
    }
    # A failed export is not a finished run; it is kept until it is removed.
    assert not Path("broken/run.json").exists()
    assert "To export again, remove the folder or pass another with --out." in output
    output = refuse("export", "student", "-o", "broken")
    assert "broken already contains a run; name another folder with --out, or remove this" in output


@pytest.mark.usefixtures("in_workplace")
def test_a_failed_export_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise PivlError("INT8 is calibrated on the training split, but this data set has none.")

    with monkeypatch.context() as patch:
        patch.setattr("export.calibration.calibration_crops", none)
        output = refuse("export", "student", "--precision", "int8", "-o", tmp_path / "out")
    assert "this data set has none" in output
    assert not (tmp_path / "out").exists()
    succeed("export", "student", "-o", tmp_path / "out")
    # The path of the checkpoint is absolute.
    metadata = json.loads((tmp_path / "out" / "run.json").read_text())
    assert metadata["source"] == str(Path("student/student.safetensors").resolve())
    assert (metadata["camera"], metadata["sie_coefficient"]) == (None, 1.0)


@pytest.mark.usefixtures("in_workplace")
def test_an_exceeded_budget_is_exit_code_3() -> None:
    output = end(3, "export", "student", "--budget", "fp32.cosine=2", "-o", "strict")
    assert "budget 2" in output
    (artifact,) = artifacts("strict")
    assert artifact["status"] == "failed"
    assert artifact["parity"]["min_cosine"] > 0.9999


@pytest.mark.usefixtures("in_workplace")
@pytest.mark.skipif(bool(importlib.util.find_spec("boxmot")), reason="here BoxMOT runs")
def test_folders_for_consumers_are_exit_code_4_where_they_cannot_run() -> None:
    """With a new export, and into one that exists."""
    output = end(4, "export", "student", "--for", "boxmot", "-o", "consumers")
    assert "boxmot: BoxMOT is not installed here" in output
    assert Path("consumers/boxmot/reid.onnx").is_file()
    output = end(4, "export", "consumers", "--for", "boxmot")
    assert "not run" in output
    (entry,) = json.loads(Path("consumers/manifest.json").read_text())["consumers"]
    assert entry["name"] == "boxmot"
    assert {run["status"] for run in entry["runs"]} == {"unverified"}
    for options, reason in (
        ((), "is an export already; add folders for other programs with --for"),
        (("--for", "boxmot", "--normalize"), "is an export already; --normalize would change it"),
        (("--for", "boxmot", "--data", "synthetic:small"), "is not the data set"),
        (("--for", "deepsort"), "Unknown consumer 'deepsort'"),
        (("--for", "boxmot", "--consumer-python", "boxmot"), "takes NAME=PATH"),
        (("--for", "boxmot", "--consumer-python", "boxmot=gone"), "Cannot run the Python"),
    ):
        assert reason in refuse("export", "consumers", *options)
    output = refuse("export", "student", "--for", "boxmot", "--bake-preprocessing", "-o", "no")
    assert "remove --bake-preprocessing" in output
    assert not Path("no").exists()
