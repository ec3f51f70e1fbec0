"""The paper's equations as plain loops, the reference of `pivl_distill/test_equations.py`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.training.alignment import TextFeatures

TEXT_INDICES = {
    "two of each": [0, 0, 1, 1, 2, 2],
    "uneven": [2, 0, 1, 2, 2, 0, 2],
    "one each": [3, 1, 0, 2],
    "one for all": [0, 0, 0],
}
"""Text index of each row of a batch."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers that require a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


def assert_same(actual: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """Equal values, and equal gradients of every input, to 1e-9."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)
    weights = normal(*actual.shape, seed=99).detach()
    gradients = (
        torch.autograd.grad((out * weights).sum(), inputs, retain_graph=True)
        for out in (actual, expected)
    )
    for ours, naive in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, naive, rtol=0, atol=1e-9)


def dot(one: Tensor, other: Tensor) -> Tensor:
    return torch.stack([a * b for a, b in zip(one, other, strict=True)]).sum()


def norm(vector: Tensor) -> Tensor:
    return dot(vector, vector).sqrt()


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum(0) / len(values)


def one_way_contrast(anchors: Tensor, others: Tensor, labels: Tensor, tau: float) -> Tensor:
    """−1/B Σ_i 1/|P(i)| Σ_{p ∈ P(i)} log(exp(a_i·o_p/τ) / Σ_j exp(a_i·o_j/τ))."""
    rows = []
    for i in range(len(anchors)):
        scores = [dot(anchors[i], other) / tau for other in others]
        total = torch.stack([score.exp() for score in scores]).sum()
        positives = [j for j in range(len(others)) if labels[j] == labels[i]]
        rows.append(mean([-(scores[j].exp() / total).log() for j in positives]))
    return mean(rows)


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Σ_k −q_k log p_k, q_k = (1 − ε)·[k = y] + ε / N, averaged over the batch."""
    rows = []
    for scores, label in zip(logits, labels.tolist(), strict=True):
        total = torch.stack([score.exp() for score in scores]).sum()
        terms = []
        for k, score in enumerate(scores):
            q = (1 - epsilon) * (k == label) + epsilon / len(scores)
            terms.append(-q * (score.exp() / total).log())
        rows.append(torch.stack(terms).sum())
    return mean(rows)


def batch_hard_triplet(features: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean over anchors of [max over positives − min over negatives + margin]₊, Euclidean."""
    rows = []
    for i, anchor in enumerate(features):
        distances = [norm(anchor - other) if i != j else None for j, other in enumerate(features)]
        positives = [d for j, d in enumerate(distances) if d is not None and labels[j] == labels[i]]
        negatives = [d for j, d in enumerate(distances) if d is not None and labels[j] != labels[i]]
        hinge = max(positives) - min(negatives) + margin
        rows.append(hinge if hinge > 0 else hinge * 0)
    return mean(rows)


def random_map(parts: int = 6, batch: int = 3) -> Tensor:
    """Noise uint8 [B, 8, 6] with an unknown stripe and an unknown corner."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, parts, (batch, 8, 6), generator=generator).to(torch.uint8)
    maps[0, 2:4] = IGNORE
    maps[1, :3, :3] = IGNORE
    return maps


def make_text_features() -> TextFeatures:
    """Random text features of four identities; part 2 is not present on identity 2."""
    present = torch.ones(4, len(LIP20), dtype=torch.bool)
    present[2, 2] = False
    return TextFeatures(normal(4, 5), normal(4, len(LIP20), 5, seed=1), present, LIP20)


def pixels_per_cell(one_map: Tensor, grid_hw: tuple[int, int]) -> dict[tuple[int, int], list[int]]:
    """Pixel values of each cell; a pixel belongs to the cell that contains its centre."""
    values: dict[tuple[int, int], list[int]] = {}
    for y in range(one_map.shape[0]):
        for x in range(one_map.shape[1]):
            row = int((y + 0.5) * grid_hw[0] / one_map.shape[0])
            column = int((x + 0.5) * grid_hw[1] / one_map.shape[1])
            values.setdefault((row, column), []).append(int(one_map[y, x]))
    return values


def majority(values: list[int]) -> int:
    known = [value for value in values if value != IGNORE]
    if 2 * (len(values) - len(known)) > len(values):
        return IGNORE
    return min(set(known), key=lambda value: (-known.count(value), value))


def lateral_by_loops(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A grouped 1×1 convolution of [C, h, w]: output d reads the channels of its group."""
    per_group_out, per_group_in = conv.out_channels // conv.groups, conv.weight.shape[1]
    rows = []
    for d in range(conv.out_channels):
        first = (d // per_group_out) * per_group_in
        total = conv.bias[d].expand(x.shape[1:])
        for offset in range(per_group_in):
            total = total + conv.weight[d, offset, 0, 0] * x[first + offset]
        rows.append(total)
    return torch.stack(rows)


def depthwise_3x3_by_loops(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A depth-wise 3×3 convolution of [C, h, w] with zero padding and any stride."""
    channels, height, width = x.shape
    stride = conv.stride[0]
    rows = []
    for c in range(channels):
        for y in range(0, height, stride):
            for column in range(0, width, stride):
                total = conv.bias[c]
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        if 0 <= y + dy < height and 0 <= column + dx < width:
                            pixel = x[c, y + dy, column + dx]
                            total = total + conv.weight[c, 0, dy + 1, dx + 1] * pixel
                rows.append(total)
    return torch.stack(rows).view(channels, -(-height // stride), -(-width // stride))


def downsample(x: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Means of the pixels of each cell; the sizes divide evenly."""
    tall, wide = x.shape[1] // grid_hw[0], x.shape[2] // grid_hw[1]
    cells = [
        x[:, i * tall : (i + 1) * tall, j * wide : (j + 1) * wide].mean((1, 2))
        for i in range(grid_hw[0])
        for j in range(grid_hw[1])
    ]
    return torch.stack(cells, 1).view(len(x), *grid_hw)


def upsample(x: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Bilinear interpolation between pixel centres, clamped at the edges."""

    def neighbours(cells: int, pixels: int, place: int) -> list[tuple[int, float]]:
        centre = min(max((place + 0.5) * pixels / cells - 0.5, 0), pixels - 1)
        low = math.floor(centre)
        return [(low, 1 - (centre - low)), (min(low + 1, pixels - 1), centre - low)]

    cells = []
    for i in range(grid_hw[0]):
        for j in range(grid_hw[1]):
            total = torch.zeros_like(x[:, 0, 0])
            for y, weight_y in neighbours(grid_hw[0], x.shape[1], i):
                for column, weight_x in neighbours(grid_hw[1], x.shape[2], j):
                    total = total + weight_y * weight_x * x[:, y, column]
            cells.append(total)
    return torch.stack(cells, 1).view(len(x), *grid_hw)


def nearest(x: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """The pixel at the centre of each cell."""
    cells = [
        x[
            :,
            int((i + 0.5) * x.shape[1] / grid_hw[0]),
            int((j + 0.5) * x.shape[2] / grid_hw[1]),
        ]
        for i in range(grid_hw[0])
        for j in range(grid_hw[1])
    ]
    return torch.stack(cells, 1).view(len(x), *grid_hw)


def contrast_by_loops(features: list[Tensor], texts: list[Tensor], pairs: list[int]) -> Tensor:
    """Eq. 7 with its minus sign and τ = 0.5 everywhere, weighted by area."""
    distinct = sorted(set(pairs))
    text = {pair: texts[pairs.index(pair)] for pair in distinct}
    rows = []
    for anchor, feature in zip(pairs, features, strict=True):
        positives = [j for j, pair in enumerate(pairs) if pair == anchor]
        to_texts = {pair: (dot(feature, text[pair]) / 0.5).exp() for pair in distinct}
        to_cells = [(dot(text[anchor], other) / 0.5).exp() for other in features]
        i2t = -(to_texts[anchor] / sum(to_texts.values())).log()
        t2i = mean([-(to_cells[j] / sum(to_cells)).log() for j in positives])
        rows.append(i2t + t2i)
    return mean(rows)


def distance_by_loops(features: list[Tensor], targets: list[Tensor], distance: str) -> Tensor:
    """Mean distance of Eq. 11; for "cosine" the arguments are unit vectors."""
    cells = []
    for feature, target in zip(features, targets, strict=True):
        gaps = feature - target
        if distance == "smooth_l1":
            cells.append(mean([abs(g) - 0.5 if abs(g) >= 1 else g * g / 2 for g in gaps]))
        else:
            cells.append(dot(gaps, gaps) / (1 if distance == "cosine" else len(gaps)))
    return mean(cells)
