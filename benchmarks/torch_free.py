"""Deployment without torch: `make runtime-check`, or `python benchmarks/torch_free.py [EXPORT]`.

Makes a virtual environment with numpy, Pillow, onnxruntime and this package without its
dependencies, runs the first snippet of docs/deploy.md in it on an export (default: the latest), and
prints what the environment holds and how long the snippet takes, import and checks included.
Downloads the packages.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
import venv
from pathlib import Path

import click
import numpy as np
from PIL import Image

from pivl_distill.cli import latest_export
from pivl_distill.console import summary

ROOT = Path(__file__).parent.parent
PACKAGES = ("numpy", "pillow", "onnxruntime")


@click.command()
@click.argument("export", required=False, type=click.Path(path_type=Path, file_okay=False))
def main(export: Path | None) -> None:
    """Run the deployment snippet where torch is not installed."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    found = re.search(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found, "docs/deploy.md has no snippet"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = environment(folder / "venv")
        (folder / "deploy").symlink_to((export or latest_export()).resolve())
        picture = np.random.default_rng(0).integers(0, 256, (150, 220, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "frame.png")
        (folder / "snippet.py").write_text(found[1])
        start = time.perf_counter()
        printed = output(python, "snippet.py", cwd=folder)
        seconds = time.perf_counter() - start
        missing = subprocess.run([python, "-c", "import torch"], capture_output=True).returncode
        assert missing, "torch is installed here"
        size = sum(file.stat().st_size for file in (folder / "venv").rglob("*") if file.is_file())
        installed = output(python, "-m", "pip", "list", "--format=freeze", "--exclude=pip")
    summary(
        "Deployment without torch",
        {
            "packages": ", ".join(installed.split()),
            "environment": f"{size / 1e6:.0f} MB, pip included",
            "the snippet printed": printed.strip(),
            "in": f"{seconds:.2f} s, from starting Python",
        },
    )


def environment(folder: Path) -> Path:
    """A new virtual environment with the runtime's packages; gives its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    output(python, "-m", "pip", "install", "--quiet", *PACKAGES)
    output(python, "-m", "pip", "install", "--quiet", "--no-deps", str(ROOT))
    return python


def output(python: Path, *arguments: str, cwd: Path | None = None) -> str:
    """What a command prints; what it prints as errors is shown."""
    command = [str(python), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd).stdout


if __name__ == "__main__":
    main()
