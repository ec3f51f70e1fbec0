"""Help texts, and options that mean the same for every command."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from command_line import refuse, succeed
from pivl_distill.app import training_plan
from pivl_distill.cli import main
from pivl_distill.cli.commands import training
from pivl_distill.config import DataSettings, StudentConfig, TeachConfig
from pivl_distill.config.reference import settings_help
from pivl_distill.runs.run import Run

COMPUTING = (
    "teach",
    "student",
    "bank",
    "export",
    "evaluate",
    "embed",
    "bench",
    "parse",
    "demo",
    "report",
)


def test_no_summary_is_cut_in_80_columns() -> None:
    output = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    listed = output.partition("Commands:")[2].strip().splitlines()
    assert len(listed) == len(main.commands)
    for line, command in zip(listed, main.commands.values(), strict=True):
        assert line.endswith(f" {command.short_help}")
        assert "..." not in line
        assert len(line) <= 80


@pytest.mark.parametrize("name", COMPUTING)
def test_every_command_that_computes_has_a_device(name: str) -> None:
    devices = [p for p in main.commands[name].params if p.name in ("device", "devices")]
    assert [option.opts for option in devices] == [["--device"]]
    assert isinstance(devices[0].type, click.Choice)
    assert {"cpu", "cuda"} <= set(devices[0].type.choices)


@pytest.mark.parametrize("command", ["teach", "student"])
def test_device_is_shorthand_for_the_setting(command: str, monkeypatch) -> None:
    given = []

    def plan(config: None, overrides: dict[str, object], *_: object, **__: object) -> None:
        given.append(overrides)
        raise click.Abort

    monkeypatch.setattr(training_plan, f"plan_{command}", plan)
    arguments = [command, "--device", "cuda", "--data", "market1501:/x", "--set", "seed=3"]
    assert CliRunner().invoke(main, arguments).exit_code == 1
    assert given == [{"device": "cuda", "data.spec": "market1501:/x", "seed": 3}]


@pytest.mark.parametrize(("command", "model"), [("teach", TeachConfig), ("student", StudentConfig)])
def test_help_settings_lists_the_basic_settings_or_all(command: str, model) -> None:
    basic = succeed(command, "--help-settings")
    every = succeed(command, "--help-settings", "all")
    for entry in settings_help(model, advanced=True):
        assert f" {entry.name} " in every
        assert (f" {entry.name} " in basic) == (not entry.advanced)
    assert f" {model().stage2.epochs} (epochs)" in basic
    assert "Source: §4.2" in basic


def test_help_settings_is_an_option_of_training_alone() -> None:
    trained = {training.teach.name, training.student.name}
    assert trained == {
        name
        for name, command in main.commands.items()
        if any("--help-settings" in option.opts for option in command.params)
    }


@pytest.fixture
def bank_run(tmp_path, monkeypatch):
    """A finished teach run on 256×128 crops of another data set than the default."""
    monkeypatch.chdir(tmp_path)
    yaml = "teach:\n  data: {spec: 'synthetic:tiny', size_hw: [256, 128], parsing: maps}\n"
    run = Run.create("teach", yaml)
    (run.path / "prompt_bank.safetensors").touch()
    run.finish("teach")
    return run.path


@pytest.mark.parametrize(
    ("config", "overrides", "expected"),
    [
        (None, {}, {"spec": "synthetic:tiny", "parsing": "maps", "size_hw": (256, 128)}),
        (
            None,
            {"data.spec": "market1501:/x"},
            {"spec": "market1501:/x", "parsing": None, "size_hw": (256, 128)},
        ),
        (
            None,
            {"data.size_hw": [64, 32]},
            {"spec": "synthetic:tiny", "parsing": "maps", "size_hw": (64, 32)},
        ),
        ("quick", {}, {"spec": "synthetic:tiny", "parsing": "maps", "size_hw": (256, 128)}),
    ],
)
@pytest.mark.parametrize("bank", [None, "none"])
def test_a_student_inherits_each_data_setting_that_is_not_given(
    bank_run, caplog, bank, config, overrides, expected
) -> None:
    caplog.set_level("INFO", logger="pivl_distill")
    plan = training_plan.plan_student(config, overrides, None, None, bank=bank)
    parsing = plan.config.data.parsing
    found = plan.config.data.model_dump(include={"spec", "size_hw"})
    assert found | {"parsing": parsing and str(parsing)} == expected
    assert plan.config.data.crop_cache_gib == DataSettings().crop_cache_gib
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("Data settings: spec ")
    assert ("(command line)" in message) == bool(overrides)
    assert ("(quick)" in message) == (config == "quick")
    assert f"({bank_run})" in message.replace(str(bank_run.resolve()), str(bank_run))


@pytest.mark.parametrize("value", ["-1", str(2**40), "9" * 5000, "x"])
@pytest.mark.parametrize(
    "command", [("synth", "--seed"), ("embed", "crops", "-o", "f.npz", "--camera")]
)
def test_numbers_that_no_library_takes_are_errors(command: tuple[str, ...], value: str) -> None:
    assert f"Invalid value for '{command[-1]}'" in refuse(*command, value)
