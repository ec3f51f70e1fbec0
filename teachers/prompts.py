"""Learnable prompts: M tokens per identity in an identity prompt (Eq. 1) and part prompts (Eq. 6).

The learned tokens are the only parameters; words keep CLIP's token embeddings. `concat` of Eq. 6
inserts the part word where the template has {part}, by default before the end-of-text token.

Common prefixes are encoded once: the words before the learned tokens for all prompts, and the
tokens of an identity up to the part word for all of its parts. Identity and part indices are on the
CPU, because shapes depend on them and reading them from the device would synchronise.
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
"""Placeholder of a learned token among token ids."""


class PromptSegment:
    """Consecutive prompt tokens with placeholders for learned ones, in V variants of up to L."""

    def __init__(self, text: TextEncoder, variants: Sequence[Sequence[int]]) -> None:
        """`variants` are token ids with the same number of `LEARNED_TOKEN` each, possibly none."""
        device = text.positional_embedding.device
        length = max(map(len, variants))
        ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in variants], device=device)
        with torch.no_grad():
            self.words = text.token_embedding(ids.clamp(min=0))  # [V, L, width]
        positions = [
            [at for at, token in enumerate(row) if token == LEARNED_TOKEN] for row in variants
        ]
        self.positions = torch.tensor(positions, device=device) if any(positions) else None
        self.ends = torch.tensor([len(row) - 1 for row in variants], device="cpu")

    def __call__(self, variant: Tensor, tokens: Tensor) -> Tensor:
        """Return embeddings [B, L, width] of variants [B] with learned tokens [B, M, width].

        All tensors are on the device.
        """
        words = self.words.index_select(0, variant)
        if self.positions is None:
            return words
        row = torch.arange(len(words), device=words.device)[:, None]
        return words.index_put((row, self.positions.index_select(0, variant)), tokens)


class PromptTemplate:
    """A prompt with M learned tokens, in one variant per value of {part}.

    Encoded in three segments: `fixed_prefix`, words that all prompts share; `shared`, tokens that
    all parts of an identity share, with the learned tokens; `remaining`, which depends on the part.
    """

    def __init__(
        self, text: TextEncoder, template: str, parts: Sequence[str], learned: int
    ) -> None:
        """`template` contains {X} once and, if `parts` differ, {part}; M is `learned`."""
        before, after = (
            [text.tokenizer.encode(half.format(part=part)) for part in parts]
            for half in template.split("{X}")
        )
        start, end = text.tokenizer.start, text.tokenizer.end
        variants = [
            [start, *first, *[LEARNED_TOKEN] * learned, *second, end]
            for first, second in zip(before, after, strict=True)
        ]
        self.longest = max(map(len, variants))
        text.require_length(self.longest)
        common = _common_prefix([variant[:-1] for variant in variants])
        fixed = list(takewhile(lambda token: token != LEARNED_TOKEN, common))
        split = len(common) if len(variants) > 1 else len(fixed)
        # Learned tokens are either all in `shared` or all in `remaining`.
        shared = common[len(fixed) : split]
        self._fixed_ids = fixed
        self.shared = PromptSegment(text, [shared]) if shared else None
        self.remaining = PromptSegment(text, [variant[split:] for variant in variants])
        self._text = text

    @cached_property
    def fixed_prefix(self) -> PrefixCache:
        """Cache of the words before the first learned token."""
        device = self._text.positional_embedding.device
        with torch.no_grad():
            ids = torch.tensor([self._fixed_ids], device=device)
            return self._text.prefix(self._text.token_embedding(ids))

    def encode(self, tokens: Tensor, rows: Tensor, variant: Tensor) -> Tensor:
        """Return features [U, D] of variants [U] of identities `rows` [U]; both on the CPU.

        `tokens` [C, M, width] are the learned tokens of all identities.
        """

        def on_device(values: Tensor) -> Tensor:
            return to_device(values, tokens.device)

        prefix = self.fixed_prefix
        if self.shared is not None:
            identities, index = rows.unique(return_inverse=True)
            learned = tokens.index_select(0, on_device(identities))
            shared = self.shared(on_device(torch.zeros_like(identities)), learned)
            prefix = self._text.prefix(shared, prefix).select(on_device(index))
        remaining = self.remaining(on_device(variant), tokens.index_select(0, on_device(rows)))
        features: Tensor = self._text(remaining, self.remaining.ends[variant], prefix)
        return features


def _common_prefix(variants: Sequence[Sequence[int]]) -> list[int]:
    equal = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*variants, strict=False))
    return [tokens[0] for tokens in equal]


class IdentityPrompts(nn.Module):
    """Learned tokens of C identities, encoded by a frozen text encoder."""

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
        self._identity_template = PromptTemplate(text, settings.identity, [""], learned)
        self._part_template = PromptTemplate(
            text, settings.part, vocabulary.prompt_words(settings.part_words), learned
        )

    @property
    def longest(self) -> int:
        """Tokens in the longest prompt, with start and end."""
        return max(self._identity_template.longest, self._part_template.longest)

    def identity(self, rows: Tensor) -> Tensor:
        """Return identity texts [U, D] (Eq. 1) of identities `rows` [U], on the CPU."""
        return self._identity_template.encode(self.tokens, rows, torch.zeros_like(rows))

    def part(self, rows: Tensor, parts: Tensor) -> Tensor:
        """Return part texts [U, D] (Eq. 6) of identities `rows`, part ids `parts` [U], on CPU."""
        return self._part_template.encode(self.tokens, rows, parts)
