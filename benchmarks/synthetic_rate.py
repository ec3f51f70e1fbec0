"""Crops per second of the synthetic renderer on one core: `python benchmarks/synthetic_rate.py`.

Prints rendering with JPEG and PNG encoding, as for a data set on disk, next to rendering alone.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import cv2
from PIL import Image

from pivl_distill.data.synthetic import Rendering, camera, person, render

CROPS, CAST = 600, 1.0
SIZES_HW = ((128, 64), (256, 128))


def encode(crop: Rendering) -> None:
    cv2.imencode(".jpg", crop.image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 92))
    Image.fromarray(crop.labels).save(io.BytesIO(), "PNG")


def crops_per_second(size_hw: tuple[int, int], finish: Callable[[Rendering], None]) -> float:
    """Rate in processor time, which other programs affect little."""
    people = [person(0, index, 1) for index in range(100)]
    cameras = [camera(0, index, CAST) for index in range(6)]
    start = time.process_time()
    for number in range(CROPS):
        crop = render(people[number % 100], cameras[number % 6], (0, number), size_hw)
        finish(crop)
    return CROPS / (time.process_time() - start)


def main() -> None:
    cv2.setNumThreads(1)
    crops_per_second(SIZES_HW[0], encode)  # warm up
    for size_hw in SIZES_HW:
        alone = crops_per_second(size_hw, lambda crop: None)
        whole = crops_per_second(size_hw, encode)
        size = f"{size_hw[0]}×{size_hw[1]}"
        print(
            f"{size:>8}: {whole:.0f} crops/s per core; render only (baseline) {alone:.0f} crops/s"
        )


if __name__ == "__main__":
    main()
