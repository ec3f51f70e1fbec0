"""Exports: `manifest.json` with its ONNX file and golden crop; ONNX networks of others."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.accuracy import DEFAULT_BUDGETS
from export.cost import Cost
from export.golden_crop import write_golden_crop
from export.loading import load_exported
from export.manifest_schema import (
    Artifact,
    GoldenCrop,
    InputSpec,
    Manifest,
    OutputSpec,
    read_manifest,
    write_manifest,
)
from fuzz.case import Case
from fuzz.mutation import damaged, edited_json
from fuzz.uses import use_each
from pivl_distill.config import Preprocessing
from pivl_distill.foreign import load_foreign
from pivl_distill.retrieval.thresholds import OperatingThreshold
from pivl_distill.runtime import Extractor
from pivl_distill.runtime.feature_graph import normalise
from pivl_distill.runtime.manifest_reader import vector_sha256
from pivl_distill.runtime.onnx_session import open_session
from pivl_distill.storage.filenames import FP32_FILE, GOLDEN_CROP_FILE, MANIFEST_FILE
from pivl_distill.storage.files import sha256 as file_sha256

SIZE_HW, DIM = (32, 16), 4
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
NETWORK = "network.onnx"


@cache
def _network(external: bool = False) -> bytes:
    """A pooled linear map of the channels, [B, 3, H, W] → [B, DIM]."""
    values = np.random.default_rng(0).standard_normal((3, DIM)).astype(np.float32)
    weight = numpy_helper.from_array(values, "weight")
    if external:
        onnx.external_data_helper.set_external_data(weight, "weights.bin", 0, 12 * DIM)
        weight.ClearField("raw_data")
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["features"]),
        ],
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, *SIZE_HW])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", DIM])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


@cache
def _export() -> dict[str, bytes]:
    """A verified export of the network."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        crop = write_golden_crop(folder, SIZE_HW)
        (folder / FP32_FILE).write_bytes(_network())
        session = open_session(folder / FP32_FILE, threads=1)
        (vector,) = session.run(None, {"images": normalise(crop[None], MEAN, STD)})[0]
        artifact = Artifact.from_file(
            folder / FP32_FILE, "fp32", "any", kind="onnx", float32_nodes=(), status="verified",
            golden_vector=tuple(map(float, vector)), golden_vector_sha256=vector_sha256(vector),
            thresholds=(OperatingThreshold(1e-3, 0.5, 0.9, 0.8, 0.95, 10**6, 10**4),),
        )  # fmt: skip
        manifest = Manifest(
            name="small",
            input=InputSpec(name="images", size_hw=SIZE_HW, mean=MEAN, std=STD),
            output=OutputSpec(name="features", dim=DIM, l2_normalised=False),
            golden_crop=GoldenCrop(
                file=GOLDEN_CROP_FILE, sha256=file_sha256(folder / GOLDEN_CROP_FILE)
            ),
            artifacts=(artifact,),
            source={"student.safetensors": "0" * 64},
            budgets=DEFAULT_BUDGETS,
            cost=Cost(12, 12),
            versions={},
        )
        write_manifest(folder, manifest)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _rarely_damaged(data: bytes, *others: bytes) -> st.SearchStrategy[bytes]:
    return st.just(data) | st.just(data) | damaged(data, [b"", *others])


def _graphs(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.sampled_from(seeds).flatmap(lambda data: damaged(data, seeds))


def cases() -> st.SearchStrategy[Case]:
    """An export, or a network of others with its weights in the file or beside it."""
    files = _export()
    exports = st.builds(
        lambda manifest, graph, crop, rehashed: _case(files, manifest, graph, crop, rehashed),
        edited_json(files[MANIFEST_FILE]),
        st.just(_network()) | _rarely_damaged(_network(), _network()),
        _rarely_damaged(files[GOLDEN_CROP_FILE]),
        st.sampled_from([True, True, False]),
    )
    weights = st.sampled_from([bytes(12 * DIM), b"", bytes(3)])
    networks = st.builds(
        lambda graph, bin_file: Case({NETWORK: graph, "weights.bin": bin_file}),
        _graphs([_network(), _network(external=True)]),
        weights,
    )
    return exports | exports | networks


def _case(
    files: Mapping[str, bytes], manifest: bytes, graph: bytes, crop: bytes, rehashed: bool
) -> Case:
    """An export; with `rehashed` the manifest has the sizes and hashes of the damaged files."""
    if rehashed:
        digests = {
            sha256(files[FP32_FILE]).hexdigest(): sha256(graph).hexdigest(),
            sha256(files[GOLDEN_CROP_FILE]).hexdigest(): sha256(crop).hexdigest(),
            f'"bytes": {len(files[FP32_FILE])}': f'"bytes": {len(graph)}',
        }
        for old, new in digests.items():
            manifest = manifest.replace(old.encode(), new.encode())
    return Case({MANIFEST_FILE: manifest, FP32_FILE: graph, GOLDEN_CROP_FILE: crop})


def use(given: Path, out: Path, options: Mapping[str, Any]) -> None:
    """Load the export as a device and as `evaluate` do, and embed crops; or the network."""
    if (given / NETWORK).is_file():
        preprocessing = Preprocessing(colour="rgb", range=1, size_hw=SIZE_HW)
        network = load_foreign(given / NETWORK, preprocessing)
        crops = np.zeros((3, *network.model.size_hw, 3), np.uint8)
        assert network.forward(network.model.preprocess(crops)).isfinite().all()
        return
    use_each(lambda: _extract(given), lambda: read_manifest(given), lambda: _evaluate(given))


def _extract(folder: Path) -> None:
    extractor = Extractor(folder, allow_unverified=True, threads=1)
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 256, (h, 9, 3), dtype=np.uint8) for h in (5, 40, 32)]
    cameras = [0] * len(crops) if extractor.manifest.input.cameras else None
    features = extractor.embed(crops, cameras)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    for threshold in extractor.artifact.thresholds:
        use_each(lambda far=threshold.far: extractor.threshold(far))
    json.dumps(str(extractor.artifact))


def _evaluate(folder: Path) -> None:
    for artifact in read_manifest(folder).artifacts:
        model, forward = load_exported(folder / artifact.file)
        forward(model.preprocess(np.zeros((2, *model.size_hw, 3), np.uint8)))
