"""Every output option of every command is refused before the work if it cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest

from command_line import end, refuse
from pivl_distill.cli import main
from pivl_distill.storage.output_path import OutputPath

INPUTS = {
    ("teach", "parsing"),
    ("student", "parsing"),
    ("bank", "source"),
    ("bank", "parsing"),
    ("export", "source"),
    ("evaluate", "target"),
    ("evaluate", "gallery"),
    ("embed", "folder"),
    ("embed", "export_dir"),
    ("embed", "network"),
    ("migrate", "vectors"),
    ("migrate", "old"),
    ("migrate", "new"),
    ("bench", "target"),
    ("push", "source"),
    ("compare", "runs"),
    ("report", "runs"),
    ("watch", "run"),
    ("check", "parsing"),
    ("occluded-duke", "duke"),
    ("occluded-duke", "lists"),
}
"""Paths that commands only read. A new path is added here, or is an `OutputPath`."""

PATHS = [
    (name, parameter)
    for name, command in main.commands.items()
    for parameter in command.params
    if isinstance(parameter.type, click.Path)
]
OUTPUTS = [(name, path) for name, path in PATHS if isinstance(path.type, OutputPath)]


def test_every_path_is_an_input_or_checked() -> None:
    unchecked = {(name, path.name) for name, path in PATHS} - {(n, p.name) for n, p in OUTPUTS}
    assert unchecked == INPUTS


def arguments(command: click.Command, output: click.Parameter, path: Path) -> list[str]:
    """Arguments that give all required parameters, and `path` for the output."""
    given = []
    for parameter in command.params:
        if parameter is output or parameter.required:
            value = path if parameter is output else path.parent.parent / "x.npz"
            option = isinstance(parameter, click.Option)
            given += [*([parameter.opts[0]] if option else []), str(value)]
    return given


@pytest.mark.parametrize("name", ["a.npz", "a"])
def test_a_path_of_either_kind_is_a_folder_without_extension(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    either = OutputPath(folder=None)
    if name == "a":
        assert either.convert(str(tmp_path / name), None, None) == tmp_path / name
    else:
        with pytest.raises(click.BadParameter, match="it is a folder"):
            either.convert(str(tmp_path / name), None, None)


@pytest.mark.parametrize(("name", "output"), OUTPUTS, ids=lambda part: getattr(part, "name", part))
def test_unwritable_output_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, output: click.Parameter
) -> None:
    (tmp_path / "file").touch()
    command, begun = main.commands[name], []
    monkeypatch.setattr(command, "callback", lambda **given: begun.append(given))
    told = refuse(name, *arguments(command, output, tmp_path / "file" / "below"))
    assert "file/below' (Not a directory); choose another path." in told
    assert begun == []
    end(0, name, *arguments(command, output, tmp_path / "new" / "below"))
    assert len(begun) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_shell_completion_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = click.Command("c", params=[click.Option(["--out"], type=OutputPath())])
    monkeypatch.setattr("pivl_distill.storage.files.check_writable", None)
    command.make_context("c", ["--out", str(tmp_path / "a")], resilient_parsing=True)


@pytest.mark.parametrize("command", [["teach"], ["student", "--bank", "none"], ["demo"]])
def test_default_run_folder_is_checked_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").touch()
    assert "Cannot write to 'runs'" in refuse(*command)


@pytest.mark.skipif(os.name != "posix", reason="needs the locks of POSIX")
@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_command_left_is_removed(tmp_path: Path, folder: bool) -> None:
    left = tmp_path / (".sheet.a1b2.part" if folder else ".sheet.a1b2.partial")
    left.mkdir() if folder else left.touch()
    (tmp_path / ".other.a1b2.partial").touch()
    OutputPath(folder=folder).convert(str(tmp_path / "sheet"), None, None)
    assert [path.name for path in tmp_path.iterdir()] == [".other.a1b2.partial"]
