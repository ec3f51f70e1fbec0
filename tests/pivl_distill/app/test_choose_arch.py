"""`pivl-distill student --max-ms` measures exported candidates and trains the chosen one."""

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
    """Candidates with made-up figures; gives the names that were timed, one list a time."""
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


def test_all_candidates_are_shown_and_the_largest_that_fits_is_taken(measured, capsys):
    settings = choose_arch.choose_arch(StudentConfig(), 2.0, "cpu")
    assert settings == StudentConfig(arch="small")
    assert measured == [["small", "large"]]  # in turns
    assert choose_arch.choose_arch(StudentConfig(), 4.0, "cpu").arch == "large"
    printed = capsys.readouterr().out
    assert "128×64" in printed
    assert "90.0 M" in printed
    assert "4.00 ms" in printed


def test_nothing_fits(measured):
    with pytest.raises(PivlError, match=r"fastest, small, takes 1\.00 ms"):
        choose_arch.choose_arch(StudentConfig(), 0.5, "cpu")


def test_one_candidate_is_really_exported_timed_and_trained(tmp_path, monkeypatch):
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


def test_the_choice_learns_from_a_bank(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choose_arch, "CANDIDATES", ("lcnet_050",))
    timed = choose_arch.measure_latency
    monkeypatch.setattr(choose_arch, "measure_latency", partial(timed, max_repeats=3))
    succeed("teach", *QUICK)
    succeed("student", *QUICK, "--max-ms", "60000", "-o", "run")
    assert "arch: lcnet_050" in Path("run/config.yaml").read_text()
    assert "supervision: part" in Path("run/config.yaml").read_text()


@pytest.mark.parametrize("budget", ["0", "-1"])
def test_a_budget_is_above_zero(budget):
    assert "--max-ms" in refuse("student", "--max-ms", budget)


def test_a_run_that_is_continued_has_its_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refuse("student", "--max-ms", "2", "--resume", "runs/student-1")
    assert "leave --max-ms away" in said


@pytest.mark.parametrize("named", [("--arch", "resnet18"), ("--set", "arch=resnet18")])
def test_an_arch_is_either_named_or_chosen(tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    command = ["student", "--config", "quick", "--bank", "none", "--max-ms", "2", *named]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert "drop one" in result.output
