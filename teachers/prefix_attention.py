"""CLIP's text transformer from a known prefix on, without a token of padding.

Attention is causal: what comes before a token decides its state, nothing after it does. Sequences
that begin alike can therefore share the keys and values of that beginning, computed once per block;
each then runs only its own tokens, which attend to the shared ones and to those of its own before
them. Gradients flow through both. The tokens of a ragged batch lie packed behind one another, so
that all matrix products see real tokens only; attention alone, a small share of the work, pads. In
the last block only what is asked for goes on: the end of a sequence, or of a prefix nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor, nn

from pivl_distill.data.batches import to_device
from pivl_distill.errors import PivlError

KeysValues = tuple[Tensor, Tensor]
"""Keys and values that one block attends to, each [B, heads, tokens, width / heads]."""


@dataclass(frozen=True)
class PrefixCache:
    """What later tokens see of the S tokens before them."""

    blocks: tuple[KeysValues, ...]
    """[B, heads, S, …] for each block, or [1, …] where all sequences begin alike."""
    rows: Tensor | None = None
    """[U] which of the B each of U sequences begins with; None for each its own."""

    def __len__(self) -> int:
        return self.blocks[0][0].shape[2]

    def of(self, rows: Tensor) -> PrefixCache:
        """The prefixes `rows` [U] of these, gathered block by block where they are needed."""
        return PrefixCache(self.blocks, rows)

    def before(self, number: int, own: KeysValues) -> KeysValues:
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
    """Raise PivlError unless the functions below can run the transformer's blocks."""
    if not isinstance(transformer, Transformer):
        kind = f"a {type(transformer).__name__}"
    elif names := {type(b).__name__ for b in transformer.resblocks} - {"ResidualAttentionBlock"}:
        kind = f"blocks of type {', '.join(sorted(names))}"
    else:
        return
    raise PivlError(
        f"This CLIP's text encoder has {kind}, through which no prompts can be learned here; choose"
        " a CLIP whose text encoder is built as OpenAI's, such as RN50 or ViT-B-16."
    )


def extend_prefix(
    blocks: Sequence[ResidualAttentionBlock], x: Tensor, prefix: PrefixCache | None = None
) -> PrefixCache:
    """What B sequences leave to later tokens after tokens x [B, L, width] that follow `prefix`."""
    lengths = torch.full(x.shape[:1], x.shape[1], device="cpu")
    tokens = _PackedTokens(x, lengths, prefix)
    left = [tokens.enter(blocks[0])]
    for block in blocks[1:]:
        tokens.attend()
        left.append(tokens.enter(block))
    return PrefixCache(tuple(left))


def encode_after_prefix(
    blocks: Sequence[ResidualAttentionBlock],
    x: Tensor,
    lengths: Tensor,
    prefix: PrefixCache | None = None,
) -> Tensor:
    """Hidden states [B, width] at the end of B sequences that follow `prefix`.

    They have `lengths` [B] tokens each, which the host must know; x [B, L, width] may hold anything
    behind them.
    """
    tokens = _PackedTokens(x, lengths, prefix)
    for block in blocks[:-1]:
        tokens.enter(block)
        tokens.attend()
    tokens.enter(blocks[-1])
    tokens.keep_ends()
    return tokens.attend()


class _PackedTokens:
    """The tokens of B ragged sequences that follow a prefix, on their way through the blocks.

    They lie packed behind one another; only attention sees them padded to the longest sequence.
    """

    def __init__(self, x: Tensor, lengths: Tensor, prefix: PrefixCache | None) -> None:
        """x [B, L, width], of which the first `lengths` [B], on the host, are real."""
        self._sequences, self._length = x.shape[:2]
        self._lengths, self._prefix, self._entered = lengths, prefix, 0
        real = torch.arange(self._length, device=lengths.device) < lengths[:, None]
        # Where the tokens are in the padded batch.
        self._places = to_device(real.flatten().nonzero().squeeze(1), x.device)
        before = 0 if prefix is None else len(prefix)
        seen = torch.ones(self._length, before + self._length, dtype=torch.bool, device=x.device)
        self._sees = seen.tril(before)
        self._x = x.flatten(0, 1).index_select(0, self._places)

    def enter(self, block: ResidualAttentionBlock) -> KeysValues:
        """Compute queries, and what they attend to in the next block: prefix and own tokens."""
        attention, self._block = block.attn, block
        projected = F.linear(block.ln_1(self._x), attention.in_proj_weight, attention.in_proj_bias)
        padded = projected.new_zeros(self._sequences * self._length, projected.shape[1])
        padded = padded.index_copy(0, self._places, projected)
        split = padded.view(self._sequences, self._length, 3, attention.num_heads, -1)
        self._query, key, value = split.permute(2, 0, 3, 1, 4)  # each [B, heads, L, width / heads]
        self._attended = key, value
        if self._prefix is not None:
            self._attended = self._prefix.before(self._entered, self._attended)
        self._entered += 1
        return self._attended

    def keep_ends(self) -> None:
        """Go on with the last token of each sequence alone."""
        device = self._x.device
        self._x = self._x.index_select(0, to_device(self._lengths.cumsum(0) - 1, device))
        end = to_device(self._lengths - 1, device)
        sequence = torch.arange(self._sequences, device=device)
        self._query = self._query[sequence, :, end].unsqueeze(2)
        self._sees = self._sees.index_select(0, end)[:, None, None]  # [B, 1, 1, tokens]
        self._places, self._length = sequence, 1

    def attend(self) -> Tensor:
        """The rest of the block; hidden states, packed, after it."""
        block = self._block
        seen = F.scaled_dot_product_attention(self._query, *self._attended, attn_mask=self._sees)
        seen = seen.transpose(1, 2).reshape(self._sequences * self._length, -1)
        x = self._x + block.ls_1(block.attn.out_proj(seen.index_select(0, self._places)))
        self._x = x + block.ls_2(block.mlp(block.ln_2(x)))
        return self._x
