"""Part maps of the training images, drawn from 15 body points each: `part-maps`.

The points are annotations of Market-1501's training split. Limbs are drawn as bars with round ends,
the head as an ellipse and the trunk as a polygon, in the vocabulary PASCAL-Person-Part. Widths are
shares of the trunk's length. The shapes are no pixel masks: sleeves, skirts and bags reach beyond
them, and occluders are not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw

from benchmarks.market1501.files import SIZE_HW, Files, root_option
from pivl_distill.console import summary, track
from pivl_distill.data.part_maps import PartMap
from pivl_distill.data.vocabulary import PASCAL7
from pivl_distill.errors import PivlError
from pivl_distill.parsing.map_folder import MapFolder, lock_folder

POINTS = 15
CROWN = 0
NECK, SHOULDER, ELBOW, WRIST = (1, 14), (2, 13), (3, 12), (4, 11)
HIP, KNEE, ANKLE = (5, 10), (6, 9), (7, 8)
"""Indices of the annotated points; of a pair, the point on each side of the body."""

SUPERSAMPLING = 4
"""Pixels of the drawing per pixel of the map, along each axis."""

MIN_TRUNK_PX = 24.0
"""Shortest trunk that widths refer to, in pixels of the map: a bent person keeps their width."""

PARSER = {"kind": "body points", "drawing": 1}
"""Identifies the maps in parsing.json; increment `drawing` when the shapes change."""


@dataclass(frozen=True)
class Limb:
    """A bar between two pairs of points, of a width relative to the trunk's length."""

    label: str
    start: tuple[int, int]
    end: tuple[int, int]
    width: float


LEGS = (Limb("Lower Legs", KNEE, ANKLE, 0.26), Limb("Upper Legs", HIP, KNEE, 0.34))
ARMS = (Limb("Lower Arms", ELBOW, WRIST, 0.16), Limb("Upper Arms", SHOULDER, ELBOW, 0.20))
"""In the order of drawing: legs, trunk, arms, head."""

FOOT_OFFSET, FOOT_WIDTH, FOOT_HEIGHT = 0.10, 0.34, 0.26
TRUNK_WIDTH, TRUNK_OUTLINE = 0.42, 0.10
HEAD_LENGTH, HEAD_WIDTH, MIN_HEAD = 1.08, 0.80, 0.30
"""Head axes relative to the distance from crown to neck, which is at least `MIN_HEAD` trunks."""


class BodyDrawing:
    """Draws the parts of one person on a canvas that is `SUPERSAMPLING` times as large."""

    def __init__(self, points: np.ndarray, size_hw: tuple[int, int]) -> None:
        """`points` [15, 2] are (x, y) in pixels of the map of `size_hw`."""
        self.size_hw = size_hw
        self.points = np.asarray(points, float) * SUPERSAMPLING
        self.canvas = Image.new("L", (size_hw[1] * SUPERSAMPLING, size_hw[0] * SUPERSAMPLING), 0)
        self.pen = ImageDraw.Draw(self.canvas)
        self.shoulders, self.hips = self._middle(SHOULDER), self._middle(HIP)
        length = float(np.linalg.norm(self.shoulders - self.hips))
        self.trunk = max(length, MIN_TRUNK_PX * SUPERSAMPLING)

    def draw(self) -> np.ndarray:
        """Return class ids of `PASCAL7`, uint8 [H, W]."""
        for limb in LEGS:
            self._draw_limb(limb)
        self._draw_feet()
        self._draw_trunk()
        for limb in ARMS:
            self._draw_limb(limb)
        self._draw_head()
        small = self.canvas.resize(self.size_hw[::-1], Image.Resampling.NEAREST)
        return np.array(small)

    def _middle(self, pair: tuple[int, int]) -> np.ndarray:
        return self.points[list(pair)].mean(0)

    def _draw_limb(self, limb: Limb) -> None:
        for start, end in zip(limb.start, limb.end, strict=True):
            self._bar(self.points[start], self.points[end], limb.width, limb.label)

    def _draw_feet(self) -> None:
        for ankle in ANKLE:
            centre = self.points[ankle] + [0, FOOT_OFFSET * self.trunk]
            self._ellipse(centre, FOOT_WIDTH * self.trunk, FOOT_HEIGHT * self.trunk, "Lower Legs")

    def _draw_trunk(self) -> None:
        """Fill between neck, shoulders and hips; from the side, a bar has to replace the area."""
        outline = [NECK[0], SHOULDER[0], HIP[0], HIP[1], SHOULDER[1], NECK[1]]
        corners = [tuple(self.points[i]) for i in outline]
        self.pen.polygon(corners, fill=PASCAL7.index("Torso"))
        self._bar(self.shoulders, self.hips, TRUNK_WIDTH, "Torso", round_ends=False)
        for start, end in ((SHOULDER[0], HIP[0]), (SHOULDER[1], HIP[1]), HIP, SHOULDER):
            self._bar(self.points[start], self.points[end], TRUNK_OUTLINE, "Torso")

    def _draw_head(self) -> None:
        """Draw an ellipse along the line from the neck to the crown."""
        crown, neck = self.points[CROWN], self._middle(NECK)
        distance = float(np.linalg.norm(crown - neck))
        along = (crown - neck) / distance if distance else np.array([0.0, -1.0])
        across = np.array([-along[1], along[0]])
        length = max(distance, MIN_HEAD * self.trunk)
        angle = np.linspace(0, 2 * np.pi, 40)
        outline = (crown + neck) / 2 + length / 2 * (
            HEAD_LENGTH * np.outer(np.cos(angle), along)
            + HEAD_WIDTH * np.outer(np.sin(angle), across)
        )
        self.pen.polygon([tuple(point) for point in outline], fill=PASCAL7.index("Head"))

    def _bar(
        self,
        start: np.ndarray,
        end: np.ndarray,
        width: float,
        label: str,
        *,
        round_ends: bool = True,
    ) -> None:
        width *= self.trunk
        value = PASCAL7.index(label)
        self.pen.line([tuple(start), tuple(end)], fill=value, width=max(1, round(width)))
        for centre in (start, end) if round_ends else ():
            self._ellipse(centre, width, width, label)

    def _ellipse(self, centre: np.ndarray, width: float, height: float, label: str) -> None:
        corner = np.array([width, height]) / 2
        box = [tuple(centre - corner), tuple(centre + corner)]
        self.pen.ellipse(box, fill=PASCAL7.index(label))


def read_points(path: Path) -> dict[str, np.ndarray]:
    """Read a line "name x0 y0 … x14 y14" for each image: file name → float [15, 2] pixels."""
    points = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name, *values = line.split() or [""]
        try:
            points[name] = np.array(values, float).reshape(POINTS, 2)
        except ValueError as error:
            raise PivlError(
                f"Line {number} of {path} is not a file name and {POINTS} points x y:"
                f" '{line[:60]}'. Fetch the file again."
            ) from error
    return points


def draw_maps(files: Files) -> int:
    """Draw the maps of all training images that have none yet; return the number of images."""
    points, dataset = read_points(files.points), files.load_dataset()
    missing = [r.path.name for r in dataset.train if r.path.name not in points]
    if missing:
        raise PivlError(
            f"{files.points} has no points of {len(missing)} training images, such as"
            f" {missing[0]}. Fetch the complete file."
        )
    with lock_folder(files.part_maps):
        folder = MapFolder(files.part_maps, PASCAL7, PARSER)
        for record in track(dataset.train, "Drawing part maps", unit="maps"):
            image = dataset.relative(record.path)
            if not folder.has_map(image, SIZE_HW):
                labels = BodyDrawing(points[record.path.name], SIZE_HW).draw()
                folder.write(image, PartMap(labels))
        folder.finish(len(dataset.train))
    return len(dataset.train)


@click.command("part-maps")
@root_option
def main(root: Path) -> None:
    """Draw part maps of the training images from their body points, in ROOT/part_maps."""
    files = Files(root)
    summary("Part maps", {"maps": draw_maps(files), "folder": files.part_maps})
