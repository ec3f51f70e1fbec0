"""Measures of a CLIP of photographs on identities that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from benchmarks.market1501.captions import LOWER_COLOURS, UPPER_COLOURS, Person, caption
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import PASCAL7
from teachers.clip import Clip
from teachers.probes import PartFeatures, classify_colours, encode_parts, part_naming


@dataclass(frozen=True)
class PhotoProbe:
    """Zero-shot measures on held-out identities; shares are 0 to 1."""

    crops: int
    captions: int
    """Distinct captions of the identities; some identities share one."""
    caption_rank1: float
    """Crops whose nearest caption is their own."""
    caption_median_rank: float
    """Median rank of a crop's own caption; (captions + 1) / 2 would be chance."""
    upper_colour: float
    """Accuracy of the nearest of 8 colours to the mask-pooled torso."""
    lower_colour: float
    """Accuracy of the nearest of 9 colours to the mask-pooled upper legs."""
    part_naming: float
    """Accuracy of the nearest of 7 part words to a mask-pooled part."""


@torch.inference_mode()
def probe_photo_clip(clip: Clip, store: CropStore, people: Mapping[int, Person]) -> PhotoProbe:
    """Measure a frozen CLIP on crops with part maps and the attributes of their identities."""
    assert store.maps is not None
    features = encode_parts(clip, store.crops, store.maps, PASCAL7)
    shown = [people[int(pid)] for pid in store.pids]
    captions = sorted({caption(who) for who in shown})
    texts = F.normalize(clip.text.encode(captions), dim=-1)
    similarity = features.projected @ texts.T
    own = torch.tensor([captions.index(caption(who)) for who in shown])
    rank = 1 + (similarity > similarity.gather(1, own[:, None])).sum(1)
    return PhotoProbe(
        crops=len(store),
        captions=len(captions),
        caption_rank1=(rank == 1).float().mean().item(),
        caption_median_rank=rank.float().median().item(),
        upper_colour=_colour_accuracy(
            clip, features, "Torso", [(who.upper_colour, "shirt") for who in shown], UPPER_COLOURS
        ),
        lower_colour=_colour_accuracy(
            clip,
            features,
            "Upper Legs",
            [(who.lower_colour, who.lower) for who in shown],
            LOWER_COLOURS,
        ),
        part_naming=part_naming(features, clip.text, PASCAL7),
    )


def _colour_accuracy(
    clip: Clip,
    features: PartFeatures,
    label: str,
    worn: Sequence[tuple[str | None, str]],
    colours: tuple[str, ...],
) -> float:
    """Return the share of crops whose part is nearest to the true colour of its garment.

    `worn` has the colour and the garment of each crop; crops without the part or a colour are left
    out.
    """
    part = PASCAL7.index(label)
    hits = []
    for garment in sorted({garment for _, garment in worn}):
        rows = [
            row
            for row, (colour, of_row) in enumerate(worn)
            if of_row == garment and colour and features.visible[row, part]
        ]
        if rows:
            nearest = classify_colours(
                features.parts[rows, part], clip.text, f"{{}} {garment}", colours
            )
            hits += [colours[i] == worn[row][0] for i, row in zip(nearest, rows, strict=True)]
    return sum(hits) / len(hits) if hits else float("nan")
