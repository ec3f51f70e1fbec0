"""Synchronised batch norm: statistics over the crops of all processes, on any device.

With statistics of its own shard only, a process would not compute what a single process with the
whole batch computes. torch's SyncBatchNorm supports GPUs only, and converting to it drops the
activation inside timm's norm layers. Norm layers of torch and timm both call `F.batch_norm`, so
that call is replaced, and layers and parameter names do not change.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pivl_distill.distributed import process_group
from pivl_distill.distributed.collectives import all_gather, all_reduce_sum


def sync_batch_norm() -> AbstractContextManager[Any]:
    """Synchronise the batch norms that train inside; does nothing in a single process."""
    return nullcontext() if process_group.world_size() == 1 else _SyncBatchNorm()


class _SyncBatchNorm(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return `F.batch_norm` of x [B, C, …] with the statistics of all processes' x.

    The arguments are those of `F.batch_norm`: running statistics, weight and bias are [C] each, and
    the running statistics are updated in place.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    normal, mean, variance = _Normalize.apply(x, eps)
    with torch.no_grad():
        for running, value in ((running_mean, mean), (running_var, variance)):
            if running is not None:
                running.lerp_(value.to(running), momentum)
    scaled = normal if weight is None else normal * _broadcast_channels(weight, x)
    return (scaled if bias is None else scaled + _broadcast_channels(bias, x)).to(x.dtype)


class _Normalize(torch.autograd.Function):
    """x → (x − mean) / deviation, with mean [C] and unbiased variance [C]; float32 or wider.

    One collective forward, with the moments of each shard, and one backward (Ioffe & Szegedy 2015).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        local_variance, local_mean = torch.var_mean(values, _axes(x), correction=0)
        local_count = torch.full_like(local_mean, x.numel() // x.shape[1])
        moments = all_gather(
            torch.stack([local_count, local_mean, local_variance])[None], process_group.world_size()
        )
        counts, means, variances = moments.unbind(1)  # [processes, C] each
        count = counts.sum(0)
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        scale = (variance + eps).rsqrt()
        normal = (values - _broadcast_channels(mean, x)) * _broadcast_channels(scale, x)
        ctx.save_for_backward(normal, scale, count)
        unbiased = variance * count / (count - 1)
        ctx.mark_non_differentiable(mean, unbiased)
        return normal, mean, unbiased

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0]
        normal, scale, count = ctx.saved_tensors
        axes = _axes(gradient)
        sums = torch.stack([gradient.sum(axes), (gradient * normal).sum(axes)])
        grad_mean, grad_variance = all_reduce_sum(sums) / count
        centred = gradient - _broadcast_channels(grad_mean, gradient)
        centred -= normal * _broadcast_channels(grad_variance, gradient)
        return centred * _broadcast_channels(scale, gradient), None


def _axes(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _broadcast_channels(values: Tensor, x: Tensor) -> Tensor:
    """Reshape [C] to broadcast over x [B, C, …]."""
    return values.view(1, -1, *[1] * (x.ndim - 2))
