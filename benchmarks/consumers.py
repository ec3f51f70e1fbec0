"""Programs that run our networks: `make consumers`, or `python benchmarks/consumers.py [EXPORT]`.

Writes the folder of every consumer into an export (default: the latest) and measures it in the
consumer itself, as `pivl-distill export EXPORT --for …` does. Those that cannot share our
environment are installed into one on top of it, `build/consumers`, which borrows our torch. The
export keeps the folders; the last table is that of docs/consumers.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

import click

from export.consumer_schema import ConsumerFolder
from export.consumers.registry import CONSUMERS
from pivl_distill.app.embed_folder import latest_export
from pivl_distill.app.export_consumers import ConsumerTargets
from pivl_distill.app.export_report import print_consumers
from pivl_distill.console import table

ROOT = Path(__file__).parent.parent
ENVIRONMENT = ROOT / "build" / "consumers"
NODE_MODULES = ROOT / "examples" / "browser" / "node_modules"
PACKAGES = (
    "boxmot==25.0.0",
    "onnxruntime==1.24.3",  # the version that BoxMOT would install while it runs
    "openvino-model-api==0.4.7",
    "tritonclient==2.73.0",
    "ultralytics==8.4.190",
)
IN_ENVIRONMENT = ("boxmot", "openvino", "triton", "ultralytics")
"""Consumers that run there, or have a part that does."""


@click.command()
@click.argument("export", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--for", "names", multiple=True, help="Only these consumers.")
def main(export: Path | None, names: tuple[str, ...]) -> None:
    """Measure every consumer on an export, and print one row for each network."""
    os.environ.setdefault("NODE_PATH", str(NODE_MODULES))
    chosen = names or tuple(CONSUMERS)
    python = environment()
    pythons = tuple(f"{name}={python}" for name in chosen if name in IN_ENVIRONMENT)
    folder = export or latest_export()
    entries = list(ConsumerTargets(chosen, pythons).add(folder))
    print_consumers(folder, entries)
    print_table(entries)


def environment() -> Path:
    """Create the environment if it is missing; return its Python."""
    python = ENVIRONMENT / "bin" / "python"
    done = ENVIRONMENT / "installed"
    if not done.is_file() or done.read_text() != repr(PACKAGES):
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        site = sysconfig.get_path("purelib", vars={"base": str(ENVIRONMENT)})
        Path(site, "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        command = [python, "-m", "pip", "install", "--quiet", *PACKAGES]
        subprocess.run(command, check=True, stdout=sys.stderr)
        done.write_text(repr(PACKAGES))
    return python


def print_table(entries: Sequence[ConsumerFolder]) -> None:
    """Print the rows of docs/consumers.md."""
    rows = []
    for entry in entries:
        for run in entry.runs:
            cosine = "–" if run.exact is None else f"{run.exact.min_cosine:.4f}"
            used = "–" if run.as_used is None else f"{run.as_used.mean_cosine:.4f}"
            scores = run.retrieval
            points = "–" if scores is None else f"{0 - round(scores.mAP_loss_points, 2):+.2f}"
            by = run.by or "not run here"
            rows.append((entry.name, by, run.file, run.status, cosine, used, points))
    columns = ("consumer", "run by", "file", "status", "cosine min", "as used: mean", "mAP points")
    table("Every network in its consumer", columns, rows)


if __name__ == "__main__":
    main()
