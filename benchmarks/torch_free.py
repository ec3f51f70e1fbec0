"""Deployment without torch: `make runtime-check`, or `python benchmarks/torch_free.py [EXPORT]`.

Creates a virtual environment with numpy, Pillow, onnxruntime and this package without its
dependencies, once with the newest and once with the oldest supported versions. In each it runs the
deployment snippets of the documentation on an export (default: the latest), embeds crops with every
precision, then adds click and rich and runs `pivl-distill embed`. Prints the contents of the
environments and the time of each step, import and checks included. Downloads the packages.
"""

from __future__ import annotations

import json
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
from pivl_distill.runtime.onnx_session import OLDEST_ONNXRUNTIME

ROOT = Path(__file__).parent.parent
PACKAGES = ("numpy", "pillow", "onnxruntime")
PAGES = ("README.md", "docs/deploy.md")
AGES = ("newest", "oldest")
MIN_COSINES = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.9}
"""To fp32, on crops of noise. The gate asks more of INT8, on crops of people."""
PRECISIONS = """
import json, sys
import numpy as np
from pivl_distill.runtime import Extractor

crops = np.random.default_rng(0).integers(0, 256, (4, 90, 40, 3), dtype=np.uint8)
expected = Extractor("deploy/", precision="fp32").embed(crops)
for name in sys.argv[1:]:
    vectors = Extractor("deploy/", precision=name).embed(crops)
    print(json.dumps({name: float((vectors * expected).sum(axis=1).min())}))
"""


@click.command()
@click.argument("export", required=False, type=click.Path(path_type=Path, file_okay=False))
def main(export: Path | None) -> None:
    """Run the deployment snippets without torch."""
    for age in AGES:
        found = check(export or latest_export(), age)
        summary(f"Deployment without torch, {age} versions", found)


def requirements(names: tuple[str, ...], age: str) -> list[str]:
    """Return requirements for pip; `age` "oldest" gives the lower bounds of pyproject.toml.

    ONNX Runtime's bound there is that of exporting; running an export needs less.
    """
    if age == "newest":
        return [*names]
    declared = (ROOT / "pyproject.toml").read_text()
    bounds = dict(re.findall(r'^  "([\w-]+)>=([\d.]+)"', declared, re.MULTILINE))
    bounds["onnxruntime"] = OLDEST_ONNXRUNTIME
    return [f"{name}=={bounds[name]}" for name in names]


def check(export: Path, age: str) -> dict[str, object]:
    """Return what each step printed, by its name; raises an exception if one fails."""
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = environment(folder / "venv", age)
        (folder / "deploy").symlink_to(export.resolve())
        picture = np.random.default_rng(0).integers(0, 256, (150, 220, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "frame.png")
        for page, snippet in deployment_snippets():
            (folder / "snippet.py").write_text(snippet)
            start = time.perf_counter()
            printed = output(python, "snippet.py", cwd=folder).strip()
            seconds = time.perf_counter() - start
            found[f"{page} printed"] = f"{printed}, {seconds:.2f} s after Python started"
        found["cosine to fp32"] = precisions(python, folder)
        found["pivl-distill embed"] = command(python, folder, age)
        missing = subprocess.run([python, "-c", "import torch"], capture_output=True).returncode
        assert missing, "torch is installed here"
        size = sum(file.stat().st_size for file in (folder / "venv").rglob("*") if file.is_file())
        installed = output(python, "-m", "pip", "list", "--format=freeze", "--exclude=pip")
    found["packages"] = ", ".join(installed.split())
    found["environment"] = f"{size / 1e6:.0f} MB, pip included"
    return found


def deployment_snippets() -> Iterator[tuple[str, str]]:
    """Each page with its self-contained Python blocks: those that import the Extractor."""
    for page in PAGES:
        blocks = re.findall(
            r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL
        )
        yield from ((page, block) for block in blocks if "import Extractor" in block)


def environment(folder: Path, age: str) -> Path:
    """Create a virtual environment with the runtime's packages; return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    output(python, "-m", "pip", "install", "--quiet", *requirements(PACKAGES, age))
    output(python, "-m", "pip", "install", "--quiet", "--no-deps", str(ROOT))
    return python


def precisions(python: Path, folder: Path) -> str:
    """Embed crops with every verified ONNX file; return its smallest cosine to fp32."""
    artifacts = json.loads((folder / "deploy" / "manifest.json").read_text())["artifacts"]
    verified = {a["precision"] for a in artifacts if a["status"] == "verified"} & {*MIN_COSINES}
    (folder / "precisions.py").write_text(PRECISIONS)
    lines = output(python, "precisions.py", *sorted(verified), cwd=folder).splitlines()
    cosines = {name: value for line in lines for name, value in json.loads(line).items()}
    assert cosines.keys() == verified, cosines
    assert all(cosine >= MIN_COSINES[name] for name, cosine in cosines.items()), cosines
    return ", ".join(f"{name} {cosine:.4f}" for name, cosine in cosines.items())


def command(python: Path, folder: Path, age: str) -> str:
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
    output(python, "-m", "pip", "install", "--quiet", *requirements(FOR_THE_COMMAND, age))
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
