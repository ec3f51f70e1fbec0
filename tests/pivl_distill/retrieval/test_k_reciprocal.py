"""k-reciprocal neighbours and their expansion, on lists written by hand."""

from __future__ import annotations

import torch

from pivl_distill.retrieval.k_reciprocal import (
    NO_NEIGHBOUR,
    expand_ranges,
    expanded_neighbours,
    k_reciprocal_neighbours,
    row_starts,
)


def test_only_mutual_neighbours_are_kept() -> None:
    nearest = torch.tensor([[0, 1], [1, 0], [2, 0]])  # crop 2 is not among the nearest of crop 0
    expected = [[0, 1], [1, 0], [2, NO_NEIGHBOUR]]
    assert k_reciprocal_neighbours(nearest).tolist() == expected


def test_neighbours_join_if_more_than_two_thirds_are_shared() -> None:
    neighbours = torch.tensor([[0, 1, 2], [1, 0, NO_NEIGHBOUR], [2, NO_NEIGHBOUR, NO_NEIGHBOUR]])
    neighbours = torch.cat([neighbours, torch.full((1, 3), NO_NEIGHBOUR)])
    closer = torch.tensor([[0, 1, 2, 3], [1, 0, 3, NO_NEIGHBOUR]] + [[NO_NEIGHBOUR] * 4] * 2)
    ((crop, neighbour),) = expanded_neighbours(neighbours, closer)
    pairs = list(zip(crop.tolist(), neighbour.tolist(), strict=True))
    # Crop 0 shares 3 of its own 4 closer ones, so 3 joins; it shares only 2 of 3 with crop 1.
    assert pairs == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (2, 2)]


def test_row_starts_and_ranges_index_sparse_rows() -> None:
    assert row_starts(torch.tensor([0, 0, 2]), 3).tolist() == [0, 2, 2, 3]
    item, number = expand_ranges(torch.tensor([4, 9, 1]), torch.tensor([6, 9, 2]))
    assert item.tolist() == [0, 0, 2]
    assert number.tolist() == [4, 5, 1]
