"""CLIP's text encoder from token embeddings to features, without padding.

The text transformer is causal, and the feature is read at the end-of-text token. Later tokens
cannot change it, so padding is not encoded, and prompts with a common prefix share its keys and
values (`prefix_attention.py`). Features and gradients equal those of encoding 77 tokens per prompt.

A tiny CLIP uses CLIP's BPE tokenizer with a reduced token table; `Tokenizer` maps the ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from pivl_distill.errors import PivlError
from teachers.prefix_attention import (
    PrefixCache,
    encode_after_prefix,
    extend_prefix,
    require_known_blocks,
)

UNKNOWN_ROW = 0
"""Row of a reduced token table for all tokens that it lacks."""


class Tokenizer:
    """CLIP's byte-pair tokenizer, optionally for a reduced token table.

    `rows` lists the BPE ids in the table, ascending, from row 1 on. The end-of-text id is the
    largest, so its row is the last one, where open_clip's arg-max finds it.
    """

    def __init__(self, rows: Sequence[int] | None = None) -> None:
        self._bpe = SimpleTokenizer()
        self._row = None if rows is None else {bpe: row for row, bpe in enumerate(rows, start=1)}
        self.start = self._to_row(self._bpe.sot_token_id)
        self.end = self._to_row(self._bpe.eot_token_id)

    def _to_row(self, bpe: int) -> int:
        return bpe if self._row is None else self._row.get(bpe, UNKNOWN_ROW)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, without start and end."""
        return [self._to_row(bpe) for bpe in self._bpe.encode(text)]

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids [B, L] with start and end, zero-padded, and end positions [B]; on the CPU."""
        ids = [[self.start, *self.encode(text), self.end] for text in texts]
        length = max(map(len, ids))
        padded = torch.tensor([row + [0] * (length - len(row)) for row in ids], device="cpu")
        return padded, torch.tensor([len(row) - 1 for row in ids], device="cpu")


def used_token_ids(texts: Sequence[str]) -> list[int]:
    """Return the BPE ids in `texts`, with start and end, ascending: a reduced token table."""
    bpe = SimpleTokenizer()
    used = {token for text in texts for token in bpe.encode(text)}
    return sorted(used | {bpe.sot_token_id, bpe.eot_token_id})


class TextEncoder(nn.Module):
    """The text encoder of an open_clip `CLIP`; `dim` is D, `width` that of token embeddings.

    Raises PivlError if its transformer is not CLIP's own.
    """

    def __init__(self, clip: CLIP, tokenizer: Tokenizer) -> None:
        super().__init__()
        require_known_blocks(clip.transformer)
        self.tokenizer = tokenizer
        self.token_embedding = clip.token_embedding
        self.positional_embedding = clip.positional_embedding
        self.transformer = clip.transformer
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection
        self.context_length: int = clip.context_length
        self.width: int = clip.positional_embedding.shape[1]
        self.dim: int = clip.text_projection.shape[1]

    def forward(
        self, embeddings: Tensor, ends: Tensor, prefix: PrefixCache | None = None
    ) -> Tensor:
        """Return features [B, D], not normalised, of token embeddings [B, L, width].

        `ends` [B], on the CPU, are the positions of the end-of-text tokens; later tokens are
        ignored. With a `prefix`, the embeddings follow it and `ends` count from its end.
        """
        embeddings = embeddings[:, : int(ends.max()) + 1]
        x = encode_after_prefix(
            self.transformer.resblocks, self._add_positions(embeddings, prefix), ends + 1, prefix
        )
        return self.ln_final(x) @ self.text_projection

    def prefix(self, embeddings: Tensor, before: PrefixCache | None = None) -> PrefixCache:
        """Return the cache of prompts that start with embeddings [B, L, width], for `forward`."""
        return extend_prefix(
            self.transformer.resblocks, self._add_positions(embeddings, before), before
        )

    def _add_positions(self, embeddings: Tensor, before: PrefixCache | None) -> Tensor:
        start = 0 if before is None else len(before)
        end = start + embeddings.shape[1]
        self.require_length(end)
        return embeddings + self.positional_embedding[start:end]

    def require_length(self, length: int) -> None:
        """Raise PivlError if a prompt of `length` tokens exceeds the context length."""
        if length > self.context_length:
            raise PivlError(
                f"A prompt has {length} tokens but this CLIP reads at most {self.context_length};"
                " shorten the template or the number of learned tokens."
            )

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return features [B, D] of plain texts."""
        ids, ends = self.tokenizer(texts)
        device = self.positional_embedding.device
        return self(self.token_embedding(ids.to(device)), ends)
