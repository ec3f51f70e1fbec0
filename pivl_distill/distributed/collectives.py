"""Tensor collectives: each process encodes a shard of the batch, losses see the whole batch.

Each process takes `process_group.shard(B)` of the B crops of a batch. Tensors that losses compare
across crops (features for mining, logits, text features) are all-gathered, and every process
computes the same loss from them. The gradient with respect to the gathered tensor is therefore
equal on all processes: each keeps its own rows of it, without communication. The weight gradients
of all processes sum to those of a single process; `all_reduce_gradients` computes that sum.

In a single process every function here returns its input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pivl_distill.distributed import process_group
from pivl_distill.losses import MIN_WEIGHT


def all_gather(local: Tensor, rows: int) -> Tensor:
    """Return the rows [rows, …] of all processes in rank order; differentiable.

    `local` holds the rows of this process's `nonempty_shard(rows)`.
    """
    if process_group.world_size() == 1:
        return local
    gathered: Tensor = _AllGather.apply(
        local[: process_group.shard_sizes(rows)[process_group.rank()]], rows
    )
    return gathered


def apply_sharded(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return `function(*tensors)` [U, …], which maps rows of tensors [U, …] independently.

    Each process applies the function to its shard of the rows.
    """
    if process_group.world_size() == 1:
        return function(*tensors)
    rows = len(tensors[0])
    shard = process_group.nonempty_shard(rows)
    return all_gather(function(*(tensor[shard] for tensor in tensors)), rows)


def all_reduce_mean(value: Tensor, weight: Tensor | int) -> Tensor:
    """Return the weighted mean of every process's scalar `value`; 0 if all weights are 0.

    The gradient flows to this process's value only, in proportion to its weight.
    """
    if process_group.world_size() == 1:
        return value
    weight = torch.full_like(value, weight) if isinstance(weight, int) else weight.to(value)
    sums = torch.stack([value.detach() * weight, weight])
    all_reduce_sum(sums)
    local = value * (weight / sums[1].clamp(min=MIN_WEIGHT))
    return local + (sums[0] / sums[1].clamp(min=MIN_WEIGHT) - local).detach()


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over processes, the gradient of the whole batch.

    Call it after the backward pass; gradients are sent together, one tensor per dtype.
    """
    if process_group.world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        group = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.reshape(-1) for gradient in group])
        all_reduce_sum(flat)
        sums = flat.split([gradient.numel() for gradient in group])
        for gradient, total in zip(group, sums, strict=True):
            gradient.copy_(total.view(gradient.shape))


def broadcast_parameters(network: nn.Module) -> None:
    """Copy the weights and buffers of process 0 to every process."""
    if process_group.world_size() == 1:
        return
    with process_group.peer_errors(), torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, 0)
            tensor.copy_(sent)


class _AllGather(torch.autograd.Function):
    """Gather all rows forward; backward, keep the gradient of this process's own rows.

    Every process computes the same gradient, so nothing has to be sent.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor, rows: int) -> Tensor:
        ctx.shard, counts = process_group.shard(rows), process_group.shard_sizes(rows)
        longest = counts[0]
        padded = local.contiguous()
        if len(local) < longest:
            padding = local.new_zeros(longest - len(local), *local.shape[1:])
            padded = torch.cat([local, padding])
        gathered = local.new_empty(longest * len(counts), *local.shape[1:])
        with process_group.peer_errors():
            dist.all_gather_into_tensor(gathered, padded)
        if len(set(counts)) == 1:
            return gathered
        shards = gathered.split(longest)
        return torch.cat([shard[:count] for shard, count in zip(shards, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.shard], None


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Replace `tensor` by its sum over processes and return it."""
    with process_group.peer_errors():
        dist.all_reduce(tensor)
    return tensor
