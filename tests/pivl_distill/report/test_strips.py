"""Which queries are shown, and that right and wrong are marked as they are scored."""

from __future__ import annotations

import numpy as np
import pytest

from pivl_distill.report import strips as module
from pivl_distill.report.context import ReportContext, ReportSettings
from pivl_distill.report.strips import HARDEST, MAX_NETWORKS, SPREAD, TOP, choose_queries, strips
from pivl_distill.retrieval.top_matches import top_matches


def test_the_hardest_come_first_and_others_are_spread_over_the_rest() -> None:
    difficulty = np.random.default_rng(0).permutation(1000) / 1000
    chosen = choose_queries(difficulty, np.ones(1000, bool))
    assert len(chosen) == HARDEST + SPREAD
    assert difficulty[chosen[:HARDEST]].tolist() == [n / 1000 for n in range(HARDEST)]
    assert difficulty[chosen[-1]] == 0.999
    assert (np.diff(difficulty[chosen]) > 0).all()


@pytest.mark.parametrize("count", [1, HARDEST, HARDEST + 3])
def test_few_queries_are_all_shown_once(count: int) -> None:
    chosen = choose_queries(np.zeros(count), np.ones(count, bool))
    assert sorted(chosen) == list(range(count))


def test_queries_without_a_match_are_not_shown() -> None:
    valid = np.array([True, False, True])
    assert choose_queries(np.array([0.5, 0.0, 0.1]), valid).tolist() == [2, 0]


def test_marks_captions_and_order_are_those_of_the_scores(report_runs) -> None:
    runs = [report_runs[name] for name in ("student-1", "student-2", "export-1")]
    context = ReportContext(runs, ReportSettings())
    found = strips(context, context.scored)
    mean = np.mean([network.scores.average_precision for network in context.scored], axis=0)
    assert [row.values[0] for row in found.rows] == sorted(row.values[0] for row in found.rows)
    queries = [int(row.values[-1]) for row in found.rows]
    assert [row.values[0] for row in found.rows] == [mean[query] for query in queries]
    assert {len(row.values) for row in found.rows} == {len(found.orders)}
    for place, network in enumerate(context.scored):
        test = network.evaluation.test
        matches = top_matches(network.evaluation.features, test, np.array(queries), TOP)
        for row, query, first in zip(found.rows, queries, matches, strict=True):
            line = row.lines[place]
            right = test.gallery.pids[first] == test.query.pids[query]
            assert line.pictures[0].mark == "query"
            assert [picture.mark == "right" for picture in line.pictures[1:]] == right.tolist()
            assert network.label in line.label


def test_many_networks_and_queries_do_not_grow_the_page(report_runs, monkeypatch) -> None:
    context = ReportContext([report_runs["student-1"]], ReportSettings())
    many = context.scored * 7
    found = strips(context, many)
    pictures = sum(len(line.pictures) for row in found.rows for line in row.lines)
    assert pictures <= (HARDEST + SPREAD) * MAX_NETWORKS * (1 + TOP)
    assert f"first {MAX_NETWORKS} of 7 networks" in found.caption
    monkeypatch.setattr(module, "MAX_NETWORKS", 7)
    assert "of 7 networks" not in strips(context, many[:1]).caption
