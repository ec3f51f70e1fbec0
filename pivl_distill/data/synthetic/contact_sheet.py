"""A contact sheet of a synthetic dataset, to inspect its crops and maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pivl_distill.data.images import read_pixels
from pivl_distill.data.part_maps import read_stored_labels
from pivl_distill.data.synthetic.dataset import TRAIN
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.errors import PivlError
from pivl_distill.storage import files

_GAP_PX = 3


def contact_sheet(root: Path, out: Path, people: int = 6, zoom: int = 2) -> None:
    """Write a PNG with one row per training person: each camera's first crop and its map.

    Raises PivlError if `root` is not a synthetic dataset.
    """
    rows: dict[str, dict[str, Path]] = {}
    for path in sorted((root / TRAIN).glob("*.jpg")):
        pid, camera = path.stem.split("_")[:2]
        rows.setdefault(pid, {}).setdefault(camera, path)
    if not rows:
        raise PivlError(
            f"{root} contains no crops: expected a synthetic dataset with {TRAIN}/*.jpg."
        )
    pictures = [
        _joined([_crop_and_map(root, path) for path in cameras.values()], axis=1)
        for cameras in list(rows.values())[:people]
    ]
    sheet = Image.fromarray(_joined(pictures, axis=0))
    sheet = sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.NEAREST)
    _, png = cv2.imencode(".png", np.asarray(sheet)[..., ::-1])
    files.write_bytes(out, png.tobytes())


def _crop_and_map(root: Path, path: Path) -> np.ndarray:
    labels = read_stored_labels(_map_path(root, path))
    return np.hstack((read_pixels(path), LIP20.palette[labels]))


def _map_path(root: Path, path: Path) -> Path:
    return root / "parsing" / path.parent.name / f"{path.stem}.png"


def _joined(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Concatenate images along an axis with white gaps."""
    padding = [(0, 0), (0, 0), (0, 0)]
    padding[axis] = (0, _GAP_PX)
    return np.concatenate([np.pad(p, padding, constant_values=255) for p in pictures], axis)
