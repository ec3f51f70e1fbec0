"""Peak memory is measured in a fresh process, independent of the memory of this one."""

from __future__ import annotations

import operator
import sys

import numpy as np
import pytest

from export.benchmark import load_and_run_once
from export.peak_memory import peak_memory

MEGABYTE = 2**20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read on Linux only")


def test_peak_is_that_of_a_fresh_process():
    ballast = np.ones(200 * MEGABYTE, np.uint8)
    small, large = (peak_memory(operator.mul, b"x", n * MEGABYTE) for n in (1, 100))
    assert 95 * MEGABYTE < large - small < 105 * MEGABYTE
    assert small < 60 * MEGABYTE < ballast.nbytes


def test_peak_includes_the_file_and_its_runtime(deployed_once):
    peak = peak_memory(load_and_run_once, deployed_once / "model.onnx", "cpu", 1, 2)
    assert 30 * MEGABYTE < peak < 250 * MEGABYTE


def test_errors_of_the_process_are_raised():
    with pytest.raises(ZeroDivisionError):
        peak_memory(operator.truediv, 1, 0)
