"""A consumer in a process of its own: frames in, vectors out, and how it can fail."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from export.consumers import worker
from export.consumers.base import Frame, NetworkFile, NotRunnableError, RunOptions
from export.consumers.worker import Package, PackageConsumer, installed_version
from pivl_distill.errors import PivlError

SCRIPT = """
import sys, worker_io
print("whatever it prints")
if sys.argv[1] == "crash":
    raise ImportError("no module named torch")
if sys.argv[1] == "refuse":
    worker_io.fail(ValueError("3 channels"))

def embed(pixels, box, buffer=[None]):
    left, top, right, bottom = box
    assert right > left, "an empty box"
    mean = pixels[top:bottom, left:right].mean((0, 1)).astype("float32")
    buffer[0] = mean if buffer[0] is None else buffer[0]
    buffer[0][:] = mean  # a view that the next call overwrites, as of some libraries
    return buffer[0]

worker_io.serve("Means 1.0", embed)
"""
FILE = NetworkFile("a.onnx", "fp32")


class Means(PackageConsumer):
    """Its vectors are mean colours."""

    name, title = "means", "Means"
    package = Package("numpy", "run_means.py", "Means")
    mode = "run"

    def write(self, export, folder):
        raise NotImplementedError

    def arguments(self, folder, file):
        return (self.mode,)


@pytest.fixture(autouse=True)
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(worker.SCRIPTS / "worker_io.py", tmp_path)
    (tmp_path / "run_means.py").write_text(SCRIPT)
    monkeypatch.setattr(worker, "SCRIPTS", tmp_path)


@pytest.fixture
def start(tmp_path):
    """`start(mode)` opens the consumer until the test ends."""
    with ExitStack() as stack:

        def enter(mode: str = "run"):
            consumer = Means()
            consumer.mode = mode
            return stack.enter_context(consumer.open(None, tmp_path, FILE, RunOptions()))

        yield enter


def test_vectors_of_frames_of_several_sizes(start):
    runner = start()
    assert runner.by == "Means 1.0"
    rng = np.random.default_rng(0)
    frames = [
        Frame(rng.integers(0, 256, (20 + n, 30, 3), np.uint8), (n, 1, 9, 11)) for n in range(4)
    ]
    for batch in (frames[:3], frames[3:]):
        expected = [f.pixels[1:11, f.box[0] : 9].mean((0, 1)) for f in batch]
        np.testing.assert_allclose(runner.embed(batch), expected, rtol=1e-6)


def test_an_exception_in_the_consumer_is_an_error(start):
    runner = start()
    with pytest.raises(PivlError, match="Means cannot run it: AssertionError: an empty box"):
        runner.embed([Frame(np.zeros((8, 8, 3), np.uint8), (3, 0, 3, 8))])


def test_a_refused_file_is_an_error(start):
    with pytest.raises(PivlError, match="Means cannot run it: ValueError: 3 channels"):
        start("refuse")


def test_a_process_that_ends_says_why(start):
    with pytest.raises(PivlError, match=r"ended without an answer: .*no module named torch"):
        start("crash")


def test_a_consumer_that_is_not_installed_says_how_to_verify(start, monkeypatch):
    monkeypatch.setattr(Means, "package", Package("no-such-package", "run_means.py", "Means"))
    with pytest.raises(NotRunnableError, match="--consumer-python means=PATH"):
        start()


def test_a_named_python_needs_the_package(tmp_path):
    version = importlib.metadata.version("numpy")
    assert installed_version("numpy", Path(sys.executable)) == version
    Means().check_python(Path(sys.executable))
    with pytest.raises(PivlError, match="no-such-package is not installed in"):
        installed_version("no-such-package", Path(sys.executable))
    with pytest.raises(PivlError, match="Cannot run the Python"):
        installed_version("numpy", tmp_path / "python")
