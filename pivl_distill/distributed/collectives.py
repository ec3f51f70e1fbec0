"""What several processes compute together: each has a share of the batch, losses see all of it.

Rank r takes `process_group.shard(B)` of the B crops of a batch. What losses compare across crops —
features for mining, logits, texts — is gathered, and every process computes the same loss from it.
So the gradient with respect to what was gathered is the same everywhere: each process keeps the
rows that are its own and nothing is sent back. The gradients of the weights then add up to those of
one process, which `all_reduce_gradients` does.

In a single process every function here gives back what it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pivl_distill.distributed import process_group
from pivl_distill.losses import MIN_WEIGHT


def all_gather(own: Tensor, rows: int) -> Tensor:
    """[rows, …] of all processes in rank order; `own` is this one's `nonempty_shard(rows)`."""
    if process_group.world_size() == 1:
        return own
    gathered: Tensor = _AllGather.apply(
        own[: process_group.shard_sizes(rows)[process_group.rank()]], rows
    )
    return gathered


def apply_sharded(work: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """`work(*rows)` [U, …] of tensors [U, …], row by row; each process does a share of them."""
    if process_group.world_size() == 1:
        return work(*rows)
    own = process_group.nonempty_shard(len(rows[0]))
    return all_gather(work(*(of[own] for of in rows)), len(rows[0]))


def all_reduce_mean(value: Tensor, weight: Tensor | int) -> Tensor:
    """The mean of every process's scalar `value` with its `weight`; 0 where no weight is left.

    Its gradient is this process's share of it.
    """
    if process_group.world_size() == 1:
        return value
    weight = torch.full_like(value, weight) if isinstance(weight, int) else weight.to(value)
    sums = torch.stack([value.detach() * weight, weight])
    all_reduce_sum(sums)
    own = value * (weight / sums[1].clamp(min=MIN_WEIGHT))
    return own + (sums[0] / sums[1].clamp(min=MIN_WEIGHT) - own).detach()


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up every process's gradients, in place: those of one process with the whole batch.

    All at once after the backward pass, none sent while it runs.
    """
    if process_group.world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for kind in dict.fromkeys(gradient.dtype for gradient in gradients):
        alike = [gradient for gradient in gradients if gradient.dtype == kind]
        flat = torch.cat([gradient.reshape(-1) for gradient in alike])
        all_reduce_sum(flat)
        sums = flat.split([gradient.numel() for gradient in alike])
        for gradient, total in zip(alike, sums, strict=True):
            gradient.copy_(total.view(gradient.shape))


def broadcast_parameters(network: nn.Module) -> None:
    """Give every process the weights and buffers of process 0."""
    if process_group.world_size() == 1:
        return
    with process_group.peer_errors(), torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, 0)
            tensor.copy_(sent)


class _AllGather(torch.autograd.Function):
    """All rows forward; backward each process keeps its own, which every other would send alike."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, rows: int) -> Tensor:
        ctx.share, counts = process_group.shard(rows), process_group.shard_sizes(rows)
        longest = counts[0]
        padded = own.contiguous()
        if len(own) < longest:
            padded = torch.cat([own, own.new_zeros(longest - len(own), *own.shape[1:])])
        gathered = own.new_empty(longest * len(counts), *own.shape[1:])
        with process_group.peer_errors():
            dist.all_gather_into_tensor(gathered, padded)
        if len(set(counts)) == 1:
            return gathered
        of_each = gathered.split(longest)
        return torch.cat([part[:count] for part, count in zip(of_each, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.share], None


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over processes, in place."""
    with process_group.peer_errors():
        dist.all_reduce(tensor)
    return tensor
