"""Files of exports: the Pareto front, drift and INT8 per layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from export.int8 import SENSITIVITY_CROPS
from export.manifest_schema import Artifact
from pivl_distill.errors import PivlError
from pivl_distill.report.context import ReportContext, ReportSettings
from pivl_distill.report.deployed import deployed_files, drift, int8_sensitivity, pareto_front


def test_the_front_is_what_nothing_else_beats() -> None:
    rng = np.random.default_rng(0)
    latency, score = rng.integers(1, 9, 60).astype(float), rng.integers(1, 9, 60).astype(float)
    front = pareto_front(latency, score)
    points = list(zip(latency, score, strict=True))

    def beaten(one: tuple[float, float]) -> bool:
        return any(other[0] <= one[0] and other[1] >= one[1] and other != one for other in points)

    assert {points[n] for n in front} == {point for point in points if not beaten(point)}
    assert [latency[n] for n in front] == sorted(latency[n] for n in front)


def test_files_know_the_run_they_come_from(report_runs) -> None:
    files = {file.name: file for file in deployed_files(list(report_runs.values()))}
    assert len(files) == 5
    assert files["export-1/model.int8.onnx"].network == report_runs["student-2"].label
    assert files["export-2/model.onnx"].network == report_runs["student-1"].label
    alone = deployed_files([report_runs["export-1"]])
    assert {file.network for file in alone} == {"mobilenetv2_025"}


def test_drift_agrees_with_the_gate(report_runs) -> None:
    export = report_runs["export-1"]
    (scored,) = ReportContext([export], ReportSettings()).scored
    found = drift(export, scored.evaluation.test)
    artifacts: dict[str, Artifact] = {a.file: a for a in export.manifest.artifacts}
    assert set(found) == set(artifacts) - {"model.onnx"}
    for file, cosines in found.items():
        parity = artifacts[file].parity
        assert cosines.min() == pytest.approx(parity.min_cosine, abs=1e-5)
        assert cosines.mean() == pytest.approx(parity.mean_cosine, abs=1e-5)


def test_without_a_float32_file_there_is_no_drift(report_runs) -> None:
    export = report_runs["export-1"]
    (scored,) = ReportContext([export], ReportSettings()).scored
    first, *others = export.manifest.artifacts
    failed = first.model_copy(update={"status": "failed"})
    run = replace(export, manifest=export.manifest.with_artifacts([failed, *others]))
    with pytest.raises(PivlError, match=r"model\.onnx of export-1 failed"):
        drift(run, scored.evaluation.test)


def test_int8_is_measured_for_each_layer_once(report_runs, monkeypatch) -> None:
    calls = []

    def measured(path, target, ranges, inputs):
        calls.append((path.name, target, len(inputs[0]), bool(ranges)))
        return {"conv": 0.5}

    monkeypatch.setattr("pivl_distill.report.deployed.layer_sensitivity", measured)
    export = report_runs["export-1"]
    dataset = ReportContext([export], ReportSettings()).dataset
    assert int8_sensitivity(export, dataset) == {"conv": 0.5}
    crops = min(SENSITIVITY_CROPS, len(dataset.train))
    assert calls == [("model.onnx", "cpu", crops, True)]
