"""Where a bare network still has a map: the layer that is looked at to see what it looks at.

`MapLayer` is not used in training. It explains a network as it is deployed: its `network` computes
the same embedding, and `layer` is the last module whose every output cell reaches the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class MapLayer:
    """A network, its last layer with a map, and how that layer's output becomes a map."""

    network: nn.Module
    """Normalised images [B, 3, H, W] → embedding [B, F]."""
    layer: nn.Module
    as_map: Callable[[Tensor], Tensor]
    """Output of `layer` → map [B, C, h, w]."""

    @torch.no_grad()
    def maps(self, images: Tensor) -> Tensor:
        """Return the map [B, C, h, w] of normalised images."""
        with self._recorded() as outputs:
            self.network.eval()(images)
        return self.as_map(outputs[-1])

    @contextmanager
    def _recorded(self) -> Iterator[list[Tensor]]:
        outputs: list[Tensor] = []
        handle = self.layer.register_forward_hook(lambda _, __, output: outputs.append(output))
        try:
            yield outputs
        finally:
            handle.remove()


class SplitNetwork(nn.Module):
    """A network in two parts with a module between them, for networks whose last map has none."""

    def __init__(
        self,
        network: nn.Module,
        encode: Callable[[Tensor], Tensor],
        pool: Callable[[Tensor], Tensor],
    ) -> None:
        """`encode` maps images to the last map, `pool` that to the embedding of `network`."""
        super().__init__()
        self.network = network
        self.map = nn.Identity()
        self._encode, self._pool = encode, pool

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self._pool(self.map(self._encode(images)))
        return pooled


def as_is(map_: Tensor) -> Tensor:
    """Return a map [B, C, h, w] unchanged."""
    return map_


def grid_of_tokens(prefix_tokens: int, grid_hw: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Return a function from tokens [B, prefix + h·w, C] to their map [B, C, h, w]."""

    def as_map(tokens: Tensor) -> Tensor:
        return tokens[:, prefix_tokens:].mT.unflatten(2, grid_hw)

    return as_map
