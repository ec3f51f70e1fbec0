"""A generated data set in the form of Market-1501's files: random pixels and made-up attributes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from benchmarks.market1501.captions import BAGS, LOWER_COLOURS, UPPER_COLOURS

PIDS, SHOTS = tuple(range(2, 22)), 3

STANDING = np.array(
    [
        *[(32, 6), (29, 22), (25, 26), (20, 40), (18, 54), (28, 60), (27, 88), (27, 112)],
        *[(37, 112), (37, 88), (36, 60), (46, 54), (44, 40), (39, 26), (35, 22)],
    ]
)
"""Body points (x, y) of a person who stands upright, as annotated: float [15, 2] pixels."""

PLAIN = (
    dict.fromkeys([*BAGS, "gender", "hair", "hat", "up", "down", "clothes"], 1)
    | {f"up{colour}": 1 for colour in UPPER_COLOURS}
    | {f"down{colour}": 1 for colour in LOWER_COLOURS}
    | {"age": 3}
)
"""Attributes of an adult man without colours: every two-valued attribute is 1."""


def write_attributes(path: Path, train: list[dict[str, int]], pids: tuple[int, ...]) -> None:
    """Write MATLAB's file: a struct with one field per attribute, for training and test."""
    columns = {name: np.array([row[name] for row in train], np.uint8) for name in train[0]}
    index = np.array([f"{pid:04d}" for pid in pids], object)
    split = {**columns, "image_index": index}
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"market_attribute": {"test": split, "train": split}})


def write_root(root: Path) -> None:
    """Write all fetched files: 20 training identities of three images each."""
    rng, lines = np.random.default_rng(0), []
    dataset = root / "Market-1501-v15.09.15"
    splits = {"bounding_box_train": PIDS, "query": (901,), "bounding_box_test": (901,)}
    for split, pids in splits.items():
        (dataset / split).mkdir(parents=True)
        for pid in pids:
            for shot in range(SHOTS):
                camera = 1 + (shot + (split == "query")) % 6
                name = f"{pid:04d}_c{camera}s1_{shot:06d}_01.jpg"
                pixels = rng.integers(0, 256, (128, 64, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(dataset / split / name)
                if split == "bounding_box_train":
                    numbers = " ".join(str(value) for value in STANDING.ravel())
                    lines.append(f"{name} {numbers}")
    points = root / "anno" / "Anno_Market_12936.txt"
    points.parent.mkdir()
    points.write_text("\n".join(lines))
    people = [
        PLAIN
        | {f"up{UPPER_COLOURS[pid % len(UPPER_COLOURS)]}": 2}
        | {f"down{LOWER_COLOURS[pid % len(LOWER_COLOURS)]}": 2, "clothes": 2}
        for pid in PIDS
    ]
    write_attributes(root / "attributes" / "market_attribute.mat", people, PIDS)
