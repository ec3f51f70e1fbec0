"""Tracking with an export: identities by appearance alone.

    python examples/track_with_export.py runs/export-1

Each frame takes three steps: embed the detector's boxes (one call), compare them with the tracks
(one product), and assign each box to the most similar free track above the threshold, or to a new
track. A real tracker would add motion; here only the export decides. Three synthetic people walk
through the frame; one of them leaves and returns.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pivl_distill.errors import PivlError
from pivl_distill.runtime import Extractor

Box = tuple[float, float, float, float]


class AppearanceTracker:
    """Assign track ids to boxes; each track keeps the running mean of its embeddings."""

    def __init__(self, extractor: Extractor, far: float = 1e-2, memory: float = 0.7) -> None:
        self.extractor, self.memory = extractor, memory
        self.threshold = extractor.threshold(far)
        self.tracks = np.empty((0, extractor.dim), np.float32)

    def update(self, frame: np.ndarray, boxes: Sequence[Box]) -> list[int]:
        """Return the track of each box in a frame, uint8 RGB [H, W, 3]; new people: new tracks."""
        vectors = self.extractor.embed_boxes(frame, boxes)
        ids = self._match(vectors @ self.tracks.T)
        for number, vector in enumerate(vectors):
            if ids[number] < 0:
                ids[number] = len(self.tracks)
                self.tracks = np.concatenate((self.tracks, vector[None]))
            mean = self.memory * self.tracks[ids[number]] + (1 - self.memory) * vector
            self.tracks[ids[number]] = mean / np.linalg.norm(mean)
        return ids

    def _match(self, similarity: np.ndarray) -> list[int]:
        """Return (box, track) pairs, most similar first; −1 if no free track is similar enough."""
        ids = [-1] * len(similarity)
        for pair in np.argsort(-similarity, axis=None):
            box, track = divmod(int(pair), similarity.shape[1])
            if similarity[box, track] < self.threshold:
                break
            if ids[box] < 0 and track not in ids:
                ids[box] = track
        return ids


def walk(frames: int = 12) -> Iterator[tuple[np.ndarray, list[Box], list[int]]]:
    """Yield frames, boxes and true identities, as a camera and a person detector would."""
    from pivl_distill.data.synthetic import camera, person, render

    height, width = 256, 128
    rng = np.random.default_rng(0)
    view = camera(7, 0, 0.0)
    for number in range(frames):
        third = 3 * number // frames
        frame = np.full((300, 900, 3), 110, np.uint8)
        boxes: list[Box] = []
        people = [0, 2] if third == 1 else [0, 1, 2]
        for index in people:
            left, top = 30 + 290 * index + 12 * number, 20
            # A new pose in each third of the walk; boxes have random offsets of a few pixels.
            crop = render(person(7, index, 1), view, (7, index, third), (height, width)).image
            frame[top : top + height, left : left + width] = crop
            edges = np.array((left, top, left + width, top + height)) + rng.integers(-5, 6, 4)
            boxes.append(tuple(edges.tolist()))
        yield frame, boxes, people


def main(export: Path) -> None:
    try:
        tracker = AppearanceTracker(Extractor(export))
    except PivlError as error:  # for example too few people to measure the threshold
        sys.exit(f"No tracking with {export}: {error}")
    for number, (frame, boxes, people) in enumerate(walk()):
        found = zip(people, tracker.update(frame, boxes), strict=True)
        print(f"frame {number:>2}: " + ", ".join(f"person {p} → track {t}" for p, t in found))
    print(f"{len(tracker.tracks)} tracks for 3 people")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Name one export: python examples/track_with_export.py runs/export-1")
    main(Path(sys.argv[1]))
