"""Deployment without torch: `make runtime-check`, or `python benchmarks/torch_free.py [EXPORT]`.

Creates a virtual environment with numpy, Pillow, onnxruntime and this package without its
dependencies, runs the deployment snippets of the documentation in it on an export (default: the
latest), then adds click and rich and runs `pivl-distill embed`. Prints the contents of the
environment and the time of each step, import and checks included. Downloads the packages.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from PIL import Image

from pivl_distill.__main__ import PACKAGES as FOR_THE_COMMAND
from pivl_distill.app.embed_folder import latest_export
from pivl_distill.console import summary

ROOT = Path(__file__).parent.parent
PACKAGES = ("numpy", "pillow", "onnxruntime")
PAGES = ("README.md", "docs/deploy.md")


@click.command()
@click.argument("export", required=False, type=click.Path(path_type=Path, file_okay=False))
def main(export: Path | None) -> None:
    """Run the deployment snippets without torch."""
    metadata: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = environment(folder / "venv")
        (folder / "deploy").symlink_to((export or latest_export()).resolve())
        picture = np.random.default_rng(0).integers(0, 256, (150, 220, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "frame.png")
        for page, snippet in deployment_snippets():
            (folder / "snippet.py").write_text(snippet)
            start = time.perf_counter()
            printed = output(python, "snippet.py", cwd=folder).strip()
            seconds = time.perf_counter() - start
            metadata[f"{page} printed"] = f"{printed}, {seconds:.2f} s after Python started"
        metadata["pivl-distill embed"] = command(python, folder)
        missing = subprocess.run([python, "-c", "import torch"], capture_output=True).returncode
        assert missing, "torch is installed here"
        size = sum(file.stat().st_size for file in (folder / "venv").rglob("*") if file.is_file())
        installed = output(python, "-m", "pip", "list", "--format=freeze", "--exclude=pip")
    metadata["packages"] = ", ".join(installed.split())
    metadata["environment"] = f"{size / 1e6:.0f} MB, pip included"
    summary("Deployment without torch", metadata)


def deployment_snippets() -> Iterator[tuple[str, str]]:
    """Each page with its self-contained Python blocks: those that import the Extractor."""
    for page in PAGES:
        blocks = re.findall(
            r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL
        )
        yield from ((page, block) for block in blocks if "import Extractor" in block)


def environment(folder: Path) -> Path:
    """Create a virtual environment with the runtime's packages; return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    output(python, "-m", "pip", "install", "--quiet", *PACKAGES)
    output(python, "-m", "pip", "install", "--quiet", "--no-deps", str(ROOT))
    return python


def command(python: Path, folder: Path) -> str:
    """Run `pivl-distill embed` in `folder` as on a device: without, then with its packages.

    Gives what it wrote and how long it took.
    """
    (folder / "crops").mkdir()
    (folder / "frame.png").rename(folder / "crops" / "frame.png")
    embed = ["embed", "crops", "--export", "deploy", "-o", "features.npz"]
    script = [str(python.with_name("pivl-distill")), *embed]
    refused = subprocess.run(script, capture_output=True, text=True, cwd=folder, env={})
    assert refused.returncode == 2, refused
    assert f"pip install {' '.join(FOR_THE_COMMAND)}" in refused.stderr, refused.stderr
    output(python, "-m", "pip", "install", "--quiet", *FOR_THE_COMMAND)
    start = time.perf_counter()
    subprocess.run(script, check=True, stdout=subprocess.PIPE, cwd=folder, env={})
    seconds = time.perf_counter() - start
    with np.load(folder / "features.npz") as written:
        shape = "×".join(map(str, written["features"].shape))
    return f"{shape} values, {seconds:.2f} s, with {' and '.join(FOR_THE_COMMAND)} added"


def output(python: Path, *arguments: str, cwd: Path | None = None) -> str:
    """The output of a command without the caller's PYTHONPATH; errors are shown."""
    command = [str(python), "-I", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd).stdout


if __name__ == "__main__":
    main()
