"""Does ONNX Runtime's own file format pay? `python benchmarks/ort_format.py [EXPORT]`

Converts the ONNX files of an export (default: the latest) to `.ort` and prints size, time to load,
and time of one crop of both, on one thread, interleaved. Converted files hold the optimised graph,
without the layouts that ONNX Runtime chooses for the processor it runs on.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import onnxruntime as ort

from pivl_distill.app.embed_folder import latest_export
from pivl_distill.console import table

LOADS, RUNS = 15, 100
COLUMNS = ("file", "size", "load", "one crop")


@click.command()
@click.argument("export", required=False, type=click.Path(path_type=Path, file_okay=False))
def main(export: Path | None) -> None:
    """Compare the ONNX files of EXPORT with their conversions."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in (export or latest_export()).glob("*.onnx"):
            shutil.copy(file, folder)
        convert = ["-m", "onnxruntime.tools.convert_onnx_models_to_ort", folder]
        options = ["--optimization_style", "Fixed"]
        subprocess.run([sys.executable, *convert, *options], check=True, capture_output=True)
        files = sorted(file for file in folder.iterdir() if file.suffix in (".onnx", ".ort"))
        loads: dict[Path, list[float]] = {file: [] for file in files}
        for _ in range(LOADS):
            for file in files:
                start = time.perf_counter()
                load(file)
                loads[file].append(time.perf_counter() - start)
        runs = latencies({file: load(file) for file in files})
        rows = [
            (
                file.name,
                f"{file.stat().st_size / 1e6:.2f} MB",
                f"{1e3 * statistics.median(loads[file]):.1f} ms",
                f"{1e3 * statistics.median(runs[file]):.2f} ms",
            )
            for file in files
        ]
    table(f"ONNX Runtime {ort.__version__}, one thread, medians", COLUMNS, rows)


def load(file: Path) -> ort.InferenceSession:
    """Open a file of either format on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def latencies(sessions: dict[Path, ort.InferenceSession]) -> dict[Path, list[float]]:
    """Return seconds per run of each session on one crop."""
    first = next(iter(sessions.values())).get_inputs()[0]
    crop = np.random.default_rng(0).standard_normal((1, *first.shape[1:]), np.float32)
    seconds: dict[Path, list[float]] = {file: [] for file in sessions}
    for _ in range(RUNS):
        for file, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {first.name: crop})
            seconds[file].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
