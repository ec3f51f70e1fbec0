"""Run the appearance encoder of Ultralytics' BoT-SORT: python run_ultralytics.py TRACKER.yaml"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import worker_io
from ultralytics.trackers.bot_sort import BOTSORT
from ultralytics.utils import YAML, IterableSimpleNamespace


def open_encoder(tracker: Path) -> Any:
    """Return the encoder of a tracker file; its `model` is looked for in the file's folder."""
    os.chdir(tracker.parent)
    settings = IterableSimpleNamespace(**YAML.load(tracker.name), device="cpu")
    return BOTSORT(settings).encoder


def main() -> None:
    try:
        encoder = open_encoder(Path(sys.argv[1]).resolve())
    except Exception as error:
        worker_io.fail(error)

    def embed(pixels: np.ndarray, box: Sequence[int]) -> np.ndarray:
        left, top, right, bottom = box
        detection = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        vector: np.ndarray = encoder(bgr, np.array([detection], np.float32))[0]
        return vector

    worker_io.serve(f"Ultralytics {version('ultralytics')}", embed)


if __name__ == "__main__":
    main()
