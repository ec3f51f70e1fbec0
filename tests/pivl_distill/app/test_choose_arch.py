"""`pivl-distill student --max-ms`: the choice of the network, and training it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from command_line import QUICK, refuse, succeed
from export.cost import Cost
from export.latency import Latency
from pivl_distill.app import choose_arch
from pivl_distill.cli import main
from pivl_distill.config import StudentConfig
from pivl_distill.errors import PivlError


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace the candidates by two with fixed latency; returns the names, timed together."""
    timed: list[list[str]] = []
    figures = {"small": (10, 1.0), "large": (90, 4.0)}

    def export(arch: str, settings: StudentConfig, device: str) -> tuple[Cost, str]:
        return Cost(1000, figures[arch][0] * 10**6), arch

    def measure(sessions: list[str], batch: int, max_seconds: float) -> list[Latency]:
        timed.append(sessions)
        return [Latency(batch, figures[name][1], 9.0, 3) for name in sessions]

    monkeypatch.setattr(choose_arch, "CANDIDATES", tuple(figures))
    monkeypatch.setattr(choose_arch, "export_candidate", export)
    monkeypatch.setattr(choose_arch, "measure_latency", measure)
    return timed


def test_all_candidates_are_listed_and_the_largest_within_budget_is_chosen(measured, capsys):
    settings = choose_arch.choose_arch(StudentConfig(), 2.0, "cpu")
    assert settings == StudentConfig(arch="small")
    assert measured == [["small", "large"]]  # in turns
    assert choose_arch.choose_arch(StudentConfig(), 4.0, "cpu").arch == "large"
    printed = capsys.readouterr().out
    assert "128×64" in printed
    assert "90.0 M" in printed
    assert "4.00 ms" in printed


def test_no_candidate_within_budget_is_an_error(measured):
    with pytest.raises(PivlError, match=r"fastest, small, takes 1\.00 ms"):
        choose_arch.choose_arch(StudentConfig(), 0.5, "cpu")


def test_a_real_candidate_is_exported_timed_and_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choose_arch, "CANDIDATES", ("lcnet_050",))
    timed = choose_arch.measure_latency
    monkeypatch.setattr(choose_arch, "measure_latency", partial(timed, max_repeats=3))
    command = ["student", "--config", "quick", "--bank", "none", "--max-ms", "60000", "-o", "run"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "lcnet_050" in result.output
    assert "arch: lcnet_050" in Path("run/config.yaml").read_text()
    assert json.loads(Path("run/run.json").read_text())["start"] == "none"


def test_the_chosen_network_learns_from_the_bank(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choose_arch, "CANDIDATES", ("lcnet_050",))
    timed = choose_arch.measure_latency
    monkeypatch.setattr(choose_arch, "measure_latency", partial(timed, max_repeats=3))
    succeed("teach", *QUICK)
    succeed("student", *QUICK, "--max-ms", "60000", "-o", "run")
    assert "arch: lcnet_050" in Path("run/config.yaml").read_text()
    assert "supervision: part" in Path("run/config.yaml").read_text()


@pytest.mark.parametrize("budget", ["0", "-1"])
def test_a_budget_must_be_positive(budget):
    assert "--max-ms" in refuse("student", "--max-ms", budget)


def test_max_ms_excludes_resume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = refuse("student", "--max-ms", "2", "--resume", "runs/student-1")
    assert "remove --max-ms" in output


@pytest.mark.parametrize("named", [("--arch", "resnet18"), ("--set", "arch=resnet18")])
def test_max_ms_excludes_arch(tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    command = ["student", "--config", "quick", "--bank", "none", "--max-ms", "2", *named]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert "remove one of them" in result.output
