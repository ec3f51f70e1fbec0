"""A fork whose second branch has a limited gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pivl_distill.models.gradient_cap import fork


def gradients(cap: float | None, strength: float) -> tuple[Tensor, Tensor]:
    """Return the gradient of the features, and what the second branch adds to the first's."""
    x = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    main, limited = fork(x, cap)
    ((main**2).sum() + strength * (limited**3).sum()).backward()
    assert x.grad is not None
    return x.grad, x.grad - 2 * x.detach()


@pytest.mark.parametrize("cap", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e3])
def test_gradient_never_exceeds_the_cap(cap: float, strength: float) -> None:
    total, added = gradients(cap, strength)
    _, free = gradients(None, strength)
    limit = cap * (total - added).norm()
    assert added.norm() <= limit * (1 + 1e-9)
    scale = min(1.0, float(limit / free.norm()))
    torch.testing.assert_close(added, scale * free, rtol=1e-9, atol=1e-12)


def test_branches_hold_the_features_themselves() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    for cap in (None, 0.5):
        assert all(torch.equal(branch, x) for branch in fork(x, cap))


@pytest.mark.parametrize("unused", [0, 1])
def test_one_branch_may_be_unused(unused: int) -> None:
    x = torch.randn(2, 3, requires_grad=True)
    fork(x, 0.5)[1 - unused].sum().backward()
    assert x.grad is not None
    expected = torch.ones(2, 3) if unused else torch.zeros(2, 3)  # the main branch's gradient is 0
    assert torch.equal(x.grad, expected)


def test_half_precision_does_not_overflow() -> None:
    x = torch.ones(1000, dtype=torch.float16, requires_grad=True)
    main, limited = fork(x, 0.5)
    (main.float().sum() * 1e3 + limited.float().sum() * 1e4).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, 1.5e3))
