"""What `export --for` prints: every network of every consumer, its scores and its latency."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.accuracy import FeatureParity, RetrievalComparison
from export.consumer_schema import ConsumerFolder, ConsumerRun
from export.latency import Latency
from pivl_distill.app.export_report import print_consumers


def entry(name: str, **fields: object) -> ConsumerFolder:
    run = ConsumerRun(file=f"{name}.onnx", precision="fp32", **fields)
    return ConsumerFolder(name=name, folder=name, files={}, runs=(run,))


def test_scores_reasons_and_latency(capsys: pytest.CaptureFixture[str]) -> None:
    measured = entry(
        "openvino",
        status="verified",
        by="OpenVINO 1",
        exact=FeatureParity(0.99991, 1.0, 0.1),
        as_used=FeatureParity(0.9, 0.9768, 0.1),
        retrieval=RetrievalComparison(0.9458, 0.9285, 0.9661, 0.9505, 384),
        latency=(Latency(1, 0.5, 0.6, 10), Latency(32, 17.35, 18.0, 10)),
        onnxruntime_latency=(Latency(1, 0.44, 0.5, 10), Latency(32, 34.2, 36.0, 10)),
    )
    missing = entry("boxmot", status="unverified", reason="BoxMOT is not installed here.")
    print_consumers(Path("deploy"), [measured, missing])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    scores = "openvino openvino.onnx verified OpenVINO 1 0.999910 0.9768 94.58 % 92.85 %"
    assert f"{scores} 96.61 % 95.05 %" in lines
    assert "boxmot boxmot.onnx unverified not run – – – – – –" in lines
    assert "openvino openvino.onnx 1 0.50 ms 0.44 ms" in lines
    assert "openvino openvino.onnx 32 17.35 ms 34.20 ms" in lines
    assert "boxmot BoxMOT is not installed here." in lines


def test_there_is_no_table_of_latency_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    print_consumers(Path("deploy"), [entry("boxmot", status="verified", by="BoxMOT 1")])
    printed = capsys.readouterr().out
    assert "Latency" not in printed
    assert "Not verified" not in printed
