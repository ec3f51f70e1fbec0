"""Read metrics.jsonl, the measurements of each epoch of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pivl_distill.errors import PivlError
from pivl_distill.storage.filenames import METRICS_FILE
from pivl_distill.storage.limits import MAX_JSON_BYTES
from pivl_distill.storage.readers import parse_json_object, read_text


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl; no lines if there is no such file.

    A last line without its line break is one that is still being written, and is left out. Raises
    PivlError that names the first line that is not a JSON object.
    """
    path = folder / METRICS_FILE
    if not path.is_file():
        return []
    *lines, _ = read_text(path, MAX_JSON_BYTES).split("\n")
    metrics = []
    for number, line in enumerate(lines, start=1):
        try:
            metrics.append(parse_json_object(line))
        except ValueError as error:
            raise PivlError(f"{path} is damaged in line {number}: {error}.") from error
    return metrics
