"""CLIP's text transformer with a key-value cache of common prefixes, and without padding.

Attention is causal: the state of a token depends only on earlier tokens. Sequences with a common
prefix therefore share its keys and values, computed once per block, and each sequence runs only its
remaining tokens. Gradients flow through both. A ragged batch is packed, so that matrix products see
real tokens only; only attention, a small share of the work, is padded. The last block computes only
what is needed: the last token of each sequence, or, for a prefix, its keys and values.
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
"""Keys and values of one block, each [B, heads, tokens, width / heads]."""


@dataclass(frozen=True)
class PrefixCache:
    """Keys and values of a prefix of S tokens, for every block."""

    blocks: tuple[KeysValues, ...]
    """[B, heads, S, …] for each block, or [1, …] if all sequences share one prefix."""
    rows: Tensor | None = None
    """[U] index of the prefix of each of U sequences; None if sequence i has prefix i."""

    def __len__(self) -> int:
        return self.blocks[0][0].shape[2]

    def select(self, rows: Tensor) -> PrefixCache:
        """Return the prefixes `rows` [U], which are gathered block by block on use."""
        return PrefixCache(self.blocks, rows)

    def concat(self, block: int, suffix: KeysValues) -> KeysValues:
        """Return the keys and values of block number `block`: the prefix, then `suffix`."""
        key, value = (
            torch.cat([self._rows(shared, len(new)), new], dim=2)
            for shared, new in zip(self.blocks[block], suffix, strict=True)
        )
        return key, value

    def _rows(self, shared: Tensor, sequences: int) -> Tensor:
        if self.rows is None:
            return shared.expand(sequences, -1, -1, -1)
        return shared.index_select(0, self.rows)


def require_known_blocks(transformer: nn.Module) -> None:
    """Raise PivlError unless this module can run the transformer's blocks."""
    if not isinstance(transformer, Transformer):
        kind = f"a {type(transformer).__name__}"
    elif names := {type(b).__name__ for b in transformer.resblocks} - {"ResidualAttentionBlock"}:
        kind = f"blocks of type {', '.join(sorted(names))}"
    else:
        return
    raise PivlError(
        f"This CLIP's text encoder has {kind}, through which prompts cannot be learned; choose"
        " a CLIP with OpenAI's text encoder, such as RN50 or ViT-B-16."
    )


def extend_prefix(
    blocks: Sequence[ResidualAttentionBlock], x: Tensor, prefix: PrefixCache | None = None
) -> PrefixCache:
    """Return the cache after B sequences of tokens x [B, L, width] that follow `prefix`."""
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
    """Return the hidden states [B, width] of the last tokens of B sequences after `prefix`.

    Args:
        blocks: of the transformer.
        x: embeddings [B, L, width]; those beyond `lengths` are ignored.
        lengths: [B], on the CPU, tokens of each sequence.
        prefix: cache of the tokens before them.
    """
    tokens = _PackedTokens(x, lengths, prefix)
    for block in blocks[:-1]:
        tokens.enter(block)
        tokens.attend()
    tokens.enter(blocks[-1])
    tokens.keep_ends()
    return tokens.attend()


class _PackedTokens:
    """Packed tokens of B ragged sequences that follow a prefix, and their state in the blocks.

    They are padded to the longest sequence in attention only.
    """

    def __init__(self, x: Tensor, lengths: Tensor, prefix: PrefixCache | None) -> None:
        """Pack x [B, L, width], of which the first `lengths` [B], on the CPU, are tokens."""
        self._sequences, self._length = x.shape[:2]
        self._lengths, self._prefix, self._block_number = lengths, prefix, 0
        real = torch.arange(self._length, device=lengths.device) < lengths[:, None]
        # Indices of the tokens in the padded batch.
        self._indices = to_device(real.flatten().nonzero().squeeze(1), x.device)
        offset = 0 if prefix is None else len(prefix)
        mask = torch.ones(self._length, offset + self._length, dtype=torch.bool, device=x.device)
        self._mask = mask.tril(offset)
        self._x = x.flatten(0, 1).index_select(0, self._indices)

    def enter(self, block: ResidualAttentionBlock) -> KeysValues:
        """Compute queries, keys and values of `block`; return keys and values, prefix included."""
        attention, self._block = block.attn, block
        projected = F.linear(block.ln_1(self._x), attention.in_proj_weight, attention.in_proj_bias)
        padded = projected.new_zeros(self._sequences * self._length, projected.shape[1])
        padded = padded.index_copy(0, self._indices, projected)
        split = padded.view(self._sequences, self._length, 3, attention.num_heads, -1)
        self._query, key, value = split.permute(2, 0, 3, 1, 4)  # each [B, heads, L, width / heads]
        self._attended = key, value
        if self._prefix is not None:
            self._attended = self._prefix.concat(self._block_number, self._attended)
        self._block_number += 1
        return self._attended

    def keep_ends(self) -> None:
        """Keep only the last token of each sequence."""
        device = self._x.device
        self._x = self._x.index_select(0, to_device(self._lengths.cumsum(0) - 1, device))
        end = to_device(self._lengths - 1, device)
        sequence = torch.arange(self._sequences, device=device)
        self._query = self._query[sequence, :, end].unsqueeze(2)
        self._mask = self._mask.index_select(0, end)[:, None, None]  # [B, 1, 1, tokens]
        self._indices, self._length = sequence, 1

    def attend(self) -> Tensor:
        """Run attention and MLP of the block; return the packed hidden states."""
        block = self._block
        heads = F.scaled_dot_product_attention(self._query, *self._attended, attn_mask=self._mask)
        heads = heads.transpose(1, 2).reshape(self._sequences * self._length, -1)
        x = self._x + block.ls_1(block.attn.out_proj(heads.index_select(0, self._indices)))
        self._x = x + block.ls_2(block.mlp(block.ln_2(x)))
        return self._x
