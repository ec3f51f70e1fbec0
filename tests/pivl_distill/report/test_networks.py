"""Training runs are paired with their exports, by the hash of the checkpoint."""

from __future__ import annotations

from pivl_distill.report.networks import find_networks
from pivl_distill.storage.filenames import FP32_FILE, TEACHER_FILE


def test_exports_belong_to_the_run_with_their_checkpoint(report_runs) -> None:
    networks = {network.name: network for network in find_networks(list(report_runs.values()))}
    assert list(networks) == ["teach-1", "student-1", "student-2"]
    assert [run.name for run in networks["student-2"].exports] == ["export-1"]
    assert [run.name for run in networks["student-1"].exports] == ["export-2"]
    assert networks["teach-1"].exports == ()


def test_the_exported_file_is_scored_if_there_is_one(report_runs) -> None:
    networks = {network.name: network for network in find_networks(list(report_runs.values()))}
    assert networks["student-2"].target == report_runs["export-1"].path / FP32_FILE
    assert networks["teach-1"].target == report_runs["teach-1"].path / TEACHER_FILE


def test_an_export_without_its_run_is_a_network_of_its_own(report_runs) -> None:
    export = report_runs["export-1"]
    (network,) = find_networks([export])
    assert (network.training, network.run, network.target) == (
        None,
        export,
        export.path / FP32_FILE,
    )
