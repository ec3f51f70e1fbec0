"""The CLIP text encoder as prompt learning needs it: from token embeddings to features, exactly.

CLIP's text transformer is causal and read at the end-of-text token. Whatever follows that token
cannot change the feature, so no padding is ever encoded; and prompts that begin alike share the
work of their beginning (`prefix_attention.py`). Features and gradients equal those of encoding 77
tokens per prompt, at a fraction of the cost.

The embedded tiny CLIP keeps CLIP's own BPE tokenizer but only the rows of its token table that
captions of synthetic people can reach; `Tokenizer` hides the difference.
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
"""Row of a reduced token table that stands for every token it does not hold."""


class Tokenizer:
    """CLIP's byte-pair tokenizer, optionally onto a reduced token table.

    `rows` lists the BPE ids that the table holds, ascending, from row 1 on; the end-of-text id is
    CLIP's largest, hence its row is the last one and CLIP's own arg-max read-out still finds it.
    """

    def __init__(self, rows: Sequence[int] | None = None) -> None:
        self._bpe = SimpleTokenizer()
        self._row = None if rows is None else {bpe: row for row, bpe in enumerate(rows, start=1)}
        self.start = self._to_row(self._bpe.sot_token_id)
        self.end = self._to_row(self._bpe.eot_token_id)

    def _to_row(self, bpe: int) -> int:
        return bpe if self._row is None else self._row.get(bpe, UNKNOWN_ROW)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without start and end."""
        return [self._to_row(bpe) for bpe in self._bpe.encode(text)]

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids [B, L] with start and end, zero-padded to the longest, and end positions [B].

        Both on the host.
        """
        ids = [[self.start, *self.encode(text), self.end] for text in texts]
        length = max(map(len, ids))
        padded = torch.tensor([row + [0] * (length - len(row)) for row in ids], device="cpu")
        return padded, torch.tensor([len(row) - 1 for row in ids], device="cpu")


def used_token_ids(texts: Sequence[str]) -> list[int]:
    """The BPE ids that `texts` use, with start and end, ascending: a reduced token table."""
    bpe = SimpleTokenizer()
    used = {token for text in texts for token in bpe.encode(text)}
    return sorted(used | {bpe.sot_token_id, bpe.eot_token_id})


class TextEncoder(nn.Module):
    """The text half of an open_clip `CLIP`; D is the joint dimension, `width` the token width.

    PivlError if its transformer is not CLIP's own kind.
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
        """Features [B, D] of prompts given as token embeddings [B, L, width], read at `ends` [B].

        `ends` are on the host, for they decide how much is computed.
        With a `prefix`, of the B prompts or of all, they are what follows it and `ends` count from
        there. Tokens behind a prompt's end may hold anything. Not normalised, as CLIP's.
        """
        embeddings = embeddings[:, : int(ends.max()) + 1]
        x = encode_after_prefix(
            self.transformer.resblocks, self._placed(embeddings, prefix), ends + 1, prefix
        )
        return self.ln_final(x) @ self.text_projection

    def prefix(self, embeddings: Tensor, before: PrefixCache | None = None) -> PrefixCache:
        """What B prompts that begin with embeddings [B, L, width] share, for `forward`."""
        return extend_prefix(self.transformer.resblocks, self._placed(embeddings, before), before)

    def _placed(self, embeddings: Tensor, before: PrefixCache | None) -> Tensor:
        start = 0 if before is None else len(before)
        end = start + embeddings.shape[1]
        self.require_room(end)
        return embeddings + self.positional_embedding[start:end]

    def require_room(self, length: int) -> None:
        """PivlError unless a prompt of `length` tokens can be read."""
        if length > self.context_length:
            raise PivlError(
                f"A prompt has {length} tokens but this CLIP reads at most {self.context_length};"
                " shorten the template or the number of learned tokens."
            )

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Features [B, D] of plain texts."""
        ids, ends = self.tokenizer(texts)
        device = self.positional_embedding.device
        return self(self.token_embedding(ids.to(device)), ends)
