"""The folder for OpenVINO: measured IRs, and a manifest from which the Extractor runs them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from export.consumers.base import ExportFolder, NetworkFile, RunOptions
from export.consumers.folders import add_consumers
from export.consumers.openvino import BGR_FILE, IR_FILES, OpenVino, _features
from export.consumers.openvino_ir import model_info
from export.loading import load_exported
from export.manifest_schema import read_manifest
from manifest_edits import change_artifact
from pivl_distill.data.images import read_pixels
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import embed
from pivl_distill.runtime import Extractor
from pivl_distill.runtime.openvino_session import OpenVinoSession

pytest.importorskip("openvino", reason="openvino is an extra: pip install 'pivl-distill[openvino]'")


@pytest.fixture(scope="module")
def added_once(exported_once, trial, tmp_path_factory) -> Path:
    """An export with its folder for OpenVINO."""
    folder = Path(shutil.copytree(exported_once, tmp_path_factory.mktemp("openvino") / "export"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.consumers.measure.LATENCY_BATCHES", (1, 3))
        list(add_consumers(folder, [OpenVino()], trial, RunOptions()))
    return folder


@pytest.fixture
def openvino_folder(added_once, tmp_path) -> Path:
    return Path(shutil.copytree(added_once / "openvino", tmp_path / "openvino"))


def test_every_ir_is_measured_and_timed_beside_onnx_runtime(added_once):
    (entry,) = read_manifest(added_once).consumers
    assert (entry.status, entry.reason) == ("verified", None)
    assert [run.file for run in entry.runs] == [*IR_FILES.values(), BGR_FILE]
    for run in entry.runs:
        assert run.by.startswith("OpenVINO 20")
        assert run.exact.min_cosine > (0.9 if run.precision == "int8" else 0.9999)
        assert run.retrieval is not None
        batches = [] if run.file == BGR_FILE else [1, 3]
        assert [timed.batch for timed in run.latency] == batches
        assert [timed.batch for timed in run.onnxruntime_latency] == batches
    weights = {Path(name).stem: name for name in entry.files if name.endswith(".bin")}
    assert set(weights) == {Path(run.file).stem for run in entry.runs}


def test_the_extractor_runs_the_folder(added_once, images):
    crops = [read_pixels(record.path) for record in images[0][:5]]
    expected = Extractor(added_once).embed(crops)
    for precision, least in (("auto", 0.99999), ("fp16", 0.9999), ("int8", 0.9)):
        extractor = Extractor(added_once / "openvino", precision=precision, threads=1)
        assert extractor.artifact.kind == "openvino"
        assert (extractor.embed(crops) * expected).sum(1).min() > least
        measured = extractor.artifact.thresholds
        assert len(measured) == len(Extractor(added_once).artifact.thresholds)


def test_the_manifest_of_the_folder_describes_the_irs(added_once):
    own, outer = read_manifest(added_once / "openvino"), read_manifest(added_once)
    assert [artifact.file for artifact in own.artifacts] == list(IR_FILES.values())
    assert {artifact.status for artifact in own.artifacts} == {"verified"}
    assert (own.input, own.output, own.data) == (outer.input, outer.output, outer.data)
    assert own.consumers == ()
    assert "openvino" in own.versions
    vectors = {artifact.golden_vector_sha256 for artifact in own.artifacts}
    assert len(vectors) == 3


def test_a_run_in_model_api_is_not_that_of_the_extractor(added_once, openvino_folder):
    export = ExportFolder(added_once, read_manifest(added_once))
    (entry,) = export.manifest.consumers
    other = entry.runs[0].model_copy(update={"by": "Model API 1", "retrieval": None})
    before = read_manifest(openvino_folder)
    OpenVino().configure(export, openvino_folder, [*entry.runs, other])
    assert read_manifest(openvino_folder).artifacts == before.artifacts


def test_an_ir_that_cannot_run_on_an_input_is_an_error(added_once):
    session = OpenVinoSession(added_once / "openvino" / "model.xml")
    with pytest.raises(PivlError, match="OpenVINO cannot run it"):
        _features(session, np.zeros((1, 3, 5, 7), np.float32))


def test_evaluation_loads_an_ir(added_once, trial):
    model, forward = load_exported(added_once / "openvino" / "model.xml")
    crops = trial.reference.test.query.crops
    features = embed(model, crops, forward=forward)
    expected = trial.reference.features.query
    assert ((features * expected).sum(1) / np.linalg.norm(features, axis=1)).min() > 0.99999


@pytest.mark.parametrize("file", ["model.xml", "model.bin"])
def test_a_changed_file_is_refused(openvino_folder, file):
    content = bytearray((openvino_folder / file).read_bytes())
    content[-9] ^= 1
    (openvino_folder / file).write_bytes(content)
    with pytest.raises(PivlError, match=f"{file} is not the file its manifest describes"):
        Extractor(openvino_folder)
    with pytest.raises(PivlError, match=f"{file} is not the file its manifest describes"):
        load_exported(openvino_folder / "model.xml")


def test_weights_that_are_gone_are_named(openvino_folder):
    (openvino_folder / "model.bin").unlink()
    with pytest.raises(PivlError, match=r"model\.bin is missing but in the manifest"):
        Extractor(openvino_folder)


def test_a_manifest_without_weights_is_refused(openvino_folder):
    with pytest.raises(PivlError, match="names no weights of"):
        Extractor(change_artifact(openvino_folder, weights=None))


def test_the_ir_for_frames_is_no_file_of_the_manifest(openvino_folder):
    with pytest.raises(PivlError, match=r"model\.bgr\.xml is not the file its manifest describes"):
        load_exported(openvino_folder / BGR_FILE)


def test_model_info_makes_the_input_of_the_network(added_once, small):
    info = ElementTree.parse(added_once / "openvino/model.xml").find("rt_info/model_info")  # noqa: S314
    values = {element.tag: element.get("value") for element in info}
    assert values == model_info(read_manifest(added_once).input)
    assert values["reverse_input_channels"] == "True"
    assert values["resize_type"] == "standard"
    bgr = np.random.default_rng(0).integers(0, 256, (1, 64, 32, 3), np.uint8)
    mean, scale = (np.array(values[k].split(), float) for k in ("mean_values", "scale_values"))
    made = ((bgr[..., ::-1] - mean) / scale).transpose(0, 3, 1, 2)
    expected = small.preprocess(bgr[..., ::-1].copy()).numpy()
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_without_int8_in_the_export_there_is_no_int8_ir(exported_folder, tmp_path):
    manifest = exported_folder.manifest
    only = manifest.with_artifacts(manifest.artifacts[:1])
    files = OpenVino().write(type(exported_folder)(exported_folder.path, only), tmp_path)
    assert [file.precision for file in files] == ["fp32", "fp16", "fp32"]
    assert not (tmp_path / IR_FILES["int8"]).exists()


def test_the_data_settings_go_along_for_evaluate(exported_folder, tmp_path):
    (exported_folder.path / "config.yaml").write_text("export: {}\n")
    OpenVino().write(exported_folder, tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "export: {}\n"


def test_model_api_runs_too_where_it_is_named():
    written = (NetworkFile("model.xml", "fp32"),)
    consumer = OpenVino()
    assert consumer.networks(written, RunOptions()) == written
    (*first, last) = consumer.networks(written, RunOptions({"openvino": Path(sys.executable)}))
    assert tuple(first) == written
    assert (last.path, last.program) == ("model.xml", "Model API")
    with pytest.raises(PivlError, match="openvino-model-api is not installed in"):
        consumer.check_python(Path(sys.executable))


def test_the_extra_is_named_before_anything_is_written(exported_folder, trial, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(PivlError, match=r"pip install 'pivl-distill\[openvino\]'"):
        list(add_consumers(exported_folder.path, [OpenVino()], trial, RunOptions()))
    assert not (exported_folder.path / "openvino").exists()
