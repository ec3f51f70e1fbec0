"""Write a synthetic dataset in Market-1501's layout (Zheng et al., ICCV 2015), with part maps.

    <root>/bounding_box_train, query, bounding_box_test   0002_c1s1_000451_00.jpg
    <root>/parsing/<the same folders>                     0002_c1s1_000451_00.png, parsing.json
    <root>/synthetic.json                                 attributes of the people

Training and test people differ; the cameras are the same. The first crop of each test person by
each camera is a query, the others are gallery. The write is atomic.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

import cv2
from PIL import Image

from pivl_distill import console
from pivl_distill.data.synthetic.cameras import camera
from pivl_distill.data.synthetic.people import attributes, person
from pivl_distill.data.synthetic.render import Rendering, render, render_empty
from pivl_distill.data.synthetic.tiers import Tier
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.distributed.workers import ctrl_c_ignored
from pivl_distill.errors import PivlError
from pivl_distill.storage import files
from pivl_distill.storage.filenames import SYNTHETIC_FILE, VOCABULARY_FILE

GENERATOR_VERSION = 1
"""Increment whenever a tier and a seed produce different bytes."""

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
DISTRACTOR_PID, JUNK_PID = 0, -1
_JPEG_QUALITY = 92
_CROPS_PER_WORKER = 500
"""Crops per worker process below which starting another process does not pay."""


class PlannedCrop(NamedTuple):
    """One crop to render; `person` and `camera` start at 0; `person` None is an empty crop."""

    split: str
    pid: int
    person: int | None
    camera: int
    number: int

    @property
    def stem(self) -> str:
        pid = f"{self.pid:04d}" if self.pid >= 0 else str(self.pid)
        return f"{pid}_c{self.camera + 1}s1_{self.number:06d}_00"


def plan(tier: Tier) -> list[PlannedCrop]:
    """List every crop of a tier, grouped by person; `number` is the index in the list."""
    known = tier.train_pids + tier.test_pids
    crops: list[PlannedCrop] = []
    for index in range(known):
        for camera_index in range(tier.cameras):
            for shot in range(tier.shots):
                test_split = GALLERY if shot else QUERY
                split = TRAIN if index < tier.train_pids else test_split
                crops.append(PlannedCrop(split, index + 1, index, camera_index, len(crops)))
    for extra in range(tier.distractors + tier.junk):
        pid = DISTRACTOR_PID if extra < tier.distractors else JUNK_PID
        is_empty = pid == DISTRACTOR_PID and extra % 3 == 0
        stranger = None if is_empty else known + extra
        crops.append(PlannedCrop(GALLERY, pid, stranger, extra % tier.cameras, len(crops)))
    return crops


def write_dataset(root: Path, tier: Tier, seed: int, workers: int | None = None) -> None:
    """Render `tier`, with the people and cameras of `seed` (≥ 0), into the new folder `root`.

    `workers` is the number of processes (None: chosen by cores and tier size); the files do not
    depend on it. Raises PivlError if `root` exists.
    """
    if root.exists():
        raise PivlError(f"{root} exists already: remove it or choose another folder.")
    files.remove_abandoned(root)
    with files.atomic_folder(root) as folder:
        _write_tree(folder, tier, seed, workers)


def _write_tree(root: Path, tier: Tier, seed: int, workers: int | None) -> None:
    crops = plan(tier)
    for split in (TRAIN, QUERY, GALLERY):
        (root / split).mkdir(parents=True)
        (root / "parsing" / split).mkdir(parents=True)
    written = _write_crops(root, tier, seed, crops, workers)
    progress = console.track(
        written, f"Rendering '{tier.name}' people", total=len(crops), unit="crops"
    )
    for _ in progress:
        pass
    parsing = {
        "format": 1,
        "vocabulary": LIP20.name,
        "labels": LIP20.labels,
        "parser": "synthetic renderer",
        "version": GENERATOR_VERSION,
        "maps": len(crops),
    }
    people = {
        str(index + 1): attributes(person(seed, index, tier.family_size))
        for index in range(tier.train_pids + tier.test_pids)
    }
    files.write_json(root / "parsing" / VOCABULARY_FILE, parsing)
    description = {
        "format": 1,
        "generator_version": GENERATOR_VERSION,
        "tier": asdict(tier),
        "seed": seed,
        "size_hw": tier.size_hw,
        "people": people,
    }
    files.write_json(root / SYNTHETIC_FILE, description)


def _write_crops(
    root: Path, tier: Tier, seed: int, crops: list[PlannedCrop], workers: int | None
) -> Iterator[PlannedCrop]:
    """Write all crops, person by person, and yield each when it is written."""
    write = partial(_write_group, root, tier, seed)
    groups = [list(group) for _, group in groupby(crops, key=lambda crop: crop.person)]
    if workers is None:
        workers = min(os.cpu_count() or 1, 1 + len(crops) // _CROPS_PER_WORKER)
    if workers == 1:
        yield from chain.from_iterable(map(write, groups))
        return
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        with ctrl_c_ignored():
            written = pool.map(write, groups)
        yield from chain.from_iterable(written)


def _write_group(
    root: Path, tier: Tier, seed: int, crops: Sequence[PlannedCrop]
) -> Sequence[PlannedCrop]:
    for crop in crops:
        image, part_map = render_crop(tier, seed, crop)
        _, jpeg = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
        (root / crop.split / f"{crop.stem}.jpg").write_bytes(jpeg.tobytes())
        palette = Image.fromarray(part_map).convert("P")
        palette.putpalette(LIP20.palette.tobytes())
        palette.save(root / "parsing" / crop.split / f"{crop.stem}.png")
    return crops


def render_crop(tier: Tier, seed: int, crop: PlannedCrop) -> Rendering:
    """Render one crop of the plan."""
    view = camera(seed, crop.camera, tier.cast)
    crop_seed = (seed, crop.number, 31)
    if crop.person is None:
        return render_empty(view, crop_seed, tier.size_hw)
    if crop.pid == JUNK_PID:  # junk: a bad detection
        view = replace(view, truncation=1.0, occlusion=1.0, crowding=1.0)
    return render(person(seed, crop.person, tier.family_size), view, crop_seed, tier.size_hw)
