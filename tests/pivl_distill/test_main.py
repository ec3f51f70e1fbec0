"""The entry point names missing packages, and each command needs only its own packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TRAINING_PACKAGES = [
    "torch",
    "torchvision",
    "timm",
    "open_clip",
    "pydantic",
    "yaml",
    "safetensors",
    "cv2",
]


def run_without(packages: list[str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `pivl-distill` in a process where some packages are not installed."""
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
def test_missing_command_line_packages_are_named(missing, named):
    result = run_without(missing, "embed", "--help")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: The command pivl-distill needs ")
    assert f"`pip install {named}`" in result.stderr
    assert "Traceback" not in result.stderr


def test_embed_runs_without_training_packages(deployed_once, tmp_path):
    Image.fromarray(np.zeros((20, 10, 3), np.uint8)).save(tmp_path / "a.png")
    out = tmp_path / "features.npz"
    result = run_without(TRAINING_PACKAGES, "embed", tmp_path, "--export", deployed_once, "-o", out)
    assert result.returncode == 0, result.stderr
    with np.load(out) as written:
        assert written["features"].shape == (1, 24)


def test_missing_training_package_is_named(tmp_path):
    result = run_without(TRAINING_PACKAGES, "embed", tmp_path, "-o", tmp_path / "features.npz")
    assert result.returncode == 2
    assert "This command needs " in result.stderr
    assert "--export FOLDER" in result.stderr
    assert "Traceback" not in result.stderr
