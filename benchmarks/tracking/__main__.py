"""`python -m benchmarks.tracking [EXPORT]`: render, track, score, and print the table."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from benchmarks.environments import ROOT, shared_environment
from benchmarks.experiment import Origin
from benchmarks.harness import MISSED
from benchmarks.tracking.report import ARMS, COLUMNS, TRACKERS, Record, record, table_cells
from pivl_distill.app.embed_folder import latest_export
from pivl_distill.console import table, track
from pivl_distill.data.synthetic.mot import write_sequence
from pivl_distill.errors import PivlError
from pivl_distill.runtime import Extractor
from pivl_distill.runtime.trackers import max_cosine_distance

PACKAGES = (
    "boxmot==25.0.0", "deep-sort-realtime==1.3.2", "norfair-enough==2.4.3", "trackeval==1.3.0",
    "filterpy==1.4.5", "lapx==0.11.1", "pycocotools==2.0.11", "tabulate==0.10.0",
)  # fmt: skip
"""norfair-enough is the maintained fork of norfair, with the same module and interface."""
FIRST_SEED = 1000
"""No training data, and no initial weights, are of these people and cameras."""
EXAMPLE = ROOT / "examples" / "track_with_export.py"


@click.command()
@click.argument("export", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--videos", default=12, show_default=True, type=click.IntRange(2))
@click.option("--frames", default=120, show_default=True, type=click.IntRange(1))
@click.option("--record", "recorded", is_flag=True, help="Write the result file and the page.")
def main(export: Path | None, videos: int, frames: int, recorded: bool) -> None:
    """Compare trackers with and without the features of EXPORT (default: the latest)."""
    try:
        measured = measure(export or latest_export(), videos, frames)
    except PivlError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    table(f"{videos} videos of {frames} frames", COLUMNS, table_cells(measured))
    if recorded:
        record(measured)
    gains = [measured.gain(tracker, figure) for tracker in TRACKERS for figure in ("IDF1", "HOTA")]
    if any(gain.low is None or gain.low <= 0 for gain in gains):
        sys.exit(MISSED)


def measure(export: Path, videos: int, frames: int) -> Record:
    """Return the figures of every tracker, with and without ReID, on every video."""
    extractor = Extractor(export)
    data = json.loads((export / "manifest.json").read_text())["data"]
    threshold = max_cosine_distance(extractor)
    python = shared_environment("trackers", PACKAGES)
    with tempfile.TemporaryDirectory() as name:
        truth, tracks = Path(name, "truth"), Path(name, "tracks")
        seeds = range(FIRST_SEED, FIRST_SEED + videos)
        sequences = [truth / f"seed-{seed}" for seed in seeds]
        for seed, sequence in track(zip(seeds, sequences, strict=True), "Rendering", total=videos):
            write_sequence(sequence, seed, frames)
        runs = [(tracker, arm) for tracker in TRACKERS for arm in ARMS]
        for tracker, arm in track(runs, "Tracking", total=len(runs)):
            options = ["--tracker", tracker, "--output", tracks / f"{tracker} {arm}", *ARMS[arm]]
            run([python, EXAMPLE, export.resolve(), *sequences, *options])
        scored = run([python, "-m", "benchmarks.tracking.score", truth, tracks])
    return Record(
        network=extractor.name,
        precision=extractor.artifact.precision,
        data=data and data["spec"],
        max_cosine_distance=round(threshold, 4),
        frames=frames,
        packages=[*PACKAGES],
        origin=Origin.here(),
        rows=json.loads(scored),
    )


def run(command: list[str | Path]) -> str:
    """Run a command in the checkout and return its output; its errors are shown if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise PivlError(f"{Path(command[1]).name} failed:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
