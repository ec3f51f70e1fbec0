"""The entry point says what is not installed, and runs without what only other commands need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

OF_TRAINING = [
    "torch",
    "torchvision",
    "timm",
    "open_clip",
    "pydantic",
    "yaml",
    "safetensors",
    "cv2",
]


def without(packages: list[str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`pivl-distill` in a process where some packages are not installed."""
    script = f"""
import importlib.util, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in {packages!r} else find_spec(name)
from pivl_distill.__main__ import main
main()
"""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("missing", "named"), [(["click", "rich"], "click rich"), (["rich"], "rich")]
)
def test_packages_of_the_command_line_are_named(missing, named):
    ended = without(missing, "embed", "--help")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("Error: The command pivl-distill needs ")
    assert f"`pip install {named}`" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_embed_runs_without_the_packages_of_training(deployed_once, tmp_path):
    Image.fromarray(np.zeros((20, 10, 3), np.uint8)).save(tmp_path / "a.png")
    out = tmp_path / "features.npz"
    ended = without(OF_TRAINING, "embed", tmp_path, "--export", deployed_once, "-o", out)
    assert ended.returncode == 0, ended.stderr
    with np.load(out) as written:
        assert written["features"].shape == (1, 24)


def test_commands_that_need_more_say_what(tmp_path):
    ended = without(OF_TRAINING, "embed", tmp_path, "-o", tmp_path / "features.npz")
    assert ended.returncode == 2
    assert "This command needs " in ended.stderr
    assert "--export FOLDER" in ended.stderr
    assert "Traceback" not in ended.stderr
