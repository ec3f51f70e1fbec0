"""Learnable prompts: M tokens per identity inside a sentence (Eq. 1) and part prompts (Eq. 6).

The learned tokens are the only parameters; words around them keep CLIP's own embeddings. `concat`
of Eq. 6 appends the part's word before the end-of-text token, or puts it where the template says.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pivl_distill.config import PromptSettings
from pivl_distill.data.vocabulary import Vocabulary
from teachers.text import TextTower


class Sentence:
    """A template with room for M learned tokens, in one version for each filling of {part}."""

    def __init__(
        self, text: TextTower, template: str, fillings: Sequence[str], learned_tokens: int
    ) -> None:
        """`template` holds {X} once and, where `fillings` differ, {part}, in any order."""
        ids, device = text.tokenizer, text.positional_embedding.device
        before, after = template.split("{X}")
        heads = [[ids.start, *ids.encode(before.format(part=part))] for part in fillings]
        tails = [[*ids.encode(after.format(part=part)), ids.end] for part in fillings]
        room = [0] * learned_tokens
        sentences = [[*head, *room, *tail] for head, tail in zip(heads, tails, strict=True)]
        longest = max(map(len, sentences))
        padded = [sentence + [0] * (longest - len(sentence)) for sentence in sentences]
        with torch.no_grad():
            self.embedded = text.token_embedding(torch.tensor(padded, device=device))
        first = torch.tensor([len(head) for head in heads], device=device)
        self.places = first[:, None] + torch.arange(learned_tokens, device=device)
        self.ends = torch.tensor([len(sentence) - 1 for sentence in sentences], device=device)

    def __call__(self, tokens: Tensor, filling: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, M, width] and the filling of each [B] → embeddings and end positions."""
        row = torch.arange(len(tokens), device=tokens.device)[:, None]
        places = (row, self.places[filling])
        embeddings = self.embedded[filling].index_put(places, tokens)
        return embeddings, self.ends[filling]


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
        tokens = settings.learned_tokens
        self._identity_sentence = Sentence(text, settings.identity, [""], tokens)
        self._part_sentence = Sentence(text, settings.part, vocabulary.words, tokens)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt, with start and end."""
        sentences = (self._identity_sentence, self._part_sentence)
        return max(sentence.embedded.shape[1] for sentence in sentences)

    def identity(self, rows: Tensor) -> Tensor:
        """Identity texts [U, D] of identities `rows` [U] (Eq. 1)."""
        return self._encode(self._identity_sentence, rows, torch.zeros_like(rows))

    def part(self, rows: Tensor, parts: Tensor) -> Tensor:
        """Part texts [U, D] of identities `rows` [U] and part ids `parts` [U] (Eq. 6)."""
        return self._encode(self._part_sentence, rows, parts)

    def _encode(self, sentence: Sentence, rows: Tensor, filling: Tensor) -> Tensor:
        (text,) = self._text
        features: Tensor = text(*sentence(self.tokens[rows], filling))
        return features
