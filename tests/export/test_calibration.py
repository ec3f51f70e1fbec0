"""Calibration crops are balanced over identities; ranges equal those of a plain run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from export.calibration import balanced_sample, calibration_crops, measure_ranges
from export.onnx_export import write_onnx
from export.source import input_spec
from pivl_distill.data.datasets import load_dataset
from pivl_distill.errors import PivlError


@pytest.mark.parametrize("count", [1, 5, 9, 14, 100])
def test_sample_is_balanced_over_identities(count):
    pids = np.array([7] * 10 + [3] * 2 + [5] * 4)
    chosen = balanced_sample(pids, count, np.random.default_rng(1))
    assert len(chosen) == len(set(chosen)) == min(count, len(pids))
    counts = {pid: int(sum(pids[chosen] == pid)) for pid in (7, 3, 5)}
    for pid, count_of_pid in counts.items():
        # An identity exceeds another by at most one crop, unless the other has no crops left.
        for other, count_of_other in counts.items():
            exhausted = count_of_other == sum(pids == other)
            assert count_of_pid <= count_of_other + 1 or exhausted, (pid, other)


def test_other_seeds_sample_other_crops():
    pids = np.repeat(np.arange(5), 20)
    first, second = (balanced_sample(pids, 10, np.random.default_rng(seed)) for seed in (0, 1))
    assert set(first) != set(second)


def test_calibration_crops_come_from_the_training_split():
    records = load_dataset("synthetic:tiny").train
    store = calibration_crops(records, (64, 32))
    assert store.crops.shape == (len(records), 64, 32, 3)
    assert sorted(store.pids) == sorted(record.pid for record in records)
    with pytest.raises(PivlError, match="has none"):
        calibration_crops([], (64, 32))


@pytest.mark.parametrize("baked", [False, True])
def test_ranges_are_the_extremes_over_all_crops(small, training, tmp_path, baked):
    path = write_onnx(small, tmp_path / "m.onnx", bake_preprocessing=baked)
    ranges = measure_ranges(path, input_spec(small, baked), training)
    images = small.preprocess(training.crops)
    conv = next(node for node in onnx.load(path).graph.node if node.op_type == "Conv")
    with torch.inference_mode():
        expected = {
            conv.input[0]: images,
            conv.output[0]: small.network.first(images),
            "features": small.network(images),
        }
    for name, values in expected.items():
        assert ranges[name] == pytest.approx(
            (values.min().item(), values.max().item()), rel=1e-4, abs=1e-5
        )
    assert all(low <= high for low, high in ranges.values())


def test_non_finite_tensor_is_named(small, training, tmp_path):
    broken = replace(small, std=(0.0, 1.0, 1.0))
    path = write_onnx(small, tmp_path / "m.onnx")
    with pytest.raises(PivlError, match="'images' are not finite"):
        measure_ranges(path, input_spec(broken), training)
