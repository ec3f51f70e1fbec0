"""The Extractor returns correct features for every kind of input and rejects faulty exports."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from pivl_distill.data.images import read_crop
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import normalize_crops
from pivl_distill.runtime import Extractor
from pivl_distill.runtime import extractor as extractors
from pivl_distill.runtime.feature_graph import normalise
from pivl_distill.storage.files import sha256

SIZE_HW = (64, 32)


@pytest.fixture(scope="module")
def extractor(deployed_once: Path) -> Extractor:
    return Extractor(deployed_once, threads=1)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, *SIZE_HW, 3), dtype=np.uint8)


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


def change(folder: Path, **metadata: object) -> Path:
    """Change fields of the artifact that the CPU runs."""
    return change_manifest(folder, lambda manifest: manifest["artifacts"][0].update(metadata))


def change_manifest(folder: Path, edit) -> Path:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
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


def test_normalisation_is_bit_identical_to_training(extractor, crops):
    tensors = normalize_crops(torch.from_numpy(crops), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    np.testing.assert_array_equal(
        normalise(crops, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), tensors.numpy()
    )


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


def test_boxes_are_cropped_and_clipped(extractor):
    frame = np.random.default_rng(2).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    boxes = [(10, 5, 40, 70), (-8, -3.5, 20.2, 30.9), (100, 60, 500, 500), (7.9, 8, 8.1, 9)]
    cuts = [frame[5:70, 10:40], frame[:31, :21], frame[60:, 100:], frame[8:9, 7:9]]
    np.testing.assert_array_equal(extractor.embed_boxes(frame, boxes), extractor.embed(cuts))
    as_array = extractor.embed_boxes(frame, np.array(boxes, np.float32))
    np.testing.assert_allclose(as_array, extractor.embed(cuts), atol=1e-6)


@pytest.mark.parametrize(
    ("box", "sentence"),
    [
        ((120, 0, 150, 20), "Box 1 .* has no pixel in the frame of 120x90"),
        ((5, -20, 30, -4), "has no pixel"),
        ((-20, 5, -1, 30), "has no pixel"),
        ((30, 5, 20, 30), "has no pixel"),
        ((float("nan"), 5, 20, 30), "Box 1 must be left, top"),
        ((1, 2, 3), "Box 1 must be left, top"),
        (7, r"Box 1 must be left, top, right, bottom in pixels, not 7; .* in a list: \[box\]"),
    ],
)
def test_invalid_boxes_are_named(extractor, box, sentence):
    frame = np.zeros((90, 120, 3), np.uint8)
    with pytest.raises(PivlError, match=sentence):
        extractor.embed_boxes(frame, [(0, 0, 10, 10), box])


def test_single_box_outside_a_list_is_rejected(extractor):
    with pytest.raises(PivlError, match="Box 0 must be left, top, right, bottom"):
        extractor.embed_boxes(np.zeros((90, 120, 3), np.uint8), (0, 0, 10, 10))


@pytest.mark.parametrize(
    ("crop", "sentence"),
    [
        (np.zeros((8, 4, 3), np.float32), "Crop 1 must be a uint8 array of 0..255, not float32"),
        (np.zeros((8, 4), np.uint8), r"Crop 1 must be RGB \[H, W, 3\], not of shape \[8, 4\]"),
        (np.zeros((8, 4, 4), np.uint8), "must be RGB"),
        (np.zeros((0, 4, 3), np.uint8), "must be RGB"),
        ([[0]], "must be a uint8 array of 0..255, not list"),
    ],
)
def test_invalid_crops_are_named(extractor, crop, sentence):
    with pytest.raises(PivlError, match=sentence):
        extractor.embed([np.zeros((8, 4, 3), np.uint8), crop])


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
    answers = extractor.same_person(a, gallery, far=1e-2)
    np.testing.assert_array_equal(answers, [True, True, False, False])


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
    real = extractors.open_session

    def without_cuda(path, *, threads, providers):
        if providers != ["CPUExecutionProvider"]:
            raise PivlError("cuDNN is missing")
        return real(path, threads=threads, providers=providers)

    monkeypatch.setattr(extractors, "open_session", without_cuda)
    with pytest.warns(UserWarning, match="Running on the CPU: cuDNN is missing"):
        assert Extractor(deployed_once).device == "cpu"
    with pytest.raises(PivlError, match="cuDNN"):
        Extractor(deployed_once, device="cuda")


def test_missing_gpu_gives_no_warning(deployed_once):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Extractor(deployed_once)


def test_one_changed_bit_of_the_golden_vector_is_rejected(deployed):
    manifest = json.loads((deployed / "manifest.json").read_text())
    vector = np.array(manifest["artifacts"][0]["golden_vector"], np.float32)
    vector.view(np.uint32)[10] ^= 1
    change(deployed, golden_vector=vector.tolist())
    with pytest.raises(PivlError, match=r"golden vector of model\.onnx was changed"):
        Extractor(deployed)


def test_unreproduced_golden_vector_is_rejected(deployed):
    manifest = json.loads((deployed / "manifest.json").read_text())
    vector = np.array(manifest["artifacts"][0]["golden_vector"], np.float32)[::-1].copy()
    digest = hashlib.sha256(vector.tobytes()).hexdigest()
    change(deployed, golden_vector=vector.tolist(), golden_vector_sha256=digest)
    with pytest.raises(PivlError, match="does not reproduce its golden vector"):
        Extractor(deployed)


def test_verified_file_without_golden_vector_is_rejected(deployed):
    """Otherwise a manifest without it would hide swapped means."""

    def swap(manifest):
        manifest["input"].update({k: manifest["input"][k][::-1] for k in ("mean", "std")})

    change_manifest(deployed, swap)
    change(deployed, golden_vector=None, golden_vector_sha256=None)
    with pytest.raises(PivlError, match=r"golden vector of model\.onnx is missing"):
        Extractor(deployed)


def test_golden_vector_of_wrong_length_is_rejected(deployed):
    vector = np.ones(23, np.float32)
    digest = hashlib.sha256(vector.tobytes()).hexdigest()
    change(deployed, golden_vector=vector.tolist(), golden_vector_sha256=digest)
    with pytest.raises(PivlError, match=r"has 23 values, but the manifest declares 24"):
        Extractor(deployed)


@pytest.mark.parametrize(
    ("section", "field", "value", "sentence"),
    [
        (
            "input",
            "size_hw",
            [32, 64],
            "failed on a batch of 1 crops, fed as the manifest describes",
        ),
        (
            "input",
            "name",
            "pictures",
            "failed on a batch of 1 crops, fed as the manifest describes",
        ),
        ("input", "cameras", 3, "failed on a batch of 1 crops, fed as the manifest describes"),
        (
            "output",
            "name",
            "vectors",
            "failed on a batch of 1 crops, fed as the manifest describes",
        ),
        ("output", "dim", 25, "has 24 values, but the manifest declares 25"),
    ],
)
def test_manifest_of_another_graph_is_rejected(deployed, section, field, value, sentence):
    change_manifest(deployed, lambda manifest: manifest[section].update({field: value}))
    with pytest.raises(PivlError, match=sentence):
        Extractor(deployed)


def test_features_of_wrong_length_are_rejected(deployed, crops):
    """Also for an unverified file, which has no golden vector."""
    change_manifest(deployed, lambda manifest: manifest["output"].update(dim=25))
    change(deployed, status="unverified", golden_vector=None, golden_vector_sha256=None)
    extractor = Extractor(deployed, precision="fp32", allow_unverified=True)
    with pytest.raises(PivlError, match=r"of shape \[2, 24\] for 2 crops, .* declares 25 values"):
        extractor.embed(crops[:2])


def test_batch_size_must_be_positive(deployed_once):
    with pytest.raises(PivlError, match="batch_size must be 1 or more, not 0"):
        Extractor(deployed_once, batch_size=0)


def test_swapped_channels_are_rejected(deployed):
    """In the mean and std of the manifest, or in a golden crop saved as BGR."""
    golden = deployed / "golden.png"
    good = golden.read_bytes()
    Image.fromarray(np.array(Image.open(golden))[..., ::-1].copy()).save(golden)
    with pytest.raises(PivlError, match="not the golden crop"):
        Extractor(deployed)
    digest = sha256(golden)
    change_manifest(deployed, lambda manifest: manifest["golden_crop"].update(sha256=digest))
    with pytest.raises(PivlError, match="channel order"):
        Extractor(deployed)
    golden.write_bytes(good)
    digest = sha256(golden)

    def swap(manifest):
        manifest["golden_crop"].update(sha256=digest)
        manifest["input"].update({k: manifest["input"][k][::-1] for k in ("mean", "std")})

    with pytest.raises(PivlError, match="channel order"):
        Extractor(change_manifest(deployed, swap))


def test_truncated_or_changed_file_is_rejected(deployed):
    file = deployed / "model.onnx"
    data = bytearray(file.read_bytes())
    file.write_bytes(data[:-7])
    with pytest.raises(PivlError, match=rf"is truncated: {len(data) - 7:,} of {len(data):,} bytes"):
        Extractor(deployed)
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(PivlError, match="is not the file its manifest describes"):
        Extractor(deployed)
    file.unlink()
    with pytest.raises(PivlError, match="is missing but in the manifest"):
        Extractor(deployed)


def test_missing_golden_crop_is_rejected(deployed):
    (deployed / "golden.png").unlink()
    with pytest.raises(PivlError, match="is missing or not the golden crop"):
        Extractor(deployed)


def test_failed_and_unverified_files_are_rejected(deployed):
    change(deployed, status="failed", failure="mAP 40 % became 3 %")
    with pytest.raises(PivlError, match=r"failed its verification .* mAP 40 % became 3 %"):
        Extractor(deployed, precision="fp32", allow_unverified=True)
    change(deployed, status="unverified", golden_vector=None, golden_vector_sha256=None)
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


FORBIDDEN = [
    "torch",
    "torchvision",
    "timm",
    "open_clip",
    "pydantic",
    "click",
    "yaml",
    "rich",
    "safetensors",
    "cv2",
    "onnx",
]


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
from pivl_distill.runtime import Extractor
extractor = Extractor({str(deployed_once)!r})
frame = numpy.zeros((40, 40, 3), numpy.uint8)
assert extractor.embed_boxes(frame, [(1, 1, 20, 40)]).shape == (1, extractor.dim)
assert not set({FORBIDDEN!r}) & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", script], check=True)
