"""CLIP's text transformer from a known prefix on, without a token of padding.

Attention is causal: what comes before a token decides its state, nothing after it does. Sequences
that begin alike can therefore share the keys and values of that beginning, computed once per block;
each then runs only its own tokens, which attend to the shared ones and to those of its own before
them. Gradients flow through both. The tokens of a ragged batch lie packed behind one another, so
that all matrix products see real tokens only; attention alone, a small share of the work, pads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor, nn

from pivl_distill.data.batches import to_device
from pivl_distill.errors import PivlError

Attended = tuple[Tensor, Tensor]
"""Keys and values that one block attends to, each [B, heads, tokens, width / heads]."""


@dataclass(frozen=True)
class Prefix:
    """What later tokens see of the S tokens before them."""

    blocks: tuple[Attended, ...]
    """[B, heads, S, …] for each block, or [1, …] where all sequences begin alike."""
    rows: Tensor | None = None
    """[U] which of the B each of U sequences begins with; None for each its own."""

    def __len__(self) -> int:
        return self.blocks[0][0].shape[2]

    def of(self, rows: Tensor) -> Prefix:
        """The prefixes `rows` [U] of these, gathered block by block where they are needed."""
        return Prefix(self.blocks, rows)

    def before(self, number: int, own: Attended) -> Attended:
        """What the tokens of `own` attend to in block `number`: the prefix and themselves."""
        key, value = (
            torch.cat([self._rows(shared, len(new)), new], dim=2)
            for shared, new in zip(self.blocks[number], own, strict=True)
        )
        return key, value

    def _rows(self, shared: Tensor, sequences: int) -> Tensor:
        if self.rows is None:
            return shared.expand(sequences, -1, -1, -1)
        return shared.index_select(0, self.rows)


def require_known_blocks(transformer: nn.Module) -> None:
    """PivlError unless `read` and `extend` can run the transformer's blocks."""
    if not isinstance(transformer, Transformer):
        kind = f"a {type(transformer).__name__}"
    elif names := {type(b).__name__ for b in transformer.resblocks} - {"ResidualAttentionBlock"}:
        kind = f"blocks of type {', '.join(sorted(names))}"
    else:
        return
    raise PivlError(
        f"This CLIP's text tower has {kind}, through which no prompts can be learned here; choose"
        " a CLIP whose text tower is built as OpenAI's, such as RN50 or ViT-B-16."
    )


def extend(
    blocks: Sequence[ResidualAttentionBlock], x: Tensor, prefix: Prefix | None = None
) -> Prefix:
    """What B sequences leave to later tokens after tokens x [B, L, width] that follow `prefix`."""
    lengths = torch.full(x.shape[:1], x.shape[1], device="cpu")
    return Prefix(tuple(attended for _, attended in _run(blocks, x, lengths, prefix)))


def read(
    blocks: Sequence[ResidualAttentionBlock],
    x: Tensor,
    lengths: Tensor,
    prefix: Prefix | None = None,
) -> Tensor:
    """Hidden states [B, width] at the end of B sequences that follow `prefix`.

    They have `lengths` [B] tokens each, which the host must know; x [B, L, width] may hold anything
    behind them.
    """
    ((packed, _),) = deque(_run(blocks, x, lengths, prefix), maxlen=1)  # after the last block
    return packed.index_select(0, to_device(lengths.cumsum(0) - 1, x.device))


def _run(
    blocks: Sequence[ResidualAttentionBlock], x: Tensor, lengths: Tensor, prefix: Prefix | None
) -> Iterator[tuple[Tensor, Attended]]:
    """Hidden states, packed, after each block, and what was attended to in it."""
    sequences, length = x.shape[:2]
    real = torch.arange(length, device=lengths.device) < lengths[:, None]
    # Places of the tokens in the padded batch.
    packed = to_device(real.flatten().nonzero().squeeze(1), x.device)
    before = 0 if prefix is None else len(prefix)
    sees = torch.ones(length, before + length, dtype=torch.bool, device=x.device).tril(before)
    x = x.flatten(0, 1).index_select(0, packed)
    for number, block in enumerate(blocks):
        attention = block.attn
        projected = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        padded = projected.new_zeros(sequences * length, projected.shape[1])
        padded = padded.index_copy(0, packed, projected)
        split = padded.view(sequences, length, 3, attention.num_heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each [B, heads, L, width / heads]
        if prefix is not None:
            key, value = prefix.before(number, (key, value))
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=sees)
        seen = seen.transpose(1, 2).reshape(sequences * length, -1).index_select(0, packed)
        x = x + block.ls_1(attention.out_proj(seen))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        yield x, (key, value)
