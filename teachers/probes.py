"""Probes of a CLIP and of a prompt bank: nearest-text classification of features and texts.

A bank can retrieve identities perfectly while its part texts carry no information. The colours of
synthetic people are known, so the nearest colour text shows what a part text encodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.bank import PromptBank
from pivl_distill.console import track
from pivl_distill.data.part_maps import part_shares
from pivl_distill.data.synthetic.crops import render_crops
from pivl_distill.data.synthetic.people import COLOURS, attributes, full_caption
from pivl_distill.data.vocabulary import LIP20, Vocabulary
from pivl_distill.models.embedding import normalize_crops
from pivl_distill.training.pretraining import UNSEEN_CAMERAS, UNSEEN_PEOPLE, UNSEEN_SEED
from teachers.clip import Clip
from teachers.pretraining_loss import MIN_PIXELS
from teachers.text_encoder import TextEncoder

COLOUR_PROMPTS = {
    "hat": ("Hat", "{} hat"),
    "shoes": ("Left-shoe", "{} shoes"),
    "socks": ("Socks", "{} socks"),
    "pants": ("Pants", "{} pants"),
    "coat": ("Coat", "{} coat"),
    "upper": ("Upper-clothes", "{} shirt"),
    "scarf": ("Scarf", "{} scarf"),
}
"""Attribute → its part label and the text of its colour."""


@dataclass(frozen=True)
class ClipProbe:
    """Accuracies (0 to 1) of a tiny CLIP on unseen people under unseen cameras."""

    people: int
    colour: dict[str, float]
    """Attribute → accuracy of the nearest of 14 colours to the mask-pooled part."""
    part_naming: float
    """20-way accuracy of the nearest part word to the mask-pooled part."""
    caption_rank1: float
    """Rank-1 of images against all captions; a caption names every visible garment."""


@dataclass(frozen=True)
class BankProbe:
    """Accuracies (0 to 1) of a prompt bank, and how far its texts differ between identities.

    Banks of earlier versions lack the cosines, which are then None.
    """

    own_identity: float
    """Crops whose nearest identity text is that of their identity."""
    nearest_label: float | None
    """Present part texts whose nearest label text is their own; None in a bank without any."""
    colour: dict[str, float] | None
    """Attribute → accuracy of the nearest colour to the part text; None if colours are unknown
    or the parts are not LIP's."""
    identity_cosine: float | None = None
    """Mean cosine between the identity texts of two identities; see `text_cosines`."""
    identity_cosine_centred: float | None = None
    """Root mean square of these cosines after the mean text is subtracted."""
    part_cosine: dict[str, float] | None = None
    """Part → mean cosine between its texts of two identities. Near 1 a part text is mostly what
    all identities share, and says little about the person."""
    part_cosine_centred: dict[str, float] | None = None
    """Part → root mean square of these cosines after the part's mean text is subtracted."""


@dataclass(frozen=True)
class PartFeatures:
    """Features of N crops in the joint space."""

    projected: Tensor
    """[N, D], unit length."""
    parts: Tensor
    """[N, P, D]: mask-pooled grid cells, unit length."""
    visible: Tensor
    """bool [N, P]: parts with at least `MIN_PIXELS`."""


@torch.inference_mode()
def encode_parts(
    clip: Clip, images: np.ndarray, maps: np.ndarray, vocabulary: Vocabulary
) -> PartFeatures:
    """Encode crops uint8 [N, H, W, 3] and pool them over part maps uint8 [N, H, W]."""
    projected, pooled, visible = [], [], []
    for start in track(range(0, len(images), 100), "Measuring on unseen people", unit="batches"):
        crops = torch.from_numpy(images[start : start + 100])
        labels = torch.from_numpy(maps[start : start + 100])
        tokens = clip.image.joint_tokens(normalize_crops(crops, clip.mean, clip.std))
        shares = part_shares(labels, clip.image.grid_hw, len(vocabulary)).flatten(2)
        projected.append(tokens[:, 0])
        pooled.append(shares @ tokens[:, 1:])
        classes = torch.arange(len(vocabulary))[:, None, None]
        visible.append((labels[:, None] == classes).sum((2, 3)) >= MIN_PIXELS)
    return PartFeatures(
        F.normalize(torch.cat(projected), dim=-1),
        F.normalize(torch.cat(pooled), dim=-1),
        torch.cat(visible),
    )


@torch.inference_mode()
def part_naming(features: PartFeatures, text: TextEncoder, vocabulary: Vocabulary) -> float:
    """Return the share of visible parts whose nearest part word is their own."""
    words = text.encode([f"a photo of a person {word}" for word in vocabulary.words])
    nearest = (features.parts @ F.normalize(words, dim=-1).T).argmax(-1)
    right = nearest == torch.arange(len(vocabulary))
    return right[features.visible].float().mean().item()


def classify_colours(
    features: Tensor, text: TextEncoder, wording: str, colours: Sequence[str] = COLOURS
) -> Tensor:
    """Return the index into `colours` of the colour text nearest to each of `features` [N, D]."""
    texts = text.encode([f"a photo of a person {wording.format(c)}" for c in colours])
    texts = F.normalize(texts, dim=-1).to(features.device)
    return (F.normalize(features, dim=-1) @ texts.T).argmax(1)


@torch.inference_mode()
def probe_clip(clip: Clip, people: int = UNSEEN_PEOPLE, cameras: int = UNSEEN_CAMERAS) -> ClipProbe:
    """Measure a frozen CLIP."""
    crops = render_crops(UNSEEN_SEED, people, cameras)
    features = encode_parts(clip, crops.images, crops.labels, LIP20)
    visible = features.visible
    captions = clip.text.encode(
        [
            full_caption(who, shown.nonzero().flatten().tolist())
            for who, shown in zip(crops.people, visible, strict=True)
        ]
    )
    similarity = features.projected @ F.normalize(captions, dim=-1).T
    truth = dict(enumerate(map(attributes, crops.people)))
    return ClipProbe(
        people=people,
        colour=colour_accuracy(features.parts, visible, truth, clip.text),
        part_naming=part_naming(features, clip.text, LIP20),
        caption_rank1=(similarity.argmax(1) == torch.arange(people)).float().mean().item(),
    )


def colour_accuracy(
    parts: Tensor,
    present: Tensor,
    truth: Mapping[int, Mapping[str, str | None]],
    text: TextEncoder,
) -> dict[str, float]:
    """Return, by attribute, the share of features `parts` [N, P, D] nearest to the true colour.

    `truth` maps rows to attributes; rows without the attribute or the part are skipped.
    """
    accuracy = {}
    for attribute, (label, wording) in COLOUR_PROMPTS.items():
        part = LIP20.index(label)
        rows = [r for r, person in truth.items() if person[attribute] and present[r, part]]
        if rows:
            expected = torch.tensor([COLOURS.index(str(truth[r][attribute])) for r in rows])
            hits = classify_colours(parts[rows, part], text, wording) == expected
            accuracy[attribute] = hits.float().mean().item()
    return accuracy


def text_cosines(texts: Tensor) -> tuple[float, float]:
    """Return how similar n ≥ 2 texts [n, D] of one kind are: their cosines, raw and centred.

    The first value is the mean cosine over all pairs of different texts. For the second the mean
    of the normalised texts is subtracted from each; it is the root mean square of the cosines of
    these differences, because their mean is close to −1/(n − 1) whatever the texts say. It is
    1/√k if the differences are spread evenly over k dimensions, and 1 if they lie on one line.
    """
    texts = F.normalize(texts.double(), dim=-1)
    centred = F.normalize(texts - texts.mean(0), dim=-1)
    pairs = ~torch.eye(len(texts), dtype=torch.bool)
    raw, differences = (vectors @ vectors.T for vectors in (texts, centred))
    return raw[pairs].mean().item(), differences[pairs].square().mean().sqrt().item()


def part_text_cosines(bank: PromptBank) -> dict[str, tuple[float, float]]:
    """Return `text_cosines` by part, for the parts that at least two identities have."""
    return {
        label: text_cosines(bank.part[bank.present[:, part], part])
        for part, label in enumerate(bank.vocabulary.labels)
        if bank.present[:, part].sum() > 1
    }


@torch.inference_mode()
def probe_bank(
    bank: PromptBank,
    text: TextEncoder,
    projected: Tensor,
    pids: Tensor,
    people: Mapping[int, Mapping[str, str | None]] | None,
) -> BankProbe:
    """Measure what the texts of a bank say about crops.

    Args:
        bank: the bank to measure.
        text: the text encoder that the colour words are encoded with.
        projected: features of N crops in the joint space, [N, D].
        pids: identity of each crop, int64 [N].
        people: attributes of each identity; None if unknown, then colours are not measured.
    """
    similarity = F.normalize(projected.cpu(), dim=-1) @ F.normalize(bank.identity, dim=-1).T
    correct = torch.tensor(bank.pids)[similarity.argmax(1)] == pids
    words = F.normalize(bank.label, dim=-1)
    nearest = (F.normalize(bank.part, dim=-1) @ words.T).argmax(-1)
    right = (nearest == torch.arange(len(words)))[bank.present]
    truth = None
    if people is not None and bank.vocabulary == LIP20:
        truth = {row: people[pid] for row, pid in enumerate(bank.pids)}
    raw, centred = text_cosines(bank.identity) if len(bank.pids) > 1 else (None, None)
    parts = part_text_cosines(bank)
    return BankProbe(
        own_identity=correct.float().mean().item(),
        nearest_label=right.float().mean().item() if len(right) else None,
        colour=None if truth is None else colour_accuracy(bank.part, bank.present, truth, text),
        identity_cosine=raw,
        identity_cosine_centred=centred,
        part_cosine={label: cosines[0] for label, cosines in parts.items()},
        part_cosine_centred={label: cosines[1] for label, cosines in parts.items()},
    )
