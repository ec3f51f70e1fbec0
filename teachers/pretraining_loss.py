"""The loss terms that pretrain a tiny CLIP on crops with part maps and words about people.

They are cross-entropies with one learned logit scale:

    caption      the image against captions of its phrases, in both directions (CLIP)
    region       each visible part, mask-pooled from the grid cells, against its phrase
    naming       mask-pooled parts against the part words
    cells        grid cells against the part words
    composition  "a photo of a <several phrases> person <part>" against the phrase of that part

The last one prepares the text encoder for part prompts "a photo of a X X X X person <part>"
(Eq. 6). Its phrases are words or soft tokens, the sum of the embeddings of their words, because
learned tokens are soft. A caption is true of every crop in the batch that all of its phrases
describe, and all of them are its targets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.data.part_maps import part_shares
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.models.embedding import normalize_crops
from pivl_distill.training.pretraining import LossTerms
from teachers.clip import Clip

TEMPLATES = ("a photo of a {context} person {part}", "a photo of a person wearing {context} {part}")
SOFT_SLOTS = 4
"""Soft tokens of a composition, as many as the default prompt has learned tokens."""

MIN_PIXELS = 6
"""Pixels from which a part is visible."""


@dataclass(frozen=True)
class DescribedCrops:
    """N crops with part maps, and phrases about the person on each of them."""

    images: np.ndarray
    """uint8 RGB [N, H, W, 3]."""
    maps: np.ndarray
    """uint8 [N, H, W] class ids of `vocabulary`."""
    vocabulary: Vocabulary
    phrases: Sequence[Mapping[int, str]]
    """Of each crop: class id → phrase of that part. Only visible parts are used."""
    traits: Sequence[Sequence[str]]
    """Of each crop: phrases about the whole person, for captions only."""
    uncaptioned: Collection[int] = ()
    """Parts whose phrases no caption contains."""


@dataclass(frozen=True)
class Phrase:
    """The text of a visible part of a crop; `crop` is its index in the batch."""

    crop: int
    part: int
    text: str


class PretrainingLoss:
    """The loss terms of one batch."""

    def __init__(self, clip: Clip, crops: DescribedCrops, rng: np.random.Generator) -> None:
        self.clip = clip
        self.crops = crops
        self.rng = rng
        self.part_prompts = [f"a photo of a person {word}" for word in crops.vocabulary.words]

    def terms(self, rows: np.ndarray) -> LossTerms:
        """Return the weighted terms of the crops at `rows` [B]; mirrors half of the batches."""
        vocabulary = self.crops.vocabulary
        images = torch.from_numpy(self.crops.images[rows])
        maps = torch.from_numpy(self.crops.maps[rows])
        if self.rng.random() < 0.5:
            images, maps = images.flip(2), torch.from_numpy(vocabulary.mirror)[maps.flip(2).long()]
        visible = visible_phrases([self.crops.phrases[row] for row in rows], maps.numpy())
        words = self._caption_words(rows, visible)
        images = normalize_crops(images, self.clip.mean, self.clip.std)
        tokens = self.clip.image.joint_tokens(images.contiguous(memory_format=torch.channels_last))
        projected, cells = tokens[:, 0], tokens[:, 1:]  # [B, D], [B, h·w, D]
        shares = part_shares(maps, self.clip.image.grid_hw, len(vocabulary)).flatten(2)
        pooled = F.normalize(shares @ cells, dim=-1)  # [B, P, D]
        scale = self.clip.logit_scale.exp().clamp(max=60)

        texts = sorted({phrase.text for phrase in visible})
        prompts = [f"a photo of a person {text}" for text in texts] + self.part_prompts
        encoded = self._encode(prompts)
        phrase_texts, part_texts = encoded[: len(texts)], encoded[len(texts) :]
        target = torch.tensor([texts.index(phrase.text) for phrase in visible])
        where = [phrase.crop for phrase in visible], [phrase.part for phrase in visible]
        region = F.cross_entropy(scale * pooled[where] @ phrase_texts.T, target)
        naming = F.cross_entropy(scale * pooled[where] @ part_texts.T, torch.tensor(where[1]))
        answers = torch.cat([phrase_texts, part_texts]).detach()
        return {
            "caption": self._caption_loss(projected, words, scale),
            "region": region,
            "naming": 0.5 * naming,
            "cells": 0.5 * self._cell_loss(cells, shares, part_texts, scale),
            "composition": 0.5 * self._composition_loss(visible, words, texts, answers, scale),
        }

    def _caption_words(self, rows: np.ndarray, visible: list[Phrase]) -> list[list[str]]:
        """Return the phrases that a caption of each crop may contain, each once."""
        words: list[list[str]] = [list(self.crops.traits[row]) for row in rows]
        for phrase in visible:
            if phrase.part not in self.crops.uncaptioned:
                words[phrase.crop].append(phrase.text)
        return [list(dict.fromkeys(of_crop)) for of_crop in words]

    def _encode(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(self.clip.text.encode(texts), dim=-1)

    def _caption_loss(self, projected: Tensor, words: list[list[str]], scale: Tensor) -> Tensor:
        contexts = [_subset(self.rng, of_crop, least=2, most=6) for of_crop in words]
        texts = self._described(contexts, [""] * len(contexts))
        logits = scale * F.normalize(projected, dim=-1) @ texts.T
        true = true_captions(words, contexts).float()
        return (
            F.cross_entropy(logits, true / true.sum(1, keepdim=True))
            + F.cross_entropy(logits.T, (true / true.sum(0)).T)
        ) / 2

    def _cell_loss(
        self, cells: Tensor, shares: Tensor, part_texts: Tensor, scale: Tensor
    ) -> Tensor:
        share, part = shares.max(1)
        some_background = torch.from_numpy(self.rng.random(part.shape) < 0.15)
        is_part = part != self.crops.vocabulary.background
        chosen = (share > 0.5) & (is_part | some_background)
        named = F.normalize(cells[chosen], dim=-1) @ part_texts.T
        return F.cross_entropy(scale * named, part[chosen])

    def _composition_loss(
        self,
        visible: list[Phrase],
        words: list[list[str]],
        texts: list[str],
        answers: Tensor,
        scale: Tensor,
    ) -> Tensor:
        """Compare a described person and a part with the phrase of that part.

        The target is the part word if the description lacks the phrase. `answers` are the features
        of `texts` and then of the part words.
        """
        contexts, parts, targets = [], [], []
        for crop, of_caption in enumerate(words):
            of_crop = [phrase for phrase in visible if phrase.crop == crop]
            if not of_caption or not of_crop:
                continue
            asked = of_crop[self.rng.integers(len(of_crop))]
            context = _subset(self.rng, of_caption, least=1, most=6)
            if self.rng.random() < 0.85 and asked.text not in context:
                context.insert(int(self.rng.integers(len(context) + 1)), asked.text)
            contexts.append(context)
            parts.append(self.crops.vocabulary.words[asked.part])
            known = asked.text in context
            targets.append(texts.index(asked.text) if known else len(texts) + asked.part)
        composed = self._described(contexts, parts)
        target = torch.tensor(targets)
        pull = (2 - 2 * (composed * answers[target]).sum(-1)).mean()
        return F.cross_entropy(scale * composed @ answers.T, target) + pull

    def _described(self, contexts: list[list[str]], parts: list[str]) -> Tensor:
        """Return unit features [B, D] of people described by phrases, with a part word or "".

        The phrases are words or, at random in half of the calls, soft tokens.
        """
        if self.rng.random() < 0.5:
            joiner = ", " if self.rng.random() < 0.5 else " "
            template = str(self.rng.choice(TEMPLATES))
            return self._encode(
                [
                    template.format(context=joiner.join(context), part=part).strip()
                    for context, part in zip(contexts, parts, strict=True)
                ]
            )
        return self._soft(contexts, parts)

    def _soft(self, contexts: list[list[str]], parts: list[str]) -> Tensor:
        """As `_described`, with the token embeddings of each phrase summed into a soft token."""
        text = self.clip.text
        slots = " ".join(["X"] * SOFT_SLOTS)
        ids, ends = text.tokenizer([f"a photo of a {slots} person {part}" for part in parts])
        owners, places, tokens = [], [], []
        for row, context in enumerate(contexts):
            for number, phrase in enumerate(context):
                for token in text.tokenizer.encode(phrase):
                    owners.append(row)
                    places.append(number % SOFT_SLOTS)
                    tokens.append(token)
        soft = torch.zeros(len(contexts), SOFT_SLOTS, text.width).index_put(
            (torch.tensor(owners), torch.tensor(places)),
            text.token_embedding(torch.tensor(tokens)),
            accumulate=True,
        )
        first = int((ids[0] == text.tokenizer.encode("X")[0]).nonzero()[0])
        words = text.token_embedding(ids)
        prompt = torch.cat([words[:, :first], soft, words[:, first + SOFT_SLOTS :]], dim=1)
        return F.normalize(text(prompt, ends), dim=-1)


def visible_phrases(phrases: Sequence[Mapping[int, str]], maps: np.ndarray) -> list[Phrase]:
    """Return a `Phrase` for each part with at least `MIN_PIXELS` in the label maps [B, H, W]."""
    found = []
    for crop, (of_crop, labels) in enumerate(zip(phrases, maps, strict=True)):
        pixels = np.bincount(labels.ravel(), minlength=256)
        found += [
            Phrase(crop, part, text) for part, text in of_crop.items() if pixels[part] >= MIN_PIXELS
        ]
    return found


def true_captions(words: list[list[str]], captions: list[list[str]]) -> Tensor:
    """Return bool [B, B]: whether all phrases of a caption (column) are `words` of a crop (row)."""
    known = [frozenset(of_crop) for of_crop in words]
    return torch.tensor(
        [[of_crop.issuperset(caption) for caption in captions] for of_crop in known]
    )


def _subset(rng: np.random.Generator, items: list[str], least: int, most: int) -> list[str]:
    count = min(len(items), int(rng.integers(least, most + 1)))
    return [items[i] for i in rng.permutation(len(items))[:count]]
