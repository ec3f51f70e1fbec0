"""The commands and snippets of docs/deploy.md run in order, on an export in `deploy/`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pivl_distill.cli import main

PAGE = (Path(__file__).parent.parent / "docs" / "deploy.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The arguments of each `pivl-distill` command on the page."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line.split()[1:] for line in lines if line.startswith("pivl-distill ")]


@pytest.fixture
def in_workplace(deployed_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The export, a frame and three crops, under the names on the page."""
    shutil.copytree(deployed_once, tmp_path / "deploy")
    rng = np.random.default_rng(0)
    (tmp_path / "crops").mkdir()
    for name in ("frame.png", "crops/a.png", "crops/b.png", "crops/c.png"):
        picture = rng.integers(0, 256, (150, 220, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("in_workplace")
def test_the_page_runs_from_top_to_bottom(capsys):
    """Run everything except commands that train or need a trained run."""
    pytest.importorskip("pyarrow")
    pytest.importorskip("faiss")
    quick = {"embed": [], "bench": ["--seconds", "0"]}
    assert {command[0] for command in commands()} == {"export", "student", *quick}
    for name, *arguments in commands():
        if name in quick:
            result = CliRunner().invoke(main, [name, *arguments, *quick[name]])
            assert result.exit_code == 0, result.output
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "docs/deploy.md", "exec"), names)
    printed = capsys.readouterr().out
    assert re.search("^(one person|two people)$", printed, re.MULTILINE)
    assert "holds no int8 ONNX file for the cuda" in printed
    assert re.search(r"^\[ True (True|False) (True|False)\]$".replace(" ", " +"), printed, re.M)
    assert len(names["features"]) == 3
    assert re.search(r"^\['a\.png', '[bc]\.png'\]$", printed, re.MULTILINE)


def test_every_option_on_the_page_is_known():
    for command in commands():
        known = CliRunner().invoke(main, [command[0], "--help"]).output
        for option in (argument for argument in command if argument.startswith("--")):
            assert option in known
