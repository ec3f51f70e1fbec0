"""Words that lie nearest to texts of a bank, by the CLIP that the bank was made with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.data.synthetic.people import COLOURS
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.errors import PivlError
from pivl_distill.report.runs import ReportRun

TEMPLATE = "a photo of a person {}"


def part_phrases(vocabulary: Vocabulary) -> list[str]:
    """Return every part word alone and in every colour, e.g. "red coat"; not the background."""
    words = [word for n, word in enumerate(vocabulary.words) if n != vocabulary.background]
    return [*words, *(f"{colour} {word}" for word in words for colour in COLOURS)]


@torch.inference_mode()
def encode_phrases(teach: ReportRun, phrases: Sequence[str]) -> Tensor:
    """Return the text features [W, D], of unit length, of `TEMPLATE` with each phrase.

    Raises PivlError if the CLIP of the run is not on this machine: nothing is downloaded.
    """
    from teachers.clip_loading import load_clip

    settings = teach.config.get("clip", {})
    name, weights = str(settings.get("name")), str(settings.get("weights"))
    if weights != "embedded" and not Path(weights).is_file():
        raise PivlError(
            f"Nearest words need the CLIP of {teach.name}, and '{weights}' is no file of weights."
        )
    clip = load_clip(name, weights, teach.data.size_hw, activation=settings["activation"])
    return F.normalize(clip.text.encode([TEMPLATE.format(text) for text in phrases]), dim=-1)


def nearest(texts: Tensor, words: Tensor, phrases: Sequence[str], count: int) -> list[list[str]]:
    """Return the `count` phrases nearest to each of `texts` [n, D], given `words` [W, D]."""
    order = (F.normalize(texts, dim=-1) @ words.T).topk(count, dim=1).indices
    return [[phrases[place] for place in row] for row in order.tolist()]
