"""Reading metrics.jsonl, also while it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivl_distill.errors import PivlError
from pivl_distill.runs.metrics import read_metrics


def test_complete_lines_are_read(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "triplet": 0.5}\n{"epoch": 2}\n{"epo')
    assert read_metrics(tmp_path) == [{"epoch": 1, "triplet": 0.5}, {"epoch": 2}]


@pytest.mark.parametrize("line", ["[1]", "{", "1"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"epoch": 1}}\n{line}\n')
    with pytest.raises(PivlError, match="damaged in line 2"):
        read_metrics(tmp_path)
