"""Run OpenVINO's Model API on an IR: python run_model_api.py MODEL.xml"""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import worker_io
from model_api.adapters import OpenvinoAdapter, create_core
from model_api.models import ImageModel


class Embedding(ImageModel):
    """Returns the vector; Model API has no wrapper for networks without a task."""

    def postprocess(self, outputs: dict[str, Any], meta: dict[str, Any]) -> np.ndarray:
        (name,) = self.outputs
        vector: np.ndarray = outputs[name][0]
        return vector


def main() -> None:
    try:
        adapter = OpenvinoAdapter(
            create_core(), sys.argv[1], plugin_config={"INFERENCE_PRECISION_HINT": "f32"}
        )
        model = Embedding(adapter, preload=True)
    except Exception as error:
        worker_io.fail(error)

    def embed(pixels: np.ndarray, box: Sequence[int]) -> np.ndarray:
        left, top, right, bottom = box
        bgr = np.ascontiguousarray(pixels[top:bottom, left:right, ::-1])
        vector: np.ndarray = model(bgr)
        return vector

    worker_io.serve(f"Model API {version('openvino-model-api')}", embed)


if __name__ == "__main__":
    main()
