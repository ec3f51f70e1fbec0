"""OpenVINO behind the methods of ONNX Runtime's sessions."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pivl_distill.errors import PivlError
from pivl_distill.runtime.onnx_session import open_session
from pivl_distill.runtime.openvino_session import OpenVinoFile, OpenVinoSession

openvino = pytest.importorskip(
    "openvino", reason="openvino is an extra: pip install 'pivl-distill[openvino]'"
)


@pytest.fixture(scope="module")
def ir(deployed_once: Path, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ir") / "model.xml"
    model = openvino.Core().read_model(deployed_once / "model.onnx")
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 3, 64, 32)).astype(np.float32)


def test_outputs_and_ports_are_those_of_onnx_runtime(ir, deployed_once, images):
    session, onnx = OpenVinoSession(ir), open_session(deployed_once / "model.onnx")
    for ours, theirs in (
        (session.get_inputs(), onnx.get_inputs()),
        (session.get_outputs(), onnx.get_outputs()),
    ):
        assert [(port.name, port.type) for port in ours] == [(p.name, p.type) for p in theirs]
    assert session.get_inputs()[0].shape == ("?", 3, 64, 32)
    for names in (None, ["features"]):
        (features,) = session.run(names, {"images": images})
        (expected,) = onnx.run(names, {"images": images})
        np.testing.assert_allclose(features, expected, atol=1e-5)


def test_results_are_not_overwritten_by_the_next_run(ir, images):
    session = OpenVinoSession(ir)
    (first,) = session.run(None, {"images": images})
    kept = first.copy()
    session.run(None, {"images": -images})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (1, 4, 64, 32), (1, 3, 64), (0, 3, 64, 32)])
def test_a_tensor_of_another_shape_is_an_error(ir, shape):
    """OpenVINO itself would return no rows."""
    with pytest.raises(ValueError, match=r"'images' takes \['\?', 3, 64, 32\], not"):
        OpenVinoSession(ir).run(None, {"images": np.zeros(shape, np.float32)})


def test_threads_may_share_a_session(ir, images):
    session = OpenVinoSession(ir, threads=1)
    expected = [session.run(None, {"images": row[None]})[0] for row in images]
    with ThreadPoolExecutor(4) as pool:
        rows = [row[None] for row in images] * 8
        found = list(pool.map(lambda row: session.run(None, {"images": row})[0], rows))
    for vector, same in zip(found, expected * 8, strict=True):
        np.testing.assert_array_equal(vector, same)


def test_an_ir_that_was_read_is_not_read_again(ir, images, tmp_path):
    file = OpenVinoFile(tmp_path / "gone.xml", ir.read_bytes(), ir.with_suffix(".bin").read_bytes())
    (features,) = OpenVinoSession(file).run(None, {"images": images})
    np.testing.assert_array_equal(features, OpenVinoSession(ir).run(None, {"images": images})[0])


@pytest.mark.parametrize("part", ["model", "weights"])
def test_a_truncated_ir_is_an_error(ir, part, tmp_path):
    parts = {"model": ir.read_bytes(), "weights": ir.with_suffix(".bin").read_bytes()}
    parts[part] = parts[part][: len(parts[part]) // 2]
    with pytest.raises(PivlError, match=r"OpenVINO cannot load .*gone\.xml"):
        OpenVinoSession(OpenVinoFile(tmp_path / "gone.xml", **parts))


def test_without_the_package_the_extra_is_named(ir, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(PivlError, match=r"pip install 'pivl-distill\[openvino\]'"):
        OpenVinoSession(ir)


SIGNAL_AFTER_SESSIONS = """
import faulthandler, gc, os, signal, sys
from pathlib import Path
from pivl_distill.runtime.openvino_session import OpenVinoSession

faulthandler.enable()  # has a signal stack, as under pytest and with python -X faulthandler
for _ in range(3):
    session = OpenVinoSession(Path(sys.argv[1]))  # before the one it replaces is freed
del session
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_signals_arrive_after_sessions_have_ended(ir):
    command = [sys.executable, "-c", SIGNAL_AFTER_SESSIONS, str(ir)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "handled\n"), run.stderr
