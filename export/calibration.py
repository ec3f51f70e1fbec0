"""INT8 calibration: measure the range of every tensor on crops of the training split.

Ranges are the minimum and maximum over all crops. Averaging the extremes of each crop would clip
values that only few crops reach: on the synthetic `default` tier this lowered the minimum cosine of
a student from 0.99 to 0.69.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from export.loading import embedding_model_from_spec
from export.manifest_schema import InputSpec
from export.onnx_inference import run_all_outputs
from pivl_distill.data.records import Record
from pivl_distill.data.store import CropStore
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import embed
from pivl_distill.runtime.onnx_session import open_session

MAX_CROPS = 256

Ranges = dict[str, tuple[float, float]]
"""Name of a float tensor → its minimum and maximum."""


def calibration_crops(records: Sequence[Record], size_hw: tuple[int, int]) -> CropStore:
    """Load at most `MAX_CROPS` crops of the training split, spread evenly over identities.

    Raises PivlError if `records` is empty.
    """
    if not records:
        raise PivlError("INT8 is calibrated on the training split, but this data set has none.")
    return CropStore.load(sample_records(records, MAX_CROPS, 0), size_hw, what="calibration crops")


def sample_records(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """Return up to `count` records, drawn at random with equal shares per identity."""
    pids = np.array([record.pid for record in records])
    chosen = balanced_sample(pids, count, np.random.default_rng(seed))
    return [records[number] for number in chosen]


def balanced_sample(pids: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return indices of up to `count` crops, drawn at random with equal shares per identity."""
    shuffled = rng.permutation(len(pids))
    rounds = np.empty(len(pids), int)
    for pid in np.unique(pids):
        same_identity = shuffled[pids[shuffled] == pid]
        rounds[same_identity] = np.arange(len(same_identity))
    return shuffled[np.argsort(rounds[shuffled], kind="stable")][:count]


def measure_ranges(onnx_path: Path, spec: InputSpec, crops: CropStore) -> Ranges:
    """Return the range of every float tensor in a float32 ONNX file.

    Raises PivlError, with the tensor's name, if values are not finite.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(onnx_path), data_prop=True)
    names = [
        value.name
        for value in [*model.graph.input, *model.graph.value_info, *model.graph.output]
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ]
    for name in names:
        for reduction in ("ReduceMin", "ReduceMax"):
            output = f"{name}.{reduction}"
            model.graph.node.append(
                onnx.helper.make_node(reduction, [name], [output], name=output, keepdims=0)
            )
            model.graph.output.append(
                onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [])
            )
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder, "observed.onnx"))
        session = open_session(Path(folder, "observed.onnx"))
    per_batch: list[Tensor] = []

    def observe(*inputs: Tensor) -> Tensor:
        features, *extremes = run_all_outputs(session, *inputs)
        per_batch.append(torch.stack(extremes).view(-1, 2))
        return features

    network = embedding_model_from_spec("calibration", spec)
    embed(network, crops.crops, crops.camids, forward=observe, description="Calibrating")
    extremes = torch.stack(per_batch)
    minimum, maximum = extremes[..., 0].amin(0), extremes[..., 1].amax(0)
    for name, finite in zip(names, (minimum.isfinite() & maximum.isfinite()).tolist(), strict=True):
        if not finite:
            raise PivlError(
                f"{onnx_path}: the values of '{name}' are not finite on the calibration crops."
            )
    return dict(zip(names, zip(minimum.tolist(), maximum.tolist(), strict=True), strict=True))
