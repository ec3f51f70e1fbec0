"""A fork in a network, at which the gradient of one branch is limited relative to the other's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pivl_distill.distributed.collectives import all_reduce_sum
from pivl_distill.distributed.process_group import world_size

_TINY = 1e-30
"""Squared norm below which a gradient counts as zero."""


def fork(features: Tensor, cap: float | None) -> tuple[Tensor, Tensor]:
    """Return `features` twice: for a main branch, and for a branch whose gradient is limited.

    In the backward pass, the norm of the second branch's gradient is scaled down to `cap` times
    that of the first branch's. Norms are those of the whole batch of all processes. The limit does
    not depend on the precision, on loss scaling or on compilation. None: no limit.
    """
    if cap is None:
        return features, features
    main, limited = _Fork.apply(features, cap)
    return main, limited


class _Fork(torch.autograd.Function):
    """Identity twice; backward, the sum of the gradients, the second of them limited."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, cap: float) -> tuple[Tensor, Tensor]:
        ctx.cap = cap
        return features.view_as(features), features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        main, limited = gradients
        at_least_32_bits = torch.promote_types(main.dtype, torch.float32)
        squares = torch.stack([g.to(at_least_32_bits).square().sum() for g in gradients])
        if world_size() > 1:
            squares = all_reduce_sum(squares)
        scale = (ctx.cap**2 * squares[0] / squares[1].clamp(min=_TINY)).sqrt().clamp(max=1)
        return main + limited * scale.to(limited.dtype), None
