"""TensorRT-RTX engines of students and teachers, built without a GPU: `make engines`.

Exports every model in fp32, fp16 and int8 for batches 1 to 64, builds the engines, and loads them
as far as the machine can. A failed build ends the run with TensorRT-RTX's own message. `--model`
selects models, `--json` also writes the figures.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from engine_models import STUDENTS, TEACHERS, make_model, write_graphs

from export.engines.builder import build_engine
from export.engines.engine_info import BatchProfile
from export.engines.runner import check_engine_loads
from pivl_distill.console import table
from pivl_distill.storage.files import write_json

PROFILE = BatchProfile.parse("1,8,64")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", choices=[*STUDENTS, *TEACHERS])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [row for name in options.model or (*STUDENTS, *TEACHERS) for row in build(name)]
    columns = ("model", "precision", "ONNX MB", "engine MB", "export s", "build s", "read back")
    table("TensorRT-RTX engines, built on this machine", columns, [_cells(row) for row in rows])
    if options.json:
        write_json(options.json, rows)


def build(name: str) -> list[dict[str, object]]:
    """The engines of one model: sizes, and seconds of export and build."""
    model, rows = make_model(name), []
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        for precision, onnx_path in write_graphs(model, Path(folder)):
            export_seconds = time.monotonic() - start
            path, info = build_engine(onnx_path, "tensorrt-rtx", PROFILE)
            assert info.precision == precision
            rows.append(
                {
                    "model": name,
                    "precision": precision,
                    "library_version": info.library_version,
                    "onnx_bytes": onnx_path.stat().st_size,
                    "engine_bytes": info.engine_bytes,
                    "export_seconds": export_seconds,
                    "build_seconds": info.build_seconds,
                    "loads": check_engine_loads(path),
                }
            )
            start = time.monotonic()
    return rows


def _cells(row: dict[str, object]) -> tuple[str, ...]:
    onnx_mb, engine_mb = (f"{row[key] / 1e6:.2f}" for key in ("onnx_bytes", "engine_bytes"))
    seconds = (f"{row[key]:.1f}" for key in ("export_seconds", "build_seconds"))
    loads = "wholly" if row["loads"] else "header"
    return row["model"], row["precision"], onnx_mb, engine_mb, *seconds, loads


if __name__ == "__main__":
    main()
