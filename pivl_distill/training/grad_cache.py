"""A batch through a network in parts, with losses that see all of it (GradCache, Gao et al. 2021).

Batch-hard mining and contrasts compare every crop of a batch with every other, so summing the
losses of smaller batches is another loss. Instead each part is encoded without a graph, the loss of
the whole batch gives the gradient of what was encoded, and each part is encoded once more, with a
graph, to pass its share on to the weights. Memory is that of one part, time one more forward pass,
and the gradients are those of the whole batch: except through batch norm inside the network, which
sees one part at a time. The necks, which belong to the heads, see the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pivl_distill.models.network import ReIDNetwork

RngState = tuple[Tensor, list[Tensor]]
"""States of the CPU's generator and of the device's."""


class GradCache:
    """`inputs` (images, and perhaps cameras) encoded in `count` parts.

    `encoded` is to be used like that of the whole batch; after the loss's backward pass,
    `backward` ends it.
    """

    def __init__(self, network: ReIDNetwork, inputs: list[Tensor], count: int) -> None:
        self.network = network
        self.parts = list(zip(*(tensor.tensor_split(count) for tensor in inputs), strict=True))
        self.device = inputs[0].device
        self._randomness: list[RngState] = []
        encoded = []
        with torch.no_grad(), preserve_buffers(network):
            for part in self.parts:
                self._randomness.append(get_rng_state(self.device))
                encoded.append(network.encode(*part))
        columns = zip(*(part.tensors() for part in encoded), strict=True)
        self.encoded = encoded[0].with_tensors([torch.cat(c).requires_grad_() for c in columns])

    def backward(self) -> None:
        """Add to the gradients of all weights what the gradients of `encoded` say."""
        after = get_rng_state(self.device)
        gradients = self._gradients()
        for part, before in zip(self.parts, self._randomness, strict=True):
            set_rng_state(before, self.device)
            encoded = self.network.encode(*part)
            torch.autograd.backward(encoded.tensors(), next(gradients))
        set_rng_state(after, self.device)

    def _gradients(self) -> Iterator[list[Tensor]]:
        """Those of each part after the other."""
        wholes = [
            torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            for tensor in self.encoded.tensors()
        ]
        columns = (whole.tensor_split(len(self.parts)) for whole in wholes)
        return (list(part) for part in zip(*columns, strict=True))


@contextmanager
def preserve_buffers(network: nn.Module) -> Iterator[None]:
    """Buffers, such as batch norm's means, are afterwards what they were before."""
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(network.buffers(), before, strict=True):
                buffer.copy_(value)


def get_rng_state(device: torch.device) -> RngState:
    """What dropout and the like will draw from."""
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return torch.get_rng_state(), own


def set_rng_state(state: RngState, device: torch.device) -> None:
    """Draw again what was drawn after `get_rng_state` gave this state."""
    torch.set_rng_state(state[0])
    for own in state[1]:
        torch.cuda.set_rng_state(own, device)
