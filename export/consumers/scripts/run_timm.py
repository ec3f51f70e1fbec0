"""Run a network that timm loads from a folder, with timm's own preprocessing.

python run_timm.py FOLDER
"""

import sys
from collections.abc import Sequence

import numpy as np
import timm
import timm.data
import torch
import worker_io
from PIL import Image


def main() -> None:
    try:
        model = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    except Exception as error:
        worker_io.fail(error)

    def embed(pixels: np.ndarray, box: Sequence[int]) -> np.ndarray:
        left, top, right, bottom = box
        crop = transform(Image.fromarray(pixels[top:bottom, left:right]))
        with torch.inference_mode():
            vector: np.ndarray = model(crop[None])[0].numpy()
        return vector

    worker_io.serve(f"timm {timm.__version__}", embed)


if __name__ == "__main__":
    main()
