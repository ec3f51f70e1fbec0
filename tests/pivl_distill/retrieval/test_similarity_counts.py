"""Counting and finding, by the CPU and the device implementation, against comparing everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pivl_distill.retrieval import similarity_counts
from pivl_distill.retrieval.similarity_counts import (
    count_above,
    count_above_on_device,
    find_between,
    find_between_on_device,
)

COUNTS = (count_above, lambda *a: count_above_on_device(*a, step_bytes=1000))
FINDS = (find_between, lambda *a: find_between_on_device(*a, step_bytes=1000))


def numbers(rows: int, columns: int, bounds: int) -> tuple[Tensor, Tensor, Tensor]:
    """A product, its scale and bounds: few distinct values, so that some equal a bound, zeros of
    both signs, and −inf, which must never count."""
    torch.manual_seed(rows)
    product = torch.randint(-50, 50, (rows, columns)).float() / 50
    product[:, ::7] = -torch.inf
    product[:, ::5] *= -1
    scale = 2.0 ** torch.randint(-2, 2, (columns,))
    limits = torch.randint(-50, 50, (rows, bounds)).float() / 50
    limits[0, 0], limits[-1, -1] = torch.inf, -0.0
    return product.masked_fill_(product == torch.inf, -torch.inf), scale, limits


def compared(product: Tensor, scale: Tensor, limits: Tensor) -> Tensor:
    return (product[:, None] * scale > limits[:, :, None]).sum(dim=2)


@pytest.mark.parametrize("count", COUNTS, ids=("cpu", "device"))
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
def test_counts_match_comparing_everything(count, rows, columns, bounds) -> None:
    given = numbers(rows, columns, bounds)
    assert torch.equal(count(*given), compared(*given))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.9])
def test_counts_do_not_depend_on_the_share_above_the_lowest_bound(share: float) -> None:
    torch.manual_seed(0)
    values = torch.rand(2 * similarity_counts._ROWS + 3, 500)
    values[5], values[6] = 2.0, -torch.inf  # one row all above, one with none
    given = values, torch.ones(500), 1 - share * torch.rand(len(values), 7)
    assert torch.equal(count_above(*given), compared(*given))


@pytest.mark.parametrize("spread", [0.0, 1e-7, 0.03, 2.0])
def test_bounds_all_over_a_row_are_counted(spread: float) -> None:
    """Bounds equal a value of the row or its float neighbour; values fill few buckets, all of them,
    or exceed −1..1."""
    torch.manual_seed(0)
    product = 0.25 + spread * torch.randn(similarity_counts._ROWS + 5, 4000)
    product[:, :3] = torch.tensor([-torch.inf, -1.0, 1.0])
    values = product[:, ::300]
    limits = torch.cat([values, *(values.nextafter(torch.tensor(end)) for end in (-9.0, 9.0))], 1)
    given = product, torch.ones(4000), limits
    assert torch.equal(count_above(*given), compared(*given))


def test_buckets_are_monotonic() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.uniform(-1.1, 1.1, 50_000), rng.normal(0, 1e-6, 50_000)])
    ends = (-np.inf, -1, -0.0, 0.0, 1, np.inf)
    ordered = np.sort(np.append(values, ends).astype(np.float32))
    buckets = similarity_counts._buckets(np.stack([ordered] * similarity_counts._ROWS))
    assert (np.diff(buckets.reshape(-1)) >= 0).all()
    assert (
        buckets // similarity_counts._BUCKETS == np.arange(similarity_counts._ROWS)[:, None]
    ).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_counts_do_not_depend_on_the_number_of_threads(threads: int, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    given = numbers(3 * similarity_counts._ROWS + 1, 100, 3)
    assert torch.equal(count_above(*given), compared(*given))


@pytest.mark.parametrize("find", FINDS, ids=("cpu", "device"))
def test_find_between_includes_only_the_upper_bound(find) -> None:
    product = torch.tensor([[0.1, 0.1, 0.3, 0.2], [0.2, 0.45, 0.3, 0.1]])
    scale = torch.tensor([1.0, 2.0, 1.0, 2.0])
    rows = torch.tensor([1, 0, 0])
    low, high = torch.tensor([0.2, 0.1, 0.5]), torch.tensor([0.3, 0.3, 0.6])
    items, columns = find(product, scale, rows, low, high)
    assert items.tolist() == [0, 1, 1]
    assert columns.tolist() == [2, 1, 2]


@pytest.mark.parametrize("find", FINDS, ids=("cpu", "device"))
def test_no_searches_find_nothing(find) -> None:
    none = torch.empty(0)
    items, columns = find(torch.ones(2, 5), torch.ones(5), none.long(), none, none)
    assert items.shape == columns.shape == (0,)
