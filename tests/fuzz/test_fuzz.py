"""A fixed number of random cases of each sort, and all cases that failed once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="random cases need hypothesis: pip install hypothesis")
pytest.importorskip("pyarrow", reason="cases of embeddings need pyarrow: pip install pyarrow")
if sys.platform != "linux":
    pytest.skip("memory is limited and measured with /proc", allow_module_level=True)

from fuzz.case import Case
from fuzz.search import REGRESSIONS, Tally, explore
from fuzz.sorts import SORTS
from fuzz.table import FILE, PAGE, render_page
from fuzz.worker import Worker

INPUTS = 30
"""Cases of each sort; `make fuzz` examines more."""
KEPT = sorted(REGRESSIONS.glob("*/*.json"))


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as started:
        yield started


@pytest.mark.parametrize("sort", SORTS)
def test_every_input_gives_a_result_or_a_sentence(worker: Worker, sort: str) -> None:
    tally = Tally(sort)
    explore(tally, worker, INPUTS, seed=None)
    found = {signature: verdict.text for signature, (_, verdict) in tally.failures.items()}
    assert found == {}
    assert tally.inputs >= INPUTS // 2  # hypothesis leaves out cases that it drew before
    assert tally.results
    assert tally.refusals


@pytest.mark.parametrize("path", KEPT, ids=[f"{p.parent.name}-{p.stem}" for p in KEPT])
def test_inputs_that_failed_once_do_not_fail_again(worker: Worker, path: Path) -> None:
    case = Case.from_json(path.read_text("utf-8"))
    verdict = worker.examine(path.parent.name, case)
    assert verdict.outcome != "failure", verdict.text


def test_the_documentation_shows_the_recorded_figures() -> None:
    page = PAGE.read_text("utf-8")
    assert render_page(page, FILE) == page
    assert "anything else" in page
