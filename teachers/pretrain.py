"""Pretrain a tiny CLIP on synthetic people: `python -m teachers.pretrain --clip tiny_rn`.

People, seeds and cameras differ from those of every benchmark. The loss terms are cross-entropies
with one learned logit scale:

    caption      the image against captions of its garments, in both directions (CLIP)
    region       each visible part, mask-pooled from the grid cells, against its phrase
    naming       mask-pooled parts against the part words
    cells        grid cells against the part words
    composition  "a photo of a <several phrases> person <part>" against the phrase of that part

The last one prepares the text encoder for part prompts "a photo of a X X X X person <part>"
(Eq. 6). Its phrases are words or soft tokens, the sum of the embeddings of their words, because
learned tokens are soft. This pretraining uses label maps; OpenAI's CLIP does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.console import summary
from pivl_distill.data.part_maps import part_shares
from pivl_distill.data.synthetic.crops import RenderedCrops
from pivl_distill.data.synthetic.people import phrases
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.log_handler import logs_on_stderr
from pivl_distill.models.embedding import normalize_crops
from pivl_distill.training.pretraining import (
    LossTerms,
    Recipe,
    pass_batches,
    pretrain,
    pretraining_options,
    render_training_crops,
)
from teachers.clip import Clip
from teachers.probes import MIN_PIXELS, probe_clip
from teachers.text_encoder import used_token_ids
from teachers.tiny_clip import TINY, WEIGHTS_DIR, build_tiny_clip, save_tiny_clip
from teachers.tiny_vocabulary import vocabulary_texts

TEMPLATES = ("a photo of a {context} person {part}", "a photo of a person wearing {context} {part}")
SOFT_SLOTS = 4
"""Soft tokens of a composition, as many as the default prompt has learned tokens."""


RECIPE = Recipe(
    seed=7_000_001,
    crops=20_000,
    cameras=192,
    passes=5.0,
    batch_size=96,
    learning_rate=2e-3,
    weight_decay=0.02,
    warmup_steps=60,
)
"""How the weights in the repository were trained."""


@dataclass(frozen=True)
class Phrase:
    """The text of a visible part of a crop; `crop` is its index in the batch."""

    crop: int
    part: int
    text: str


class PretrainingLoss:
    """The loss terms of one batch."""

    def __init__(self, clip: Clip, rng: np.random.Generator) -> None:
        self.clip = clip
        self.rng = rng
        self.part_prompts = [f"a photo of a person {word}" for word in LIP20.words]

    def terms(self, crops: RenderedCrops, rows: np.ndarray) -> LossTerms:
        """Return the weighted terms of the crops at `rows` [B]; mirrors half of the batches."""
        images = torch.from_numpy(crops.images[rows])
        maps = torch.from_numpy(crops.labels[rows])
        if self.rng.random() < 0.5:
            images, maps = images.flip(2), torch.from_numpy(LIP20.mirror)[maps.flip(2).long()]
        visible = visible_phrases([crops.people[row] for row in rows], maps.numpy())
        images = normalize_crops(images, self.clip.mean, self.clip.std)
        tokens = self.clip.image.joint_tokens(images.contiguous(memory_format=torch.channels_last))
        projected, cells = tokens[:, 0], tokens[:, 1:]  # [B, D], [B, h·w, D]
        shares = part_shares(maps, self.clip.image.grid_hw, len(LIP20)).flatten(2)  # [B, P, h·w]
        pooled = F.normalize(shares @ cells, dim=-1)
        scale = self.clip.logit_scale.exp().clamp(max=60)

        texts = sorted({phrase.text for phrase in visible})
        prompts = [f"a photo of a person {text}" for text in texts] + self.part_prompts
        encoded = self._encode(prompts)
        phrase_texts, part_texts = encoded[: len(texts)], encoded[len(texts) :]
        target = torch.tensor([texts.index(phrase.text) for phrase in visible])
        where = [phrase.crop for phrase in visible], [phrase.part for phrase in visible]
        region = F.cross_entropy(scale * pooled[where] @ phrase_texts.T, target)
        naming = F.cross_entropy(scale * pooled[where] @ part_texts.T, torch.tensor(where[1]))
        return {
            "caption": self._caption_loss(projected, visible, scale),
            "region": region,
            "naming": 0.5 * naming,
            "cells": 0.5 * self._cell_loss(cells, shares, part_texts, scale),
            "composition": 0.5
            * self._composition_loss(visible, texts, phrase_texts, part_texts, scale),
        }

    def _encode(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(self.clip.text.encode(texts), dim=-1)

    def _caption_loss(self, projected: Tensor, visible: list[Phrase], scale: Tensor) -> Tensor:
        contexts = [
            _subset(self.rng, _garments(visible, crop), least=2, most=6)
            for crop in range(len(projected))
        ]
        texts = self._described(contexts, [""] * len(contexts))
        logits = scale * F.normalize(projected, dim=-1) @ texts.T
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def _cell_loss(
        self, cells: Tensor, shares: Tensor, part_texts: Tensor, scale: Tensor
    ) -> Tensor:
        share, part = shares.max(1)
        some_background = torch.from_numpy(self.rng.random(part.shape) < 0.15)
        chosen = (share > 0.5) & ((part != LIP20.background) | some_background)
        named = F.normalize(cells[chosen], dim=-1) @ part_texts.T
        return F.cross_entropy(scale * named, part[chosen])

    def _composition_loss(
        self,
        visible: list[Phrase],
        texts: list[str],
        phrase_texts: Tensor,
        part_texts: Tensor,
        scale: Tensor,
    ) -> Tensor:
        """Compare a described person and a part with the phrase of that part.

        The target is the part word if the description lacks the phrase.
        """
        count = int(max(phrase.crop for phrase in visible)) + 1
        contexts, parts, targets = [], [], []
        for crop in range(count):
            garments = _garments(visible, crop)
            of_crop = [phrase for phrase in visible if phrase.crop == crop]
            if not garments:
                continue
            asked = of_crop[self.rng.integers(len(of_crop))]
            context = _subset(self.rng, garments, least=1, most=6)
            if self.rng.random() < 0.85 and asked.text not in context:
                context.insert(int(self.rng.integers(len(context) + 1)), asked.text)
            contexts.append(context)
            parts.append(LIP20.words[asked.part])
            known = asked.text in context
            targets.append(texts.index(asked.text) if known else len(texts) + asked.part)
        answers = torch.cat([phrase_texts, part_texts]).detach()
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


def visible_phrases(people: Sequence, maps: np.ndarray) -> list[Phrase]:
    """Return a `Phrase` for each part with at least `MIN_PIXELS` in the label maps [B, H, W]."""
    found = []
    for crop, (person, labels) in enumerate(zip(people, maps, strict=True)):
        pixels = np.bincount(labels.ravel(), minlength=len(LIP20))
        found += [
            Phrase(crop, part, text)
            for part, text in phrases(person).items()
            if pixels[part] >= MIN_PIXELS
        ]
    return found


def _garments(visible: list[Phrase], crop: int) -> list[str]:
    skin = {
        LIP20.index(name) for name in ("Face", "Left-arm", "Right-arm", "Left-leg", "Right-leg")
    }
    of_crop = (phrase for phrase in visible if phrase.crop == crop and phrase.part not in skin)
    return list(dict.fromkeys(phrase.text for phrase in of_crop))


def _subset(rng: np.random.Generator, items: list[str], least: int, most: int) -> list[str]:
    count = min(len(items), int(rng.integers(least, most + 1)))
    return [items[i] for i in rng.permutation(len(items))[:count]]


def train(name: str, recipe: Recipe) -> tuple[Clip, list[int]]:
    """Return a tiny CLIP trained by `recipe`, and the BPE ids of its token table."""
    crops, rng = render_training_crops(recipe)
    token_ids = used_token_ids(vocabulary_texts())
    clip = build_tiny_clip(name, token_ids)
    clip.image.to(memory_format=torch.channels_last)  # more than twice as fast on a CPU
    losses = PretrainingLoss(clip, rng)
    parameters = [*clip.image.parameters(), *clip.text.parameters(), clip.logit_scale]
    pretrain(
        f"Pretraining {name}",
        lambda rows: losses.terms(crops, rows),
        pass_batches(recipe, rng, drop_last=False),
        _make_optimizer(parameters, recipe),
        recipe,
        clipped=parameters,
        log_every=50,
    )
    return clip.freeze(), token_ids


def _make_optimizer(parameters: Sequence[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW with CLIP's betas and weight decay on matrices and kernels only."""
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


@click.command()
@click.option("--clip", "name", type=click.Choice(list(TINY)), default="tiny_rn", show_default=True)
@pretraining_options(RECIPE, WEIGHTS_DIR)
def main(name: str, passes: float, crops: int, out: Path | None) -> None:
    """Pretrain a tiny CLIP on synthetic people, measure it on unseen people, write its weights."""
    recipe = replace(RECIPE, passes=passes, crops=crops)
    clip, token_ids = train(name, recipe)
    measured = probe_clip(clip)
    path = out or WEIGHTS_DIR / f"{name}.safetensors"
    save_tiny_clip(clip, path, token_ids, recipe.metadata(unseen_people=asdict(measured)))
    summary(f"{name} on unseen people", {**asdict(measured), "weights": path})


if __name__ == "__main__":
    with logs_on_stderr():
        main()
