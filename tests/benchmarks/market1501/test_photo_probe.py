"""The photo CLIP's measures on features with known results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.market1501 import photo_probe
from benchmarks.market1501.captions import caption, person, vocabulary_texts
from benchmarks.market1501.photo_probe import probe_photo_clip
from market_files import PLAIN
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import PASCAL7
from teachers.probes import PartFeatures
from teachers.text_encoder import used_token_ids
from teachers.tiny_clip import build_tiny_clip

PEOPLE = {
    2: person(PLAIN | {"upred": 2, "downblack": 2}),
    7: person(PLAIN | {"upblue": 2, "clothes": 2}),
    9: person(PLAIN | {"upblue": 2, "clothes": 2}),  # the same caption
}


def test_features_that_equal_texts_are_read_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    clip = build_tiny_clip("tiny_rn", used_token_ids(vocabulary_texts(PEOPLE)))
    nn.init.normal_(clip.text.token_embedding.weight, std=1.0)
    clip.freeze()

    def encode(*texts: str) -> Tensor:
        return nn.functional.normalize(clip.text.encode(list(texts)), dim=-1)

    pids = (2, 7, 9, 9)
    said = [caption(PEOPLE[pid]) for pid in (2, 7, 9, 2)]  # the last image has a wrong caption
    parts = encode(*(f"a photo of a person {word}" for word in PASCAL7.words)).repeat(4, 1, 1)
    torso, legs = PASCAL7.index("Torso"), PASCAL7.index("Upper Legs")
    for row, colour in enumerate(("red", "blue", "green", "blue")):
        parts[row, torso] = encode(f"a photo of a person {colour} shirt")[0]
    parts[0, legs] = encode("a photo of a person black long dress")[0]
    visible = torch.ones(4, len(PASCAL7), dtype=torch.bool)
    features = PartFeatures(encode(*said), parts, visible)
    monkeypatch.setattr(photo_probe, "encode_parts", lambda *_: features)
    empty = np.zeros((4, 128, 64), np.uint8)
    store = CropStore(empty, empty, np.array(pids), None)
    probe = probe_photo_clip(clip, store, PEOPLE)
    assert (probe.crops, probe.captions) == (4, 2)
    assert probe.caption_rank1 == 0.75
    assert probe.caption_median_rank == 1
    assert probe.upper_colour == 0.75
    assert probe.lower_colour == 1.0  # of the one person whose colour is known
