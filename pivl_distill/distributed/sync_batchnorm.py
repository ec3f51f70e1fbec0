"""Batch norm over the crops of all processes, on any device.

A process that normalised its share of the batch by itself would learn something else than one
process with the whole batch. torch's own SyncBatchNorm exists on GPUs alone, and converting to it
drops the activation inside timm's norm layers. Layers of torch and timm alike end in
`F.batch_norm`, so that is where the statistics are shared: the layers and their names stay.
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
    """Inside, batch norms in training take mean and variance over the crops of all processes."""
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
    """`F.batch_norm` with statistics of all processes' x [B, C, …]; running ones move by them."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    normal, mean, variance = _Normalize.apply(x, eps)
    with torch.no_grad():
        for running, value in ((running_mean, mean), (running_var, variance)):
            if running is not None:
                running.lerp_(value.to(running), momentum)
    scaled = normal if weight is None else normal * _of_channels(weight, x)
    return (scaled if bias is None else scaled + _of_channels(bias, x)).to(x.dtype)


class _Normalize(torch.autograd.Function):
    """x → (x − mean) / deviation, mean [C] and unbiased variance [C]; at least single precision.

    One message forward, with the moments of each share, and one backward (Ioffe & Szegedy 2015).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        own_variance, own_mean = torch.var_mean(values, _axes(x), correction=0)
        own_count = torch.full_like(own_mean, x.numel() // x.shape[1])
        moments = all_gather(
            torch.stack([own_count, own_mean, own_variance])[None], process_group.world_size()
        )
        counts, means, variances = moments.unbind(1)  # [processes, C] each
        count = counts.sum(0)
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        scale = (variance + eps).rsqrt()
        normal = (values - _of_channels(mean, x)) * _of_channels(scale, x)
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
        of_mean, of_variance = all_reduce_sum(sums) / count
        centred = gradient - _of_channels(of_mean, gradient)
        centred -= normal * _of_channels(of_variance, gradient)
        return centred * _of_channels(scale, gradient), None


def _axes(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _of_channels(values: Tensor, x: Tensor) -> Tensor:
    """[C] as it is multiplied with x [B, C, …]."""
    return values.view(1, -1, *[1] * (x.ndim - 2))
