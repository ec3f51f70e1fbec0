"""`pivl-distill bench`: timings as table, JSON and plot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from export.engines.engine_info import Gpu
from pivl_distill.app.networks import Cameras, load_checkpoint
from pivl_distill.cli import main
from pivl_distill.config import HeadSettings
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.storage.files import sha256
from students.backbones import create_backbone
from students.student import Student, save_student

QUICK = ("--seconds", "0", "--threads", "1", "--batch", "1", "--batch", "2")


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def read_facts(folder: Path) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return metadata


def edit(folder: Path, change) -> None:
    metadata = read_facts(folder)
    change(metadata)
    (folder / "manifest.json").write_text(json.dumps(metadata))


@pytest.fixture
def exported(deployed: Path, tmp_path: Path) -> Path:
    """An export whose checkpoint still exists."""
    network = create_backbone("lcnet_050", image_size_hw=(64, 32))
    student = Student("lcnet_050", network, (64, 32), 4, None, False, HeadSettings())
    checkpoint = tmp_path / "student.safetensors"
    save_student(student.embedding_model(), checkpoint, "auto")
    (deployed / "run.json").write_text(json.dumps({"kind": "export", "source": str(checkpoint)}))
    edit(deployed, lambda metadata: metadata.update(source={checkpoint.name: sha256(checkpoint)}))
    return deployed


def test_every_file_and_pytorch_are_timed_at_every_setting(exported, tmp_path):
    json_file, plot = tmp_path / "bench.json", tmp_path / "bench.png"
    result = bench(exported, *QUICK, "--json", json_file, "--plot", plot)
    assert result.exit_code == 0, result.output
    names = ["model.onnx", "model.fp16.onnx", "model.int8.onnx", "PyTorch eager"]
    metadata = json.loads(json_file.read_text())
    keys = [(t["name"], t["device"], t["threads"], t["batch"]) for t in metadata["timings"]]
    assert keys == [(name, "cpu", 1, batch) for batch in (1, 2) for name in names]
    for timing in metadata["timings"]:
        assert 0 < timing["p50_ms"] <= timing["p90_ms"] <= timing["p99_ms"]
        rate = 1000 * timing["batch"] / timing["p50_ms"]
        assert timing["crops_per_second"] == pytest.approx(rate)
        assert timing["runs"] >= 3
    subjects = {subject["name"]: subject for subject in metadata["files"]}
    assert list(subjects) == names
    assert subjects["model.onnx"]["file_bytes"] == (exported / "model.onnx").stat().st_size
    retrieval = [a["retrieval"] for a in read_facts(exported)["artifacts"]]
    scores = [r["exported_mAP"] for r in retrieval[:3]] + [retrieval[0]["checkpoint_mAP"]]
    assert [subject["mAP"] for subject in subjects.values()] == scores
    assert subjects["PyTorch eager"]["peak_bytes"] > subjects["model.onnx"]["peak_bytes"] > 1e7
    assert "against eager" in result.output
    assert f"{read_facts(exported)['cost']['macs']:,} multiply-adds" in result.output
    assert "model.int8.trt.onnx is left out: made for tensorrt" in result.output
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_without_checkpoint_or_scores_files_are_still_timed(deployed, tmp_path):
    def forget(metadata: dict[str, Any]) -> None:
        for artifact in metadata["artifacts"]:
            artifact["retrieval"] = None

    edit(deployed, forget)
    result = bench(deployed, *QUICK)
    assert result.exit_code == 0, result.output
    assert "PyTorch is left out" in result.output
    assert "model.int8.onnx" in result.output
    assert "not measured" in result.output
    refused = bench(deployed, *QUICK, "--plot", tmp_path / "bench.png")
    assert refused.exit_code == 2
    assert refused.output.startswith("Error: The manifest holds no mAP to plot")


def test_a_modified_checkpoint_is_left_out(exported):
    source = Path(json.loads((exported / "run.json").read_text())["source"])
    source.write_bytes(source.read_bytes() + b" ")
    assert "PyTorch is left out" in bench(exported, *QUICK).output


def test_failed_files_and_engines_are_left_out_with_a_reason(deployed):
    def change(metadata: dict[str, Any]) -> None:
        metadata["artifacts"][1].update(status="failed", failure="overflow")
        metadata["artifacts"][2].update(kind="tensorrt", runs_on="tensorrt")

    edit(deployed, change)
    output = bench(deployed, *QUICK).output
    assert "model.fp16.onnx is left out: it failed its verification" in output
    assert "model.int8.onnx is left out: made for tensorrt" in output
    edit(deployed, lambda metadata: metadata["artifacts"][0].update(status="failed"))
    result = bench(deployed, *QUICK)
    assert result.exit_code == 2
    assert "can be timed on cpu" in result.output


class Runner:
    """Replaces the engine runner; the INT8 file cannot be loaded."""

    def __init__(self, path: Path) -> None:
        if "int8" in path.name:
            raise PivlError(f"{path.name} was built by another version.")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1:] == (3, 64, 32)
        return images[:, 0, 0]


@pytest.mark.parametrize(("device", "timed"), [((), True), (("--device", "cpu"), False)])
def test_engines_that_run_here_are_timed(deployed, tmp_path, monkeypatch, device, timed):
    monkeypatch.setattr(Gpu, "current", lambda: Gpu(name="L4", compute_capability="8.9"))
    monkeypatch.setattr("pivl_distill.app.bench.EngineRunner", Runner)

    def change(metadata: dict[str, Any]) -> None:
        for artifact in metadata["artifacts"][1:3]:
            artifact.update(kind="tensorrt", runs_on="tensorrt", status="unverified")

    edit(deployed, change)
    result = bench(deployed, *QUICK, *device, "--json", tmp_path / "bench.json")
    assert result.exit_code == 0, result.output
    metadata = json.loads((tmp_path / "bench.json").read_text())
    keys = [(t["name"], t["device"], t["batch"]) for t in metadata["timings"]]
    engine = [("model.fp16.onnx", "cuda", batch) for batch in (1, 2)]
    assert [key for key in keys if key[0] != "model.onnx"] == (engine if timed else [])
    peaks = {subject["name"]: subject["peak_bytes"] for subject in metadata["files"]}
    assert peaks.get("model.fp16.onnx") is None
    assert ("model.int8.onnx was built by another version" in result.output) == timed


def test_pytorch_runs_with_the_cameras_of_the_export(exported, monkeypatch):
    """They are read from run.json."""
    run = json.loads((exported / "run.json").read_text())
    (exported / "run.json").write_text(json.dumps(run | {"camera": "mean", "sie_coefficient": 3.0}))
    used = []

    def load(path: Path, cameras: Cameras) -> EmbeddingModel:
        used.append(cameras)
        return load_checkpoint(path)

    monkeypatch.setattr("pivl_distill.app.bench.load_checkpoint", load)
    monkeypatch.setattr("pivl_distill.app.bench.peak_memory", lambda run, *taken: 0)
    assert bench(exported, *QUICK).exit_code == 0
    assert used == [Cameras("mean", 3.0)]


def test_a_changed_file_is_not_timed(deployed):
    (deployed / "model.onnx").write_bytes(b"short")
    result = bench(deployed, *QUICK)
    assert result.exit_code == 2
    assert "is truncated" in result.output


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_an_unwritable_output_is_an_error_before_the_work(deployed, option):
    result = bench(deployed, *QUICK, option, deployed / "model.onnx" / "bench")
    assert result.exit_code == 2
    assert "Cannot write to" in result.output
    assert "Timing" not in result.output


def test_a_plot_without_matplotlib_is_an_error_before_the_work(deployed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = bench(deployed, *QUICK, "--plot", tmp_path / "bench.png")
    assert result.exit_code == 2
    assert "pip install 'pivl-distill[plot]'" in " ".join(result.output.split())
    assert "Timing" not in result.output
