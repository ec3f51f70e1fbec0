"""`FusedMap`: every operation on the factors equals the same operation on the dense map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pivl_distill.models.fused_map import FusedMap


@pytest.mark.parametrize("factored", [True, False])
def test_factors_equal_the_dense_map(factored):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    cells, texts = normal(2, 3 if factored else 5, 4, 2), normal(2, 6, 5)
    factors = (normal(5, 3), normal(5)) if factored else ()
    fused = FusedMap(cells, *factors)
    full = cells
    if factored:
        full = torch.einsum("dc,bchw->bdhw", factors[0], cells) + factors[1][:, None, None]
    assert fused.shape == full.shape == (2, 5, 4, 2)
    image, row, column = torch.tensor([[0, 1, 1], [3, 0, 2], [1, 1, 0]])
    pairs = [
        (fused.to_dense(), full),
        (fused.squared_norms(), full.square().sum(1)),
        (fused.inner_products(texts), torch.einsum("bpd,bdhw->bphw", texts, full)),
        (fused.gather(image, row, column), full[image, :, row, column]),
    ]
    for ours, expected in pairs:
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
        gradients = (
            torch.autograd.grad(out.sin().sum(), [cells, *factors], retain_graph=True)
            for out in (ours, expected)
        )
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
