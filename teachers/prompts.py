"""Learnable prompts: M tokens per identity inside a sentence (Eq. 1) and part prompts (Eq. 6).

The learned tokens are the only parameters; words around them keep CLIP's own embeddings. `concat`
of Eq. 6 appends the part's word before the end-of-text token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pivl_distill.config import PromptSettings
from pivl_distill.data.vocabulary import Vocabulary
from teachers.text import TextTower


class Sentence:
    """A template around the learned tokens, for one or several endings."""

    def __init__(self, text: TextTower, template: str, fillings: Sequence[str]) -> None:
        """`template` holds {X} once and, where `fillings` differ, {part} after it."""
        before, after = template.split("{X}")
        ids = text.tokenizer
        prefix = torch.tensor([ids.start, *ids.encode(before)])
        suffixes = [[*ids.encode(after.format(part=part)), ids.end] for part in fillings]
        longest = max(map(len, suffixes))
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in suffixes])
        device = text.positional_embedding.device
        with torch.no_grad():
            self.prefix = text.token_embedding(prefix.to(device))  # [L1, width]
            self.suffix = text.token_embedding(padded.to(device))  # [endings, L2, width]
        self.suffix_length = torch.tensor([len(row) for row in suffixes], device=device)

    def __call__(self, tokens: Tensor, ending: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, M, width] and the ending of each [B] → embeddings and end positions."""
        prefix = self.prefix.expand(len(tokens), -1, -1)
        embeddings = torch.cat([prefix, tokens, self.suffix[ending]], dim=1)
        ends = len(self.prefix) + tokens.shape[1] + self.suffix_length[ending] - 1
        return embeddings, ends


class IdentityPrompts(nn.Module):
    """Learned tokens of C identities, read through a frozen text tower."""

    def __init__(
        self,
        text: TextTower,
        settings: PromptSettings,
        identities: int,
        vocabulary: Vocabulary,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        shape = (identities, settings.learned_tokens, text.width)
        self.tokens = nn.Parameter(torch.randn(shape, generator=generator) * settings.init_std)
        self._text = [text]  # in a list: frozen, hence no part of this module's parameters
        self._identity_sentence = Sentence(text, settings.identity, [""])
        self._part_sentence = Sentence(text, settings.part, vocabulary.words)

    def identity(self, rows: Tensor) -> Tensor:
        """Identity texts [U, D] of identities `rows` [U] (Eq. 1)."""
        return self._encode(self._identity_sentence, rows, torch.zeros_like(rows))

    def part(self, rows: Tensor, parts: Tensor) -> Tensor:
        """Part texts [U, D] of identities `rows` [U] and part ids `parts` [U] (Eq. 6)."""
        return self._encode(self._part_sentence, rows, parts)

    def _encode(self, sentence: Sentence, rows: Tensor, ending: Tensor) -> Tensor:
        (text,) = self._text
        features: Tensor = text(*sentence(self.tokens[rows], ending))
        return features
