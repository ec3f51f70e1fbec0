"""Run BoxMOT's ReID on a component file: python run_boxmot.py COMPONENT.yaml"""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import worker_io
from boxmot.reid.config import resolve_reid_spec
from boxmot.reid.core.runtime import ReID


def open_component(path: str) -> Any:
    """Return BoxMOT's ReID with everything that the component file says, hash included."""
    spec, _ = resolve_reid_spec(path, allow_download=False)
    runtime = ReID(spec.artifact, device=spec.device, preprocess_name=spec.preprocessing)
    size_hw = spec.option_values()["image_size"]
    if tuple(runtime.model.input_shape) != size_hw:
        raise ValueError(f"BoxMOT feeds crops of {runtime.model.input_shape}, not {size_hw}")
    return runtime.model


def main() -> None:
    try:
        model = open_component(sys.argv[1])
    except Exception as error:
        worker_io.fail(error)

    def embed(pixels: np.ndarray, box: Sequence[int]) -> np.ndarray:
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        vector: np.ndarray = model.get_features(np.array([box], np.float32), bgr)[0]
        return vector

    worker_io.serve(f"BoxMOT {version('boxmot')}", embed)


if __name__ == "__main__":
    main()
