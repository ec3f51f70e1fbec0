"""Counting and finding, on the host and as on a device, against comparing everything."""

from __future__ import annotations

import pytest
import torch

from pivl_distill.retrieval import counting
from pivl_distill.retrieval.counting import (
    count_above,
    count_above_on_device,
    find_between,
    find_between_on_device,
)

COUNTS = (count_above, lambda s, b: count_above_on_device(s, b, at_a_time_bytes=1000))
FINDS = (find_between, lambda *a: find_between_on_device(*a, at_a_time_bytes=1000))


def numbers(rows: int, columns: int, bounds: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Few distinct values, so that some are equal to a bound, and what must never count."""
    torch.manual_seed(rows)
    values = torch.randint(-50, 50, (rows, columns)).float() / 50
    values[:, ::7] = -torch.inf
    limits = torch.randint(-50, 50, (rows, bounds)).float() / 50
    limits[0, 0] = torch.inf
    return values, limits


@pytest.mark.parametrize("count", COUNTS, ids=("host", "device"))
@pytest.mark.parametrize(
    ("rows", "columns", "bounds"),
    [
        (1, 1, 1),
        (3, 7, 2),
        (5, 2040, 3),
        (4, 2041, 5),
        (2, 16320, 1),
        (3, 16321, 70),
        (2, 40000, 4),
    ],
)
def test_counts_are_those_of_comparing_everything(count, rows, columns, bounds) -> None:
    values, limits = numbers(rows, columns, bounds)
    expected = (values[:, None] > limits[:, :, None]).sum(dim=2)
    assert torch.equal(count(values, limits), expected)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.9])
def test_rows_count_the_same_however_much_is_above_their_lowest_bound(share: float) -> None:
    torch.manual_seed(0)
    values = torch.rand(2 * counting._ROWS + 3, 500)
    values[5], values[6] = 2.0, -torch.inf  # one row all above, one with nothing
    limits = 1 - share * torch.rand(len(values), 7)
    assert torch.equal(count_above(values, limits), (values[:, None] > limits[:, :, None]).sum(2))


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads_counts_the_same(threads: int, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    values, limits = numbers(4, 100, 3)
    assert torch.equal(count_above(values, limits), (values[:, None] > limits[:, :, None]).sum(2))


@pytest.mark.parametrize("find", FINDS, ids=("host", "device"))
def test_what_lies_between_includes_the_upper_bound_alone(find) -> None:
    values = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.2, 0.9, 0.3, 0.2]])
    rows = torch.tensor([1, 0, 0])
    low, high = torch.tensor([0.2, 0.1, 0.5]), torch.tensor([0.3, 0.3, 0.6])
    items, columns = find(values, rows, low, high)
    assert items.tolist() == [0, 1, 1]
    assert columns.tolist() == [2, 1, 2]


@pytest.mark.parametrize("find", FINDS, ids=("host", "device"))
def test_nothing_asked_is_nothing_found(find) -> None:
    none = torch.empty(0)
    items, columns = find(torch.ones(2, 5), none.long(), none, none)
    assert items.shape == columns.shape == (0,)
