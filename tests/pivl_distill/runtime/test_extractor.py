"""The Extractor returns correct features for every kind of input and rejects faulty exports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from manifest_edits import change_artifact, change_manifest
from pivl_distill.data.images import read_crop
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import normalize_crops
from pivl_distill.runtime import Extractor, open_artifact
from pivl_distill.runtime import extractor as extractors

SIZE_HW = (64, 32)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of several sizes, formats and folders, with files that must be ignored."""
    rng = np.random.default_rng(1)
    folder = tmp_path / "images"
    (folder / "b").mkdir(parents=True)
    for name, size in (("z.png", (64, 32)), ("b/a.jpg", (90, 41)), ("b/c.PNG", (20, 10))):
        crop = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(crop).save(folder / name)
    Image.new("L", (30, 30), 7).save(folder / "grey.bmp")
    (folder / "b" / "._a.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("")
    return folder


# Features


def test_features_match_the_evaluation_path(extractor, deployed_once, images):
    """Expected features are read, resized, normalised and run as `evaluate` does it, with torch."""
    paths = [images / "z.png", images / "b/a.jpg", images / "b/c.PNG", images / "grey.bmp"]
    crops = np.stack([read_crop(path, SIZE_HW) for path in paths])
    tensors = normalize_crops(torch.from_numpy(crops), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    session = onnxruntime.InferenceSession(str(deployed_once / "model.onnx"))
    features = torch.from_numpy(session.run(None, {"images": tensors.numpy()})[0])
    expected = torch.nn.functional.normalize(features).numpy()
    np.testing.assert_allclose(extractor.embed_files(paths), expected, atol=1e-6)
    arrays = [np.array(Image.open(path).convert("RGB")) for path in paths]
    np.testing.assert_allclose(extractor.embed(arrays), expected, atol=1e-6)


def test_every_batch_size_gives_the_same_unit_features(deployed_once, crops):
    extractor = Extractor(deployed_once, threads=1, batch_size=64)
    expected = extractor.embed(crops)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)
    assert expected.dtype == np.float32
    for batch in range(1, 64):
        np.testing.assert_allclose(extractor.embed(crops[:batch]), expected[:batch], atol=1e-5)
    small = Extractor(deployed_once, threads=1, batch_size=3)
    np.testing.assert_allclose(small.embed(crops), expected, atol=1e-5)


def test_batches_respect_the_maximum_of_the_manifest(deployed, crops, monkeypatch):
    change_manifest(deployed, lambda manifest: manifest["input"].update(max_batch=5))
    extractor = Extractor(deployed, batch_size=32)
    batch_sizes = []
    run = extractor._run
    monkeypatch.setattr(
        extractor, "_run", lambda images, ids: batch_sizes.append(len(images)) or run(images, ids)
    )
    extractor.embed(crops[:12])
    assert batch_sizes == [5, 5, 2]


def test_no_crops_give_empty_features(extractor, tmp_path):
    for nothing in (extractor.embed([]), extractor.embed_files([])):
        assert nothing.shape == (0, 24)
    assert extractor.embed_boxes(np.zeros((9, 9, 3), np.uint8), []).shape == (0, 24)


def test_folder_names_are_relative_and_sorted(extractor, images):
    names, vectors = extractor.embed_folder(images)
    assert names == ["b/a.jpg", "b/c.PNG", "grey.bmp", "z.png"]
    np.testing.assert_array_equal(vectors, extractor.embed_files([images / name for name in names]))
    with pytest.raises(PivlError, match="no folder"):
        extractor.embed_folder(images / "nowhere")


def test_unreadable_image_is_named_and_streaming_continues(deployed_once, images):
    extractor = Extractor(deployed_once, threads=1, batch_size=2)
    (images / "b/c.PNG").write_bytes(b"no image")
    with pytest.raises(PivlError, match=r"c\.PNG"):
        extractor.embed_folder(images)
    paths = [images / name for name in ("b/a.jpg", "b/c.PNG", "grey.bmp", "z.png")]
    streamed = list(extractor.stream_files(paths))
    assert [path for path, _ in streamed] == paths
    readable = [n for n, (_, vector) in enumerate(streamed) if not isinstance(vector, PivlError)]
    assert readable == [0, 2, 3]
    expected = extractor.embed_files([paths[n] for n in readable])
    np.testing.assert_allclose(np.stack([streamed[n][1] for n in readable]), expected, atol=1e-6)


def test_batch_without_a_readable_image(deployed_once, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    ((_, error),) = Extractor(deployed_once, threads=1).stream_files([tmp_path / "a.png"])
    assert isinstance(error, PivlError)


def test_concurrent_threads_get_the_same_features(extractor, crops):
    expected = extractor.embed(crops)

    def agrees(seed: int) -> bool:
        rows = np.random.default_rng(seed).choice(64, 1 + seed % 7, replace=False)
        return bool(np.allclose(extractor.embed(crops[rows]), expected[rows], atol=1e-5))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(agrees, range(48)))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_gives_nearly_the_same_features(deployed_once, extractor, crops, precision):
    vectors = Extractor(deployed_once, precision=precision).embed(crops)
    cosines = (vectors * extractor.embed(crops)).sum(axis=1)
    assert cosines.min() > {"fp32": 0.99999, "fp16": 0.9999, "int8": 0.99}[precision]


def test_preprocessing_in_the_graph_gives_the_same_features(deploy, extractor, images):
    baked = Extractor(deploy(bake_preprocessing=True))
    _, expected = extractor.embed_folder(images)
    np.testing.assert_allclose(baked.embed_folder(images)[1], expected, atol=1e-6)


def test_normalisation_in_the_graph_gives_the_same_features(deploy, extractor, crops):
    normalised = Extractor(deploy(normalize=True))
    np.testing.assert_allclose(normalised.embed(crops), extractor.embed(crops), atol=1e-6)


def test_camera_ids_are_fed_to_the_network(deploy, crops, images):
    extractor = Extractor(deploy(cameras=2), batch_size=3)
    first, second = (extractor.embed(crops[:5], [camera] * 5) for camera in (0, 1))
    assert abs(first - second).max() > 0.01
    mixed = extractor.embed(crops[:5], [0, 1, 0, 0, 1])
    np.testing.assert_allclose(mixed[[0, 2, 3]], first[[0, 2, 3]], atol=1e-6)
    np.testing.assert_allclose(mixed[[1, 4]], second[[1, 4]], atol=1e-6)
    paths = [images / "z.png", images / "b/a.jpg"]
    both = extractor.embed_files(paths, [1, 0])
    np.testing.assert_allclose(both[1], extractor.embed_files(paths[1:], [0])[0], atol=1e-6)


@pytest.mark.parametrize("cameras", [None, [0], [0, 2], [-1, 0]])
def test_missing_or_unknown_cameras_are_rejected(deploy, crops, cameras):
    with pytest.raises(PivlError, match="camera"):
        Extractor(deploy(cameras=2)).embed(crops[:2], cameras)


# Thresholds


def test_same_person_uses_the_threshold_of_the_manifest(extractor, deployed_once, crops):
    manifest = json.loads((deployed_once / "manifest.json").read_text())
    threshold = manifest["artifacts"][0]["thresholds"][0]["cosine"]
    assert extractor.threshold(far=0.01) == threshold
    a, b = extractor.embed(crops[:2])
    assert extractor.same_person(a, b, far=1e-2) == (a @ b >= threshold)
    assert extractor.same_person(a, a, far=1e-2)
    across = np.zeros_like(a)
    across[0], across[1] = a[1], -a[0]
    gallery = np.stack([a, threshold * a + 1e-3 * a, threshold * a - 1e-3 * a, across])
    same = extractor.same_person(a, gallery, far=1e-2)
    np.testing.assert_array_equal(same, [True, True, False, False])


def test_each_precision_has_its_own_thresholds(deployed_once):
    cosines = {Extractor(deployed_once, precision=p).threshold(1e-2) for p in ("fp32", "int8")}
    assert len(cosines) == 2


def test_unmeasured_false_accept_rate_is_rejected(extractor):
    with pytest.raises(PivlError, match=r"rate of 0\.05; measured rates: 0\.01, 0\.001, 0\.0001"):
        extractor.threshold(far=0.05)
    with pytest.raises(PivlError, match="6,240 impostor pairs are too few"):
        extractor.same_person(np.ones(3), np.ones(3))


@pytest.mark.parametrize(
    ("a", "b"),
    [((24,), (23,)), ((3,), (3,)), ((5, 24), (4, 24)), ((), (24,)), ((24,), (24, 1))],
)
def test_incompatible_feature_shapes_are_rejected(extractor, a, b):
    with pytest.raises(
        PivlError, match=r"compares features \[\.\.\., 24\] whose shapes broadcast, not \["
    ):
        extractor.same_person(np.ones(a, np.float32), np.ones(b, np.float32), far=1e-2)


# What is loaded


def test_cpu_prefers_fp32_and_explicit_precision_is_used(deployed_once):
    assert Extractor(deployed_once).artifact.precision == "fp32"
    named = Extractor(str(deployed_once), precision="int8", device="cpu")
    assert (named.artifact.file, named.device) == ("model.int8.onnx", "cpu")
    assert (named.name, named.dim, named.size_hw) == ("small", 24, SIZE_HW)
    with pytest.raises(PivlError, match="Unknown device 'gpu'"):
        Extractor(deployed_once, device="gpu")


def test_unusable_gpu_warns_and_falls_back_to_the_cpu(deployed_once, monkeypatch):
    monkeypatch.setattr(extractors, "has_cuda", lambda: True)
    real = open_artifact.open_session

    def without_cuda(path, *, threads, providers):
        if providers != ["CPUExecutionProvider"]:
            raise PivlError("cuDNN is missing")
        return real(path, threads=threads, providers=providers)

    monkeypatch.setattr(open_artifact, "open_session", without_cuda)
    with pytest.warns(UserWarning, match="Running on the CPU: cuDNN is missing"):
        assert Extractor(deployed_once).device == "cpu"
    with pytest.raises(PivlError, match="cuDNN"):
        Extractor(deployed_once, device="cuda")


def test_missing_gpu_gives_no_warning(deployed_once):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Extractor(deployed_once)


def test_batch_size_must_be_positive(deployed_once):
    with pytest.raises(PivlError, match="batch_size must be 1 or more, not 0"):
        Extractor(deployed_once, batch_size=0)


def test_failed_and_unverified_files_are_rejected(deployed):
    change_artifact(deployed, status="failed", failure="mAP 40 % became 3 %")
    with pytest.raises(PivlError, match=r"failed its verification .* mAP 40 % became 3 %"):
        Extractor(deployed, precision="fp32", allow_unverified=True)
    change_artifact(deployed, status="unverified", golden_vector=None, golden_vector_sha256=None)
    with pytest.raises(PivlError, match="is unverified"):
        Extractor(deployed, precision="fp32")
    allowed = Extractor(deployed, precision="fp32", allow_unverified=True)
    assert allowed.artifact.status == "unverified"


def test_zero_or_non_finite_features_are_rejected(extractor, crops, monkeypatch):
    for bad in (0.0, np.nan, np.inf):
        features = np.ones((2, 24), np.float32)
        features[1] = bad
        monkeypatch.setattr(extractor, "_run", lambda *_, features=features: features)
        with pytest.raises(PivlError, match="cannot be normalised"):
            extractor.embed(crops[:2])


RUNTIME = ("numpy", "pillow", "onnxruntime", "onnxruntime-gpu")
MODULES = {"opencv-python-headless": "cv2", "open_clip_torch": "open_clip", "pyyaml": "yaml"}
"""Modules whose names differ from those of their packages."""


def training_modules() -> list[str]:
    """The modules of all dependencies in pyproject.toml but the runtime's."""
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block
    packages = set(re.findall(r'^  "([\w-]+)', block[1], re.MULTILINE)) - set(RUNTIME)
    return sorted(MODULES.get(package, package) for package in packages)


FORBIDDEN = training_modules()


def test_runtime_imports_no_training_dependency(deployed_once):
    """In a subprocess, importing torch and other training packages raises ImportError."""
    script = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN!r}:
            raise ImportError(f"{{name}} is not installed")

sys.meta_path.insert(0, Absent())
import numpy
import pivl_distill.runtime.trackers
from pivl_distill.runtime import Extractor
extractor = Extractor({str(deployed_once)!r})
frame = numpy.zeros((40, 40, 3), numpy.uint8)
assert extractor.embed_boxes(frame, [(1, 1, 20, 40)]).shape == (1, extractor.dim)
assert not set({FORBIDDEN!r}) & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_several_threads_load_and_use_exports_at_once(deployed_once, extractor, crops):
    expected = extractor.embed(crops[:5])

    def load_and_embed(precision: str) -> bool:
        other = Extractor(deployed_once, precision=precision, threads=1)
        cosines = (other.embed(crops[:5]) * expected).sum(axis=1)
        return bool(cosines.min() > 0.99 and extractor.same_person(expected, expected, 1e-2).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(load_and_embed, ["fp32", "fp16", "int8", "fp32"] * 4))


def test_a_file_that_changes_after_its_check_is_not_used(deployed, crops, monkeypatch):
    """The bytes that run are those whose hash was checked."""
    expected = Extractor(deployed, threads=1).embed(crops[:2])
    verified = open_artifact.read_verified

    def then_replaced(path, size, digest):
        content = verified(path, size, digest)
        path.write_bytes(b"another network")
        return content

    monkeypatch.setattr(open_artifact, "read_verified", then_replaced)
    np.testing.assert_array_equal(Extractor(deployed, threads=1).embed(crops[:2]), expected)


def test_only_the_folder_is_opened(deployed_once):
    """In a subprocess, Python reports every file that it opens; ONNX Runtime gets bytes."""
    script = f"""
import sys
from pathlib import Path
import numpy
import pivl_distill
from PIL import Image
from pivl_distill.runtime import Extractor
Image.init()
opened = []

def record(event, arguments):
    if event in ("open", "subprocess.Popen", "socket.connect"):
        opened.append((event, str(arguments[0])))

sys.addaudithook(record)
extractor = Extractor({str(deployed_once)!r}, device="cpu", threads=1)
extractor.embed([numpy.zeros((9, 9, 3), numpy.uint8)])
folder = Path({str(deployed_once)!r})
installed = (sys.prefix, sys.base_prefix, str(Path(pivl_distill.__file__).parent))
used = [(event, name) for event, name in opened if not name.startswith(installed)]
assert {{Path(name).name for event, name in used if Path(name).parent == folder}} == {{
    "manifest.json", "model.onnx", "golden.png"
}}
elsewhere = [entry for entry in used if Path(entry[1]).parent != folder]
assert elsewhere == [], elsewhere
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_memory_is_bounded_by_the_batch(deployed_once):
    """Crops of 12 MB each: only one resized batch is in memory besides them."""
    extractor = Extractor(deployed_once, threads=1, batch_size=4)
    huge = np.broadcast_to(np.zeros(3, np.uint8), (2000, 2000, 3))
    tracemalloc.start()
    try:
        extractor.embed([huge] * 40)
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()


# Stored vectors


def store(path, vectors, **facts):
    names = [f"{number}.png" for number in range(len(vectors))]
    np.savez(path, names=names, features=vectors, metadata=json.dumps(facts))
    return path


def test_stored_vectors_of_the_same_network_are_loaded(extractor, crops, tmp_path):
    vectors = extractor.embed(crops)
    path = store(tmp_path / "v.npz", vectors, **extractor.space.metadata())
    names, loaded = extractor.load_vectors(path)
    assert names[:2] == ["0.png", "1.png"]
    np.testing.assert_array_equal(loaded, vectors)
    assert extractor.same_person(vectors[0], loaded, far=1e-2)[0]


def test_stored_vectors_of_other_networks_are_refused(extractor, crops, tmp_path, caplog):
    vectors = extractor.embed(crops)
    path = store(tmp_path / "v.npz", vectors, vector_space="0" * 32)
    with pytest.raises(PivlError, match=r"different networks.*migrate"):
        extractor.load_vectors(path)
    compatible = {"vector_space": "0" * 32, "compatible_with": [extractor.space.id]}
    assert len(extractor.load_vectors(store(path, vectors, **compatible))[0]) == len(vectors)
    assert not caplog.records
    with pytest.raises(PivlError, match="vectors of 3 values"):
        extractor.load_vectors(store(path, vectors[:, :3]))
    assert "does not say which network" in caplog.text


def test_an_export_of_an_earlier_version_has_no_space(deployed):
    change_manifest(deployed, lambda manifest: manifest.pop("vector_space"))
    assert Extractor(deployed).space is None
    change_manifest(deployed, lambda manifest: manifest.update(vector_space="x"))
    with pytest.raises(PivlError, match="damaged"):
        Extractor(deployed)
