"""Maps of a layer inside a network, without changing the network."""

from __future__ import annotations

import torch
from torch import nn

from pivl_distill.models.map_layer import MapLayer, SplitNetwork, as_is, grid_of_tokens

IMAGES = torch.randn(2, 3, 8, 4, generator=torch.Generator().manual_seed(0))


def test_a_split_network_gives_its_map_and_its_embedding():
    network = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    split = SplitNetwork(network, network[0], lambda map_: network[2](network[1](map_)))
    layer = MapLayer(split, split.map, as_is)
    torch.testing.assert_close(layer.maps(IMAGES), network[0](IMAGES))
    torch.testing.assert_close(split(IMAGES), network(IMAGES))
    assert not split.map._forward_hooks  # removed again


def test_tokens_become_a_grid_without_their_prefix():
    map_ = torch.arange(2 * 5 * 8, dtype=torch.float).reshape(2, 5, 4, 2)
    tokens = torch.cat([torch.zeros(2, 3, 5), map_.flatten(2).mT], dim=1)
    torch.testing.assert_close(grid_of_tokens(3, (4, 2))(tokens), map_)
