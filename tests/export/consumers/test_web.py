"""The folder for browsers and Node: its files, and what its reader computes in Node."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import javascript
from export.consumers.base import ExportFolder, Frame, NetworkFile, NotRunnableError, RunOptions
from export.consumers.folders import add_consumers
from export.consumers.web import FILES, Web, find_node
from export.manifest_schema import read_manifest
from pivl_distill.data.images import read_pixels
from pivl_distill.errors import PivlError
from pivl_distill.runtime import Extractor
from pivl_distill.storage.files import sha256


@pytest.fixture
def with_node(monkeypatch):
    javascript.require_onnxruntime_web()
    monkeypatch.setenv("NODE_PATH", str(javascript.NODE_MODULES))


@pytest.fixture
def written(exported_folder) -> tuple[ExportFolder, Path]:
    folder = exported_folder.path / "web"
    folder.mkdir()
    Web().write(exported_folder, folder)
    return exported_folder, folder


def edit(folder: Path, change) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def embed(written, precision="fp32") -> np.ndarray:
    export, folder = written
    file = NetworkFile(FILES[precision], precision)
    crop = read_pixels(export.path / "golden.png")
    with Web().open(export, folder, file, RunOptions()) as runner:
        return runner.embed([Frame(crop, (0, 0, 32, 64))])


def test_the_files_are_those_of_the_export_under_other_names(written):
    export, folder = written
    for own, name in (
        ("model.onnx", "onnx/model.onnx"),
        ("model.fp16.onnx", "onnx/model_fp16.onnx"),
        ("model.int8.onnx", "onnx/model_quantized.onnx"),
    ):
        assert sha256(folder / name) == export.manifest.artifact(own).sha256
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [entry["file"] for entry in manifest["files"]] == list(FILES.values())
    assert {entry["status"] for entry in manifest["files"]} == {"unverified"}
    assert manifest["input"]["size_hw"] == [64, 32]
    pixels = np.frombuffer((folder / "golden.rgb").read_bytes(), np.uint8)
    golden = read_pixels(export.path / "golden.png")
    np.testing.assert_array_equal(pixels.reshape(64, 32, 3), golden)


@pytest.mark.usefixtures("with_node")
def test_every_precision_is_verified_and_as_accurate_as_the_extractor(
    exported_folder, trial, images
):
    path = exported_folder.path
    (entry,) = add_consumers(path, [Web()], trial, RunOptions())
    assert entry.status == "verified", entry.reason
    assert [run.precision for run in entry.runs] == ["fp32", "fp16", "int8"]
    query = [record.path for record in images[0]]
    manifest = json.loads((path / "web" / "manifest.json").read_text())
    for run, described in zip(entry.runs, manifest["files"], strict=True):
        assert run.by.startswith("onnxruntime-web 1.")
        assert described["status"] == "verified"
        measured = [{"far": t.far, "cosine": t.cosine} for t in run.thresholds]
        assert described["thresholds"] == measured
    assert entry.runs[0].as_used.min_cosine > 1 - 1e-6  # the same crop, resize and network
    assert entry.runs[0].retrieval.mAP_loss_points == pytest.approx(0, abs=0.01)
    assert read_manifest(path).consumers == (entry,)
    extractor = Extractor(path, precision="fp16", device="cpu")
    file = NetworkFile(FILES["fp16"], "fp16")
    with Web().open(exported_folder, path / "web", file, RunOptions()) as runner:
        frames = [Frame(read_pixels(name), (3, 0, 40, 77)) for name in query[:3]]
        vectors = runner.embed(frames)
    expected = [extractor.embed_boxes(f.pixels, [f.box])[0] for f in frames]
    np.testing.assert_allclose(vectors, expected, atol=2e-2)


@pytest.mark.usefixtures("with_node")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["input"].update(std=[0.1, 0.2, 0.9]), "does not compute the golden vector"),
        (lambda m: m["files"][0].update(sha256="0" * 64), "onnx/model.onnx is not the file"),
        (lambda m: m["golden"].update(sha256="0" * 64), "golden.rgb is not the file"),
        (lambda m: m["files"].pop(0), "There is no fp32 file, only fp16, int8"),
        (lambda m: m["files"][0].update(status="failed", reason="Over budget."), "Over budget."),
        (lambda m: m["input"].update(resizing="nearest"), 'resized by "nearest"'),
        (lambda m: m.update(format=2), "was not written for this reader"),
    ],
)
def test_the_reader_refuses_what_does_not_belong_together(written, change, message):
    edit(written[1], change)
    with pytest.raises(PivlError, match=message):
        embed(written)


@pytest.mark.usefixtures("with_node")
def test_a_missing_file_is_an_error(written):
    (written[1] / "onnx" / "model.onnx").unlink()
    with pytest.raises(PivlError, match="no such file"):
        embed(written)


@pytest.mark.usefixtures("with_node")
def test_verdicts_need_a_measured_rate(written):
    edit(written[1], lambda m: m["files"][0].update(thresholds=[{"far": 0.01, "cosine": 0.5}]))
    script = f"""
    import {{ createRequire }} from "node:module";
    const ort = createRequire(process.cwd() + "/x.js")("onnxruntime-web");
    const folder = new URL("{written[1].as_uri()}/");
    const extractor = await reader.Extractor.load(ort, folder);
    const [a, b] = [new Float32Array([1, 0]), new Float32Array([0.6, 0.8])];
    let message;
    try {{ extractor.samePerson(a, b, 0.001); }} catch (error) {{ message = error.message; }}
    console.log(JSON.stringify([extractor.rates(), extractor.samePerson(a, b, 0.01),
      extractor.samePerson(a, [0, 1], 0.01), message]));
    """
    rates, same, other, message = javascript.run_module(script)
    assert (rates, same, other) == ([0.01], True, False)
    assert message == "No threshold for a false-accept rate of 0.001; measured rates: 0.01."


def test_a_machine_without_node_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotRunnableError, match="install Node 20"):
        find_node()


def test_a_machine_without_onnxruntime_web_says_what_to_install(monkeypatch, tmp_path):
    javascript.node()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODE_PATH", raising=False)
    with pytest.raises(NotRunnableError, match="npm install --ignore-scripts onnxruntime-web@1"):
        find_node()
