"""The part contrast (Eq. 7) against its naive form: `python benchmarks/part_contrast.py`.

64 images (16 identities × 4) of 128 cells of dimension 512, 20 parts, two threads; the loss and its
gradient with respect to the texts. The baseline gives every cell its own text and compares all
pairs of cells, as Eq. 7 is printed, with weight 1/n for a text that occurs n times. Loss and
gradients are equal, which is checked before the timing. The limit is the two matrix products that
any form needs: cells × texts forward, and back to the texts.
"""

from __future__ import annotations

from collections.abc import Callable

import click
import torch
import torch.nn.functional as F
from harness import Row, interleaved, on_device, overhead, peak_bytes, report, speedup
from torch import Tensor

from pivl_distill.losses import part_contrastive_loss

ROUNDS = 5
IDENTITIES, CROPS, POSITIONS, PARTS, DIM = 16, 4, 128, 20, 512
TEMPERATURE = 0.07


def naive(cells: Tensor, texts: Tensor, owner: Tensor) -> Tensor:
    """Eq. 7 over all pairs of positions, weighted by area."""
    own_text = texts[owner]  # [S, D]
    same = (owner[:, None] == owner[None, :]).float()
    count = same.sum(0)
    logits = cells @ own_text.T / TEMPERATURE  # [S, S]
    i2t = logits - (logits.exp() / count).sum(1, keepdim=True).log()
    t2i = logits - logits.exp().sum(0, keepdim=True).log()
    return -((i2t + t2i) * same / count).sum() / len(cells)


def backward(loss: Callable[[], Tensor], texts: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    def run() -> tuple[Tensor, Tensor]:
        value = loss()
        return value.detach(), torch.autograd.grad(value, texts)[0]

    return run


@click.command()
@on_device
def main() -> None:
    """Measure and print all rows."""
    positions = IDENTITIES * CROPS * POSITIONS
    identity = torch.arange(IDENTITIES).repeat_interleave(CROPS * POSITIONS)
    pairs = identity * PARTS + torch.randint(0, PARTS, (positions,))
    owner = pairs.unique(return_inverse=True)[1]
    cells = F.normalize(torch.randn(positions, DIM), dim=1)
    texts = F.normalize(torch.randn(int(owner.max()) + 1, DIM), dim=1).requires_grad_()
    pull = torch.randn(positions, len(texts))
    ways: dict[str, Callable[[], object]] = {
        "ours": backward(
            lambda: part_contrastive_loss(cells, texts, owner, TEMPERATURE, "area"), texts
        ),
        "naive": backward(lambda: naive(cells, texts, owner), texts),
        "limit": lambda: (cells @ texts.detach().T, pull.T @ cells),
    }
    torch.testing.assert_close(ways["ours"](), ways["naive"](), rtol=1e-4, atol=1e-6)
    seconds = interleaved(ways, ROUNDS)
    peak = {name: peak_bytes(way) / 2**20 for name, way in ways.items()}
    name = f"part contrast, {IDENTITIES * CROPS} × {POSITIONS} × {DIM}"
    rows: list[Row] = [
        speedup(f"{name}, against naive pairs", seconds["ours"], seconds["naive"], "s", 10),
        speedup(f"{name}, memory against naive pairs", peak["ours"], peak["naive"], "MiB", 10),
        overhead(
            f"{name}, against its matrix products", seconds["ours"], seconds["limit"], "s", None
        ),
    ]
    report("Part contrast", rows)


if __name__ == "__main__":
    main()
