"""Reading manifest.json, choosing an artifact, and rejecting invalid manifests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from manifest_edits import change_manifest
from pivl_distill.errors import PivlError
from pivl_distill.runtime import Extractor
from pivl_distill.runtime.manifest_reader import Manifest, choose_artifact, read_manifest


@pytest.fixture
def manifest(deployed: Path) -> Manifest:
    return read_manifest(deployed)


def with_status(manifest: Manifest, **statuses: str) -> Manifest:
    """Return the manifest with new statuses by precision, without the other files."""
    artifacts = tuple(
        replace(artifact, status=statuses[artifact.precision], failure="cosine 0.4")
        for artifact in manifest.artifacts
        if artifact.precision in statuses
    )
    return replace(manifest, artifacts=artifacts)


def test_all_fields_are_read(manifest):
    assert manifest.name == "small"
    assert manifest.input.size_hw == (64, 32)
    assert manifest.input.mean == (0.485, 0.456, 0.406)
    assert not manifest.input.preprocessing_in_graph
    assert manifest.input.max_batch is None
    assert manifest.dim == 24
    assert [str(artifact) for artifact in manifest.artifacts] == [
        "model.onnx (fp32 onnx, verified)",
        "model.fp16.onnx (fp16 onnx, verified)",
        "model.int8.onnx (int8 onnx for cpu, verified)",
        "model.int8.trt.onnx (int8 onnx for tensorrt, verified)",
    ]
    coarse, *others = manifest.artifacts[0].thresholds
    assert (coarse.far, coarse.impostor_pairs) == (0.01, 6240)
    assert 0 < coarse.cosine < 1
    assert [(other.far, other.cosine) for other in others] == [(0.001, None), (0.0001, None)]


@pytest.mark.parametrize(
    ("device", "precision", "file"),
    [
        ("cpu", "auto", "model.onnx"),
        ("cuda", "auto", "model.fp16.onnx"),
        ("cpu", "int8", "model.int8.onnx"),
        ("cpu", "fp16", "model.fp16.onnx"),
        ("cuda", "fp32", "model.onnx"),
    ],
)
def test_device_preference_or_explicit_precision_chooses_the_file(
    manifest, device, precision, file
):
    assert choose_artifact(manifest, device, precision, allow_unverified=False).file == file


def test_failed_or_unverified_file_is_skipped(manifest):
    manifest = with_status(manifest, fp32="failed", fp16="unverified", int8="verified")
    for allow in (False, True):
        assert choose_artifact(manifest, "cpu", "auto", allow).precision == "int8"
    assert choose_artifact(manifest, "cuda", "auto", True).precision == "fp16"


def test_failed_file_is_always_rejected_with_its_reason(manifest):
    manifest = with_status(manifest, fp32="failed")
    for allow in (False, True):
        with pytest.raises(PivlError, match=r"model\.onnx failed its verification.*cosine 0\.4"):
            choose_artifact(manifest, "cpu", "auto", allow)


def test_unverified_file_needs_permission(manifest):
    manifest = with_status(manifest, fp32="unverified", int8="verified")
    with pytest.raises(PivlError, match=r"model\.onnx is unverified"):
        choose_artifact(manifest, "cpu", "fp32", allow_unverified=False)
    assert choose_artifact(manifest, "cpu", "fp32", allow_unverified=True).file == "model.onnx"


def test_error_lists_the_available_files(manifest):
    with pytest.raises(PivlError, match=r"no int8 ONNX file for the cuda, only model\.onnx \(fp32"):
        choose_artifact(manifest, "cuda", "int8", allow_unverified=False)
    engines = tuple(replace(a, kind="tensorrt", runs_on="tensorrt") for a in manifest.artifacts)
    with pytest.raises(PivlError, match="no ONNX file for the cpu"):
        choose_artifact(replace(manifest, artifacts=engines), "cpu", "auto", False)
    with pytest.raises(PivlError, match="did you mean 'int8'"):
        choose_artifact(manifest, "cpu", "int", allow_unverified=False)


def test_missing_manifest_raises(tmp_path):
    with pytest.raises(PivlError, match=r"has no manifest\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "7"])
def test_invalid_manifest_raises(deployed, text):
    (deployed / "manifest.json").write_text(text)
    with pytest.raises(PivlError, match="is not a manifest of an export"):
        read_manifest(deployed)


@pytest.mark.parametrize("version", [1, 3])
def test_other_formats_are_rejected(deployed, version):
    with pytest.raises(PivlError, match=f"format {version}, but this version reads format 2"):
        read_manifest(change_manifest(deployed, lambda metadata: metadata.update(format=version)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda metadata: metadata["input"].update(colour_order="BGR"), "colour order 'BGR'"),
        (lambda metadata: metadata["input"].update(layout="NHWC"), "NHWC float32 instead of NCHW"),
        (lambda metadata: metadata["input"].update(preprocessing_in_graph=True), "NHWC uint8"),
        (lambda metadata: metadata["input"].update(size_hw=[64]), "damaged"),
        (lambda metadata: metadata["input"].pop("mean"), "'mean'"),
        (
            lambda metadata: metadata["artifacts"][0].update(file="../x.onnx"),
            "not a plain file name",
        ),
        (lambda metadata: metadata["artifacts"][0].update(golden_vector="x"), "damaged"),
        (
            lambda metadata: metadata["golden_crop"].update(file="/golden.png"),
            "not a plain file name",
        ),
        (lambda metadata: metadata.update(artifacts=None), "damaged"),
        (lambda metadata: metadata["input"]["mean"].append(float("nan")), "input.mean.3 is nan"),
        (lambda metadata: metadata["output"].update(dim=float("inf")), "dim is inf"),
        (lambda metadata: metadata["output"].update(dim=10**9), "whole number of 1 to 65,536"),
        (lambda metadata: metadata["input"].update(size_hw=[0, 32]), "size_hw is 0"),
        (lambda metadata: metadata["input"].update(size_hw=[10**4, 10**4]), "100,000,000 pixels"),
        (lambda metadata: metadata["input"].update(max_batch=0), "max_batch is 0"),
        (lambda metadata: metadata["input"].update(cameras=-1), "cameras is -1"),
        (lambda metadata: metadata["input"].update(std=[1, 1, float("nan")]), "std.2 is nan"),
        (lambda metadata: metadata["input"].update(std=[1, 1]), "std is .*not three finite"),
        (lambda metadata: metadata["input"].update(mean=["0", 0, 0]), "mean is '0', not a finite"),
        (
            lambda metadata: metadata["artifacts"][0]["thresholds"][0].update(cosine="nan"),
            "cosine is 'nan', not a finite number",
        ),
        (lambda metadata: metadata["artifacts"][0].update(bytes="1"), "bytes is '1', not a whole"),
        (lambda metadata: metadata["artifacts"][0].update(golden_vector=[10**400]), "damaged"),
        (lambda metadata: metadata["artifacts"][0].update(file="a\\b"), "not a plain file name"),
        (lambda metadata: metadata["artifacts"][0].update(file=["a"]), "not a plain file name"),
        (lambda metadata: metadata["golden_crop"].update(file=".."), "not a plain file name"),
    ],
)
def test_damaged_field_is_named(deployed, change, reason):
    with pytest.raises(PivlError, match=reason):
        read_manifest(change_manifest(deployed, change))


def test_unused_fields_are_ignored(deployed):
    change_manifest(deployed, lambda metadata: metadata.update(budget={"min_cosine": 1}))
    folder = change_manifest(
        deployed, lambda metadata: metadata["artifacts"][0].update(float32_nodes=["Conv_3"])
    )
    assert len(read_manifest(folder).artifacts) == 4


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


@pytest.mark.parametrize("name", ["manifest.json", "golden.png", "model.onnx"])
def test_links_to_outside_of_the_folder_are_refused(deployed, name):
    (deployed / name).rename(deployed.parent / name)
    (deployed / name).symlink_to(deployed.parent / name)
    with pytest.raises(PivlError, match=rf"{name} is a link to outside of its folder; copy"):
        Extractor(deployed)


def test_a_manifest_of_many_levels_or_megabytes_is_refused(deployed):
    for text in ('{"format": 2, "name": ' + "[" * 10**5, " " * (2**24 + 1)):
        (deployed / "manifest.json").write_text(text)
        with pytest.raises(PivlError, match=r"nested deeper than 64 levels|has at most 16 MiB"):
            read_manifest(deployed)
