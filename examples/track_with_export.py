"""Track people with an export, in a tracker of your choice.

    python examples/track_with_export.py runs/export-1 SEQUENCE --tracker norfair -o tracks/

SEQUENCE is a folder in MOTChallenge's layout, with frames in `img1/` and detections in
`det/det.txt`; `tracks/SEQUENCE.txt` has its tracks in the same form. The three trackers differ in
how they use features: BoT-SORT and Deep SORT match boxes by them, norfair finds lost people again.
`--without-reid` runs the same tracker on motion and overlap alone; `python -m benchmarks.tracking`
compares the two. Requires `pip install opencv-python` and the tracker: `boxmot` (AGPL),
`deep-sort-realtime`, or `norfair`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from pivl_distill.errors import PivlError
from pivl_distill.runtime import Extractor
from pivl_distill.runtime.trackers import (
    BoxMOTReID,
    deep_sort_embeds,
    max_cosine_distance,
    norfair_detections,
    norfair_distance,
)

FAR = 1e-2
"""False-accept rate whose threshold decides who is the same person."""
MEMORY = 50
"""Frames for which somebody who is not seen is remembered."""

Update = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Frame (uint8 BGR), boxes [N, 4] and scores [N] → tracks [M, 5]: id, left, top, right, bottom."""


def botsort(extractor: Extractor, reid: bool) -> Update:
    """BoT-SORT of BoxMOT: overlap or appearance, whichever fits better, among boxes nearby."""
    from boxmot import BotSort

    tracker = BotSort(
        track_buffer=MEMORY,
        use_cmc=False,  # the camera does not move
        use_embeddings=reid,
        reid_model=BoxMOTReID(extractor) if reid else None,
        appearance_thresh=max_cosine_distance(extractor, FAR),
    )

    def update(frame: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        found = np.column_stack((boxes, scores, np.zeros(len(scores))))
        return tracker.update(found, frame)[:, [4, 0, 1, 2, 3]]

    return update


def deep_sort(extractor: Extractor, reid: bool) -> Update:
    """Deep SORT: appearance where motion allows it, then overlap; without features it is SORT."""
    from deep_sort_realtime.deepsort_tracker import DeepSort

    tracker = DeepSort(
        max_age=MEMORY,
        embedder=None,
        max_cosine_distance=max_cosine_distance(extractor, FAR) if reid else -1,
    )

    def update(frame: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        found = [
            ([left, top, right - left, bottom - top], score, None)
            for (left, top, right, bottom), score in zip(boxes, scores, strict=True)
        ]
        if reid:
            embeds = deep_sort_embeds(extractor, found, frame, colour="bgr")
        else:
            embeds = [np.ones(1)] * len(found)
        tracks = tracker.update_tracks(found, embeds=embeds)
        seen = [t for t in tracks if t.is_confirmed() and t.time_since_update == 0]
        return np.array([[int(t.track_id), *t.to_ltrb(orig=True)] for t in seen]).reshape(-1, 5)

    return update


def norfair(extractor: Extractor, reid: bool) -> Update:
    """norfair: motion and overlap; who was lost is found again by appearance, anywhere."""
    from norfair import Tracker

    again = {
        "reid_distance_function": norfair_distance,
        "reid_distance_threshold": max_cosine_distance(extractor, FAR),
        "reid_hit_counter_max": MEMORY,
    }
    tracker = Tracker(
        "iou", distance_threshold=0.7, initialization_delay=2, **(again if reid else {})
    )

    def update(frame: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        found = norfair_detections(extractor, boxes, scores, frame, colour="bgr")
        seen = [one for one in tracker.update(found) if one.live_points.any()]
        return np.array([[one.id, *one.last_detection.points.ravel()] for one in seen]).reshape(
            -1, 5
        )

    return update


TRACKERS = {"botsort": botsort, "deep-sort": deep_sort, "norfair": norfair}


def frames(sequence: Path) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield number, image (uint8 BGR), boxes [N, 4] and scores [N] of every frame."""
    rows = np.loadtxt(sequence / "det" / "det.txt", delimiter=",", usecols=range(7), ndmin=2)
    for path in sorted((sequence / "img1").iterdir()):
        here = rows[rows[:, 0] == int(path.stem)]
        corner = here[:, 2:4] - 1  # MOTChallenge counts pixels from 1
        yield (
            int(path.stem),
            cv2.imread(str(path)),
            np.c_[corner, corner + here[:, 4:6]],
            here[:, 6],
        )


def track(update: Update, sequence: Path, output: Path) -> None:
    """Write the tracks of a sequence: frame, id, left, top, width, height, 1, -1, -1, -1."""
    lines = []
    for number, image, boxes, scores in frames(sequence):
        for who, left, top, right, bottom in update(image, boxes, scores).tolist():
            place = f"{left + 1:.2f},{top + 1:.2f},{right - left:.2f},{bottom - top:.2f}"
            lines.append(f"{number},{who:.0f},{place},1,-1,-1,-1\n")
    output.write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description="Track people with an export.")
    parser.add_argument("export", type=Path)
    parser.add_argument("sequences", type=Path, nargs="+", metavar="SEQUENCE")
    parser.add_argument("--tracker", choices=TRACKERS, default="norfair")
    parser.add_argument("--without-reid", action="store_true", help="motion and overlap alone")
    parser.add_argument("-o", "--output", type=Path, default=Path("tracks"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        extractor = Extractor(options.export)
        for sequence in options.sequences:
            update = TRACKERS[options.tracker](extractor, not options.without_reid)
            track(update, sequence, options.output / f"{sequence.name}.txt")
    except PivlError as error:  # for example too few people to measure the threshold
        sys.exit(f"No tracking with {options.export}: {error}")
    except (OSError, ImportError, ValueError) as error:  # no tracker, or no MOTChallenge sequence
        sys.exit(f"No tracking: {error}")


if __name__ == "__main__":
    main()
