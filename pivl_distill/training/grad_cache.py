"""Gradient accumulation with losses over the whole batch (GradCache, Gao et al. 2021).

Batch-hard mining and contrastive losses compare all crops of a batch, so the sum of the losses of
microbatches is a different loss. GradCache encodes every microbatch without a graph, backpropagates
the loss of the whole batch to the encoder outputs, then encodes every microbatch again with a graph
and backpropagates its part of that gradient to the weights. It needs the memory of one microbatch
and one additional forward pass. The gradients equal those of the whole batch, except through batch
norm in the backbone, which sees one microbatch at a time; the necks are heads and see all crops.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pivl_distill.models.network import ReIDNetwork

RngState = tuple[Tensor, list[Tensor]]
"""The state of the CPU's random generator, and of the GPU's if there is one."""


class GradCache:
    """One batch encoded in microbatches.

    Compute the loss from `encoded`, which holds the whole batch, and call its `backward`; then call
    `GradCache.backward` for the gradients of the encoder's weights.
    """

    def __init__(self, network: ReIDNetwork, inputs: list[Tensor], microbatches: int) -> None:
        """Encode `inputs`, images and optionally camera ids, in `microbatches` parts."""
        self.network = network
        splits = (tensor.tensor_split(microbatches) for tensor in inputs)
        self.microbatches = list(zip(*splits, strict=True))
        self.device = inputs[0].device
        self._rng_states: list[RngState] = []
        encoded = []
        with torch.no_grad(), preserve_buffers(network):
            for microbatch in self.microbatches:
                self._rng_states.append(get_rng_state(self.device))
                encoded.append(network.encode(*microbatch))
        columns = zip(*(output.tensors() for output in encoded), strict=True)
        self.encoded = encoded[0].with_tensors([torch.cat(c).requires_grad_() for c in columns])

    def backward(self) -> None:
        """Backpropagate the gradients of `encoded` to the weights."""
        final_state = get_rng_state(self.device)
        gradients = self._microbatch_gradients()
        for microbatch, rng_state in zip(self.microbatches, self._rng_states, strict=True):
            set_rng_state(rng_state, self.device)  # the same dropout as in the first pass
            encoded = self.network.encode(*microbatch)
            torch.autograd.backward(encoded.tensors(), next(gradients))
        set_rng_state(final_state, self.device)

    def _microbatch_gradients(self) -> Iterator[list[Tensor]]:
        """Split the gradients of `encoded` into those of each microbatch."""
        gradients = [
            torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            for tensor in self.encoded.tensors()
        ]
        columns = (gradient.tensor_split(len(self.microbatches)) for gradient in gradients)
        return (list(parts) for parts in zip(*columns, strict=True))


@contextmanager
def preserve_buffers(network: nn.Module) -> Iterator[None]:
    """Restore all buffers, such as batch norm statistics, on exit."""
    saved = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(network.buffers(), saved, strict=True):
                buffer.copy_(value)


def get_rng_state(device: torch.device) -> RngState:
    """Return the random state that operations on `device` draw from."""
    cuda_states = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return torch.get_rng_state(), cuda_states


def set_rng_state(state: RngState, device: torch.device) -> None:
    """Restore a state of `get_rng_state`."""
    torch.set_rng_state(state[0])
    for cuda_state in state[1]:
        torch.cuda.set_rng_state(cuda_state, device)
