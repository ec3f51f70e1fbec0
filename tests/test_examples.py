"""The tracker example: matching on known vectors, and the script as a subprocess."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent / "examples" / "track_with_export.py"
FRAME = np.zeros((4, 4, 3), np.uint8)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("track_with_export", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Vectors:
    """A fake Extractor: a "box" is the angle of its embedding in degrees."""

    dim = 2

    def threshold(self, far: float) -> float:
        return float(np.cos(np.radians(20)))

    def embed_boxes(self, frame: np.ndarray, boxes: list[float]) -> np.ndarray:
        angles = np.radians(np.array(boxes, np.float32))
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).reshape(-1, 2)


def test_people_keep_their_tracks_after_leaving_the_frame(example):
    tracker = example.AppearanceTracker(Vectors())
    assert tracker.update(FRAME, [0, 90]) == [0, 1]
    assert tracker.update(FRAME, [95, 5, 180]) == [1, 0, 2]
    assert tracker.update(FRAME, []) == []
    assert tracker.update(FRAME, [175]) == [2]
    assert tracker.update(FRAME, [45]) == [3]


def test_each_track_matches_only_its_most_similar_box(example):
    tracker = example.AppearanceTracker(Vectors())
    tracker.update(FRAME, [0, 30])
    assert tracker.update(FRAME, [15.5, 2]) == [1, 0]
    assert tracker.update(FRAME, [1, 1.5]) == [0, 2]


def test_tracks_follow_slow_changes(example):
    tracker = example.AppearanceTracker(Vectors())
    for angle in range(0, 180, 5):
        assert tracker.update(FRAME, [angle]) == [0]


def test_the_script_runs(deployed_once):
    command = [sys.executable, str(SCRIPT), str(deployed_once)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = printed.splitlines()
    assert len(lines) == 13
    assert lines[0].startswith("frame  0: person 0 → track 0, person 1 → track")
    assert "person 1" not in lines[5]
    assert lines[-1].endswith("tracks for 3 people")


def test_an_unmeasured_threshold_is_reported_without_traceback(deployed):
    manifest = deployed / "manifest.json"
    metadata = json.loads(manifest.read_text())
    metadata["artifacts"][0]["thresholds"][0].update(cosine=None, impostor_pairs=432)
    manifest.write_text(json.dumps(metadata))
    ended = subprocess.run([sys.executable, SCRIPT, deployed], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"No tracking with {deployed}: 432 impostor pairs are too few")
    assert "Traceback" not in ended.stderr
