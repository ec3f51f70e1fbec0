"""Learnable prompts: M tokens per identity inside a sentence (Eq. 1) and part prompts (Eq. 6).

The learned tokens are the only parameters; words around them keep CLIP's own embeddings. `concat`
of Eq. 6 appends the part's word before the end-of-text token, or puts it where the template says.

Prompts that begin alike are encoded from there on: the words before the learned tokens once for
all, an identity's learned tokens and the words up to the part once for all of its parts. Which
identities and parts are asked for is told by tensors on the host: they decide shapes, for which it
would have to wait otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import takewhile

import torch
from torch import Tensor, nn

from pivl_distill.config import PromptSettings
from pivl_distill.data.batches import to_device
from pivl_distill.data.vocabulary import Vocabulary
from teachers.prefix_attention import PrefixCache
from teachers.text_encoder import TextEncoder

LEARNED_TOKEN = -1
"""Stands for a learned token among token ids."""


class PromptSegment:
    """A stretch of words with room for learned tokens, in V versions, padded to L tokens."""

    def __init__(self, text: TextEncoder, versions: Sequence[Sequence[int]]) -> None:
        """`versions` are token ids, with `LEARNED_TOKEN` at as many places of each, or at none."""
        device = text.positional_embedding.device
        length = max(map(len, versions))
        ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in versions], device=device)
        with torch.no_grad():
            self.words = text.token_embedding(ids.clamp(min=0))  # [V, L, width]
        places = [
            [at for at, token in enumerate(row) if token == LEARNED_TOKEN] for row in versions
        ]
        self.places = torch.tensor(places, device=device) if any(places) else None
        self.ends = torch.tensor([len(row) - 1 for row in versions], device="cpu")

    def __call__(self, version: Tensor, tokens: Tensor) -> Tensor:
        """Embeddings [B, L, width] of versions [B] with tokens [B, M, width] put in.

        All on the device.
        """
        words = self.words.index_select(0, version)
        if self.places is None:
            return words
        row = torch.arange(len(words), device=words.device)[:, None]
        return words.index_put((row, self.places.index_select(0, version)), tokens)


class PromptTemplate:
    """A template around M learned tokens, in one version for each filling of {part}.

    Split where its versions cease to be alike: `opening` are words alone, the same for everyone;
    `stem` has the learned tokens, the same for all parts of an identity; `branch` is the rest.
    """

    def __init__(
        self, text: TextEncoder, template: str, fillings: Sequence[str], learned: int
    ) -> None:
        """`template` holds {X} once and, where `fillings` differ, {part}."""
        before, after = (
            [text.tokenizer.encode(half.format(part=part)) for part in fillings]
            for half in template.split("{X}")
        )
        room, start, end = [LEARNED_TOKEN] * learned, text.tokenizer.start, text.tokenizer.end
        versions = [[start, *b, *room, *a, end] for b, a in zip(before, after, strict=True)]
        self.longest = max(map(len, versions))
        text.require_room(self.longest)
        common = _common_prefix([version[:-1] for version in versions])
        opening = list(takewhile(lambda token: token != LEARNED_TOKEN, common))
        shared = len(common) if len(versions) > 1 else len(opening)
        # Learned tokens are all in the stem or all in the branches.
        stem = common[len(opening) : shared]
        self._opening = opening
        self.stem = PromptSegment(text, [stem]) if stem else None
        self.branch = PromptSegment(text, [version[shared:] for version in versions])
        self._text = text

    @cached_property
    def opening(self) -> PrefixCache:
        """What the words before everything learned leave to later ones."""
        device = self._text.positional_embedding.device
        with torch.no_grad():
            return self._text.prefix(
                self._text.token_embedding(torch.tensor([self._opening], device=device))
            )

    def encode(self, tokens: Tensor, rows: Tensor, version: Tensor) -> Tensor:
        """Features [U, D] of `version` [U] of identities `rows` [U], tokens [C, M, width].

        The first two are on the host.
        """

        def there(values: Tensor) -> Tensor:
            return to_device(values, tokens.device)

        prefix = self.opening
        if self.stem is not None:
            own, row_of = rows.unique(return_inverse=True)
            stem = self.stem(there(torch.zeros_like(own)), tokens.index_select(0, there(own)))
            prefix = self._text.prefix(stem, prefix).of(there(row_of))
        branch = self.branch(there(version), tokens.index_select(0, there(rows)))
        features: Tensor = self._text(branch, self.branch.ends[version], prefix)
        return features


def _common_prefix(versions: Sequence[Sequence[int]]) -> list[int]:
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*versions, strict=False))
    return [tokens[0] for tokens in alike]


class IdentityPrompts(nn.Module):
    """Learned tokens of C identities, read through a frozen text encoder."""

    def __init__(
        self,
        text: TextEncoder,
        settings: PromptSettings,
        identities: int,
        vocabulary: Vocabulary,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        learned = settings.learned_tokens
        shape = (identities, learned, text.width)
        self.tokens = nn.Parameter(torch.randn(shape, generator=generator) * settings.init_std)
        self._identity_sentence = PromptTemplate(text, settings.identity, [""], learned)
        self._part_sentence = PromptTemplate(
            text, settings.part, vocabulary.prompt_words(settings.part_words), learned
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt, with start and end."""
        return max(self._identity_sentence.longest, self._part_sentence.longest)

    def identity(self, rows: Tensor) -> Tensor:
        """Identity texts [U, D] (Eq. 1) of identities `rows` [U], which are on the host."""
        return self._identity_sentence.encode(self.tokens, rows, torch.zeros_like(rows))

    def part(self, rows: Tensor, parts: Tensor) -> Tensor:
        """Part texts [U, D] (Eq. 6) of identities `rows` [U] and part ids `parts` [U], likewise."""
        return self._part_sentence.encode(self.tokens, rows, parts)
