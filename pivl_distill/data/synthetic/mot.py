"""Write a rendered video as a MOTChallenge sequence (Milan et al., 2016), with detections.

    <folder>/img1/000001.jpg …   the frames
    <folder>/gt/gt.txt           frame, id, left, top, width, height, counted, class, visibility
    <folder>/det/det.txt         frame, -1, left, top, width, height, score, -1, -1, -1
    <folder>/seqinfo.ini

Frames and ids count from 1, and so do pixels, as in MOTChallenge. The detector is simulated: it
misses hidden people, its boxes are inaccurate, and now and then it sees somebody who is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from pivl_distill.data.synthetic.video import PersonBox, render_video
from pivl_distill.errors import PivlError
from pivl_distill.storage import files

FRAME_RATE = 10
COUNTED_FROM = 0.1
"""Visible share from which a person counts in the evaluation."""
SEEN_FROM, SEEN_SURELY = 0.25, 0.6
"""Visible shares below which a detector finds nobody, and from which nearly everybody."""
FOUND = 0.97
"""Share of fully visible people that the detector finds."""
BOX_ERROR = 0.02
"""Standard deviation of each edge of a detected box, in heights of the box."""
FALSE_BOXES = 0.08
"""Mean number of detections per frame where nobody is."""
JPEG_QUALITY = 92
PEDESTRIAN = 1


def write_sequence(folder: Path, seed: int, frames: int = 120) -> None:
    """Render the video of `seed` into the new `folder`, named after it in `seqinfo.ini`.

    Raises PivlError if `folder` exists; the write is atomic.
    """
    if folder.exists():
        raise PivlError(f"{folder} exists already: remove it or choose another folder.")
    rng = np.random.default_rng((seed, 45))
    truth, detected = [], []
    size_hw = (0, 0)
    with files.atomic_folder(folder) as root:
        (root / "img1").mkdir()
        for number, (image, boxes) in enumerate(render_video(seed, frames=frames), 1):
            size_hw = image.shape[:2]
            jpeg = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
            (root / "img1" / f"{number:06d}.jpg").write_bytes(jpeg[1].tobytes())
            truth += [_truth_line(number, box) for box in boxes]
            detected += [_detection_line(number, row) for row in _detect(boxes, size_hw, rng)]
        for name, lines in (("gt", truth), ("det", detected)):
            (root / name).mkdir()
            (root / name / f"{name}.txt").write_text("".join(lines))
        (root / "seqinfo.ini").write_text(
            f"[Sequence]\nname={folder.name}\nimDir=img1\nframeRate={FRAME_RATE}\n"
            f"seqLength={frames}\nimWidth={size_hw[1]}\nimHeight={size_hw[0]}\nimExt=.jpg\n"
        )


def _truth_line(frame: int, box: PersonBox) -> str:
    width, height = box.right - box.left, box.bottom - box.top
    counted = int(box.visible >= COUNTED_FROM)
    place = f"{box.left + 1},{box.top + 1},{width},{height}"
    return f"{frame},{box.person + 1},{place},{counted},{PEDESTRIAN},{box.visible:.3f}\n"


def _detection_line(frame: int, row: np.ndarray) -> str:
    left, top, right, bottom, score = row.tolist()
    place = f"{left + 1:.2f},{top + 1:.2f},{right - left:.2f},{bottom - top:.2f}"
    return f"{frame},-1,{place},{score:.3f},-1,-1,-1\n"


def _detect(
    boxes: list[PersonBox], size_hw: tuple[int, int], rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield left, top, right, bottom and score of what a detector reports, clipped to the frame."""
    height, width = size_hw
    found = []
    for box in boxes:
        odds = FOUND * np.interp(box.visible, (SEEN_FROM, SEEN_SURELY), (0, 1))
        noise = rng.normal(0, BOX_ERROR * (box.bottom - box.top), 4)
        score = np.clip(0.4 + 0.5 * box.visible + rng.normal(0, 0.05), 0.1, 0.99)
        if rng.random() < odds:
            found.append([*(np.array(box[1:5]) + noise), score])
    for _ in range(rng.poisson(FALSE_BOXES)):
        tall = height * rng.uniform(0.2, 0.5)
        left, top = rng.uniform(0, width - tall / 2), rng.uniform(0.2 * height, height - tall)
        found.append([left, top, left + tall / 2, top + tall, rng.uniform(0.3, 0.6)])
    for row in found:
        clipped = np.clip(row, 0, (width, height, width, height, 1))
        if clipped[2] - clipped[0] >= 1 and clipped[3] - clipped[1] >= 1:
            yield clipped
