"""Hand features to trackers: BoxMOT, deep-sort-realtime and norfair.

    tracker = BotSort(reid_model=BoxMOTReID(extractor))                            # BoxMOT
    tracker.update_tracks(found, embeds=deep_sort_embeds(extractor, found, frame, colour="bgr"))
    tracker.update(norfair_detections(extractor, boxes, scores, frame, colour="bgr"))

Frames come from OpenCV as BGR and from Pillow as RGB, and a network that is fed the wrong one
fails without a word: so every call names the channel order, except BoxMOT's, which is always BGR.
`max_cosine_distance` turns the measured threshold of an export into the setting of a tracker.

None of the trackers is a dependency: install the one that you use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pivl_distill.errors import PivlError
from pivl_distill.runtime.extractor import Extractor
from pivl_distill.runtime.frame_crops import check_image

if TYPE_CHECKING:
    from norfair import Detection
    from norfair.tracker import TrackedObject

Colour = Literal["bgr", "rgb"]
"""Channel order of a frame."""

DeepSortDetection = tuple[Sequence[float], float, Any]
"""([left, top, width, height] in pixels, score, class), as deep-sort-realtime takes it."""


class BoxMOTReID:
    """A `reid_model` for the trackers of BoxMOT, which hands over boxes and the frame in BGR."""

    def __init__(self, extractor: Extractor, camera: int | None = None) -> None:
        """Wrap `extractor`; `camera` is the camera's id if its network has camera embeddings."""
        self.extractor, self.camera = extractor, camera

    def get_features(self, boxes: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return unit features, float32 [N, F], of boxes [N, 4] in a frame, uint8 BGR [H, W, 3].

        Boxes are (left, top, right, bottom) in pixels. Raises PivlError, with the box's number, for
        a box that is malformed or outside the frame.
        """
        return _features(self.extractor, boxes, image, "bgr", self.camera)


def deep_sort_embeds(
    extractor: Extractor,
    detections: Sequence[DeepSortDetection],
    frame: np.ndarray,
    *,
    colour: Colour,
    camera: int | None = None,
) -> list[np.ndarray]:
    """Return the `embeds` of `DeepSort.update_tracks`, for a tracker made with `embedder=None`.

    `update_tracks` drops detections without width or height, and would then give the features of
    one person to the next; so they get no feature here either.

    Args:
        extractor: the network.
        detections: what `update_tracks` gets as `raw_detections`.
        frame: uint8 [H, W, 3].
        colour: channel order of the frame.
        camera: the camera's id, for networks with camera embeddings.

    Returns:
        float32 [F] of each detection with a width and a height.

    Raises:
        PivlError: a box is malformed or outside the frame; the frame is no image; the channel order
            is unknown.
    """
    kept = [box for box, *_ in detections if box[2] > 0 and box[3] > 0]
    boxes = [(left, top, left + width, top + height) for left, top, width, height in kept]
    return list(_features(extractor, boxes, frame, colour, camera))


def norfair_detections(
    extractor: Extractor,
    boxes: Sequence[Sequence[float]] | np.ndarray,
    scores: Sequence[float] | np.ndarray,
    frame: np.ndarray,
    *,
    colour: Colour,
    camera: int | None = None,
) -> list[Detection]:
    """Return norfair's `Detection` of each box, with its feature as `embedding`.

    The points of a detection are the top left and the bottom right corner, for `distance_function=
    "iou"`. Build the tracker with `reid_distance_function=norfair_distance`.

    Args:
        extractor: the network.
        boxes: [N, 4], (left, top, right, bottom) in pixels.
        scores: [N], the detector's.
        frame: uint8 [H, W, 3].
        colour: channel order of the frame.
        camera: the camera's id, for networks with camera embeddings.

    Raises:
        PivlError: there are more or fewer scores than boxes; a box is malformed or outside the
            frame; the frame is no image; the channel order is unknown.
    """
    if len(boxes) != len(scores):
        raise PivlError(f"{len(boxes)} boxes need as many scores, not {len(scores)}.")
    from norfair import Detection

    features = _features(extractor, boxes, frame, colour, camera)
    return [
        Detection(np.reshape(box, (2, 2)), np.full(2, score), embedding=feature)
        for box, score, feature in zip(boxes, scores, features, strict=True)
    ]


def norfair_distance(new: TrackedObject, lost: TrackedObject) -> float:
    """Return the cosine distance, 0..2, of a new object to what a lost one looked like at best.

    This is a `reid_distance_function` of norfair's `Tracker`, for detections of
    `norfair_detections`; `past_detections_length` sets how many looks are kept.
    """
    looks = [detection.embedding for detection in (*lost.past_detections, lost.last_detection)]
    return 1 - float(np.max(np.stack(looks) @ new.last_detection.embedding))


def max_cosine_distance(extractor: Extractor, far: float = 1e-2) -> float:
    """Return the cosine distance up to which a tracker should take two boxes for one person.

    It is one minus `Extractor.threshold(far)`, and the value of `max_cosine_distance` of
    deep-sort-realtime, `reid_distance_threshold` of norfair and `appearance_thresh` of BoxMOT's
    `BotSort`. Raises PivlError for a false-accept rate that was not measured.
    """
    return 1 - extractor.threshold(far)


def _features(
    extractor: Extractor,
    boxes: Sequence[Sequence[float]] | np.ndarray,
    frame: np.ndarray,
    colour: Colour,
    camera: int | None,
) -> np.ndarray:
    """Return unit features, float32 [N, F], of boxes [N, 4] in a frame of either channel order."""
    if colour not in ("bgr", "rgb"):
        raise PivlError(f"Unknown channel order '{colour}'; use bgr (OpenCV) or rgb (Pillow).")
    check_image(frame, "The frame")
    rgb = frame[..., ::-1] if colour == "bgr" else frame
    return extractor.embed_boxes(rgb, boxes, None if camera is None else [camera] * len(boxes))
