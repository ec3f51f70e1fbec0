"""Which checkpoints are opened, and why others are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pivl_distill.errors import PivlError
from pivl_distill.report import opened
from pivl_distill.report.blocks import LeftOutError
from pivl_distill.report.context import ReportContext, ReportSettings
from pivl_distill.report.opened import checkpoint_of, open_networks
from pivl_distill.report.runs import find_runs


def context(*paths: Path) -> ReportContext:
    return ReportContext(find_runs(paths), ReportSettings())


def test_a_run_and_its_export_have_one_checkpoint(desk: Path) -> None:
    runs = desk / "runs"
    both = context(runs / "student-1", runs / "export-2").networks
    assert [checkpoint_of(network) for network in both] == [
        (runs / "student-1" / "student.safetensors").resolve()
    ]


def test_a_changed_or_missing_checkpoint_is_not_opened(desk: Path) -> None:
    runs = desk / "runs"
    (alone,) = context(runs / "export-2").networks
    checkpoint = desk / "moved.safetensors"
    run_file = runs / "export-2" / "run.json"
    run_file.write_text(json.dumps({"kind": "export", "source": str(checkpoint)}))
    with pytest.raises(PivlError, match="is not there"):
        checkpoint_of(alone)
    shutil.copy(runs / "student-1" / "student.safetensors", checkpoint)
    assert checkpoint_of(alone) == checkpoint
    checkpoint.write_bytes(b"others")
    with pytest.raises(PivlError, match="not the checkpoint any more"):
        checkpoint_of(alone)


def test_the_layer_belongs_to_the_scored_network(desk: Path) -> None:
    runs = desk / "runs"
    (network,), reasons = open_networks(context(runs / "student-1", runs / "export-2"))
    assert reasons == []
    crops = network.scored.evaluation.test.query.crops[:2]
    found = network.layer.network.eval()(network.model.preprocess(crops)).detach().numpy()
    assert found == pytest.approx(network.scored.evaluation.features.query[:2], abs=1e-3)


def test_more_networks_than_fit_are_named(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "MAX_NETWORKS", 1)
    runs = desk / "runs"
    networks, reasons = open_networks(context(runs / "student-1", runs / "student-2"))
    assert len(networks) == 1
    assert "student-2" in reasons[0]
    (runs / "student-1" / "student.safetensors").unlink()
    with pytest.raises(LeftOutError):
        open_networks(context(runs / "student-1"))
