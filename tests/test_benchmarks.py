"""The benchmark scripts follow the code: each one can be imported."""

from __future__ import annotations

import importlib
import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_can_be_imported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    assert runpy.run_path(str(path), run_name=path.stem)["__doc__"]


@pytest.mark.parametrize(
    "name", sorted(f"{p.parent.name}.{p.stem}" for p in BENCHMARKS.glob("*/*.py"))
)
def test_every_module_of_a_benchmark_package_can_be_imported(name: str) -> None:
    assert importlib.import_module(f"benchmarks.{name}").__doc__
