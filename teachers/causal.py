"""CLIP's text transformer from a known prefix on, without a token of padding.

Attention is causal: what comes before a token decides its state, nothing after it does. Sequences
that begin alike can therefore share the keys and values of that beginning, computed once per block;
each then runs only its own tokens, which attend to the shared ones and to those of its own before
them. Gradients flow through both. The tokens of a ragged batch lie packed behind one another, so
that all matrix products see real tokens only; attention alone, a small share of the work, pads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor, nn

from pivl_distill.errors import PivlError


@dataclass(frozen=True)
class Prefix:
    """What later tokens see of the S tokens before them: keys and values of every block.

    Each is [B, heads, S, width / heads], or [1, …] where all sequences begin alike.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def __len__(self) -> int:
        return self.keys[0].shape[2]

    def of(self, rows: Tensor) -> Prefix:
        """The prefixes `rows` [U] of these."""
        keys, values = (tuple(x[rows] for x in each) for each in (self.keys, self.values))
        return Prefix(keys, values)


def require_known_blocks(transformer: nn.Module) -> None:
    """PivlError unless `extend` can run the transformer's blocks."""
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
    blocks: Sequence[ResidualAttentionBlock],
    x: Tensor,
    lengths: Tensor,
    prefix: Prefix | None = None,
) -> tuple[Tensor, Prefix]:
    """Run tokens x [B, L, width] that follow `prefix`; B sequences of `lengths` [B] ≤ L.

    Returns their hidden states packed, [sum of lengths, width], and the prefix that a sequence of
    full length leaves to what follows it.
    """
    sequences, length = x.shape[:2]
    real = torch.arange(length, device=x.device) < lengths[:, None]
    packed = real.flatten().nonzero().squeeze(1)  # position of each token in the padded batch
    before = 0 if prefix is None else len(prefix)
    sees = torch.ones(length, before + length, dtype=torch.bool, device=x.device).tril(before)
    x = x.flatten(0, 1)[packed]
    keys, values = [], []
    for number, block in enumerate(blocks):
        attention = block.attn
        projected = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        padded = projected.new_zeros(sequences * length, projected.shape[1])
        padded = padded.index_copy(0, packed, projected)
        split = padded.view(sequences, length, 3, attention.num_heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each [B, heads, L, width / heads]
        if prefix is not None:
            key = _join(prefix.keys[number], key)
            value = _join(prefix.values[number], value)
        keys.append(key)
        values.append(value)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=sees)
        seen = seen.transpose(1, 2).reshape(sequences * length, -1)[packed]
        x = x + block.ls_1(attention.out_proj(seen))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x, Prefix(tuple(keys), tuple(values))


def _join(before: Tensor, own: Tensor) -> Tensor:
    return torch.cat([before.expand(len(own), -1, -1, -1), own], dim=2)
