"""The tracker example: files in and out, and errors; the trackers: tests/benchmarks/tracking."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from pivl_distill.data.synthetic.mot import write_sequence

SCRIPT = Path(__file__).parent.parent / "examples" / "track_with_export.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("track_with_export", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sequences") / "street"
    write_sequence(folder, seed=3, frames=6)
    return folder


def detections(sequence: Path) -> np.ndarray:
    return np.loadtxt(sequence / "det" / "det.txt", delimiter=",")


def test_frames_have_the_boxes_of_their_own_detections(example, sequence):
    rows, seen = detections(sequence), 0
    for number, image, boxes, scores in example.frames(sequence):
        here = rows[rows[:, 0] == number]
        assert image.shape == (360, 640, 3)
        assert np.allclose(boxes[:, :2], here[:, 2:4] - 1)
        assert np.allclose(boxes[:, 2:] - boxes[:, :2], here[:, 4:6])
        assert np.array_equal(scores, here[:, 6])
        seen += len(here)
    assert seen == len(rows) > 0


def test_tracks_are_written_as_they_were_detected(example, sequence, tmp_path):
    """A tracker that gives every box its index as id."""

    def update(frame, boxes, scores):
        return np.column_stack((np.arange(len(boxes)), boxes))

    example.track(update, sequence, tmp_path / "street.txt")
    written = np.loadtxt(tmp_path / "street.txt", delimiter=",")
    rows = detections(sequence)
    assert np.array_equal(written[:, 0], rows[:, 0])
    assert np.allclose(written[:, 2:6], rows[:, 2:6], atol=0.011)
    assert (written[:, 1] <= 20).all()


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_tracker_that_is_not_installed_is_named(deployed_once, sequence, tmp_path):
    if importlib.util.find_spec("deep_sort_realtime"):
        pytest.skip("deep-sort-realtime is installed here")
    options = ("--tracker", "deep-sort", "-o", tmp_path / "tracks")
    ended = run(deployed_once, sequence, *options)
    assert ended.returncode == 1
    assert ended.stderr == "No tracking: No module named 'deep_sort_realtime'\n"


def test_an_unmeasured_threshold_is_reported_without_traceback(
    example, deployed, sequence, tmp_path, monkeypatch
):
    manifest = deployed / "manifest.json"
    metadata = json.loads(manifest.read_text())
    for artifact in metadata["artifacts"]:
        artifact["thresholds"][0].update(cosine=None, impostor_pairs=432)
    manifest.write_text(json.dumps(metadata))
    monkeypatch.setitem(sys.modules, "norfair", SimpleNamespace(Tracker=None))
    arguments = [str(SCRIPT), str(deployed), str(sequence), "-o", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="432 impostor pairs are too few"):
        example.main()


@pytest.mark.parametrize(
    ("detections", "problem"), [(None, "det.txt not found"), ("a,b", "could not convert string")]
)
def test_a_folder_that_is_no_sequence_ends_with_the_reason(
    example, deployed_once, tmp_path, monkeypatch, detections, problem
):
    """The threshold is known, and a tracker is installed."""
    (tmp_path / "img1").mkdir()
    (tmp_path / "img1" / "000001.jpg").touch()
    if detections:
        (tmp_path / "det").mkdir()
        (tmp_path / "det" / "det.txt").write_text(detections)
    monkeypatch.setitem(example.TRACKERS, "norfair", lambda extractor, reid: None)
    arguments = [str(SCRIPT), str(deployed_once), str(tmp_path), "-o", str(tmp_path / "tracks")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match=f"^No tracking: .*{problem}"):
        example.main()
