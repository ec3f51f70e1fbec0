"""The probes on features with known results."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from pivl_distill.bank import PromptBank
from pivl_distill.data.synthetic.people import COLOURS
from pivl_distill.data.vocabulary import LIP20
from teachers.probes import (
    COLOUR_PROMPTS,
    BankProbe,
    classify_colours,
    colour_accuracy,
    part_text_cosines,
    probe_bank,
    text_cosines,
)

NOTHING = dict.fromkeys(COLOUR_PROMPTS)


@pytest.fixture(scope="module")
def text(frozen_clip):
    return frozen_clip.text


def encode_phrases(text, *phrases: str) -> torch.Tensor:
    with torch.inference_mode():
        return text.encode([f"a photo of a person {phrase}" for phrase in phrases])


@torch.inference_mode()
def test_texts_are_classified_as_their_own_colour(text):
    features = encode_phrases(text, *(f"{colour} hat" for colour in COLOURS))
    scales = torch.linspace(0.1, 9, len(COLOURS))[:, None]
    assert classify_colours(scales * features, text, "{} hat").tolist() == list(range(len(COLOURS)))
    order = torch.tensor([5, 0, 3])
    assert torch.equal(classify_colours(features[order], text, "{} hat"), order)


@torch.inference_mode()
def test_colour_accuracy_counts_worn_and_present_parts_only(text):
    hat, shoe = LIP20.index("Hat"), LIP20.index("Left-shoe")
    red_hat, blue_hat, red_shoes = encode_phrases(text, "red hat", "blue hat", "red shoes")
    parts = torch.zeros(4, len(LIP20), len(red_hat))
    parts[:, hat] = torch.stack([red_hat, red_hat, blue_hat, blue_hat])
    parts[:, shoe] = red_shoes
    present = torch.zeros(4, len(LIP20), dtype=torch.bool)
    present[:, hat] = torch.tensor([True, True, True, False])
    present[0, shoe] = True
    truth = {
        0: NOTHING | {"hat": "red", "shoes": "red"},  # both correct
        1: NOTHING | {"hat": "blue", "shoes": "blue"},  # wrong hat; shoe not present
        2: NOTHING | {"shoes": "red"},  # wears no hat; shoe not present
        3: NOTHING | {"hat": "red"},  # hat not present
    }
    assert colour_accuracy(parts, present, truth, text) == {"hat": 0.5, "shoes": 1.0}


@pytest.fixture
def bank(text) -> PromptBank:
    """Two people with correct part texts, except that the second face has the text of a hat."""
    label = encode_phrases(text, *LIP20.words)
    part = torch.stack([label, label])
    part[1, LIP20.index("Face")] = label[LIP20.index("Hat")]
    part[:, LIP20.index("Coat")] = encode_phrases(text, "red coat", "blue coat")
    present = torch.zeros(2, len(LIP20), dtype=torch.bool)
    present[:, [LIP20.index("Face"), LIP20.index("Pants")]] = True
    identity = torch.eye(2, label.shape[1])
    return PromptBank(identity, part, label, present, (7, 9), LIP20, {})


def test_bank_probe_measures_identities_and_parts(bank, text):
    projected = 5 * bank.identity[[0, 0, 1, 1]]
    result = probe_bank(bank, text, projected, torch.tensor([7, 9, 9, 9]), people=None)
    assert result.own_identity == 0.75
    assert result.nearest_label == 0.75
    assert result.colour is None


def test_bank_without_part_texts_has_no_part_results(bank, text):
    without_parts = dataclasses.replace(bank, present=torch.zeros_like(bank.present))
    people = {7: NOTHING | {"coat": "red"}, 9: NOTHING}
    result = probe_bank(without_parts, text, bank.identity, torch.tensor([7, 9]), people)
    assert (result.own_identity, result.nearest_label, result.colour) == (1.0, None, {})


def test_bank_probe_measures_colours_of_synthetic_people(bank, text):
    present = bank.present.clone()
    present[:, LIP20.index("Coat")] = True
    bank = dataclasses.replace(bank, present=present)
    people = {7: NOTHING | {"coat": "red"}, 9: NOTHING | {"coat": "red"}, 11: NOTHING}
    result = probe_bank(bank, text, bank.identity, torch.tensor([7, 9]), people)
    assert result.own_identity == 1.0
    assert result.colour == {"coat": 0.5}


def naive_cosines(texts: torch.Tensor) -> tuple[float, float]:
    """Mean cosine over pairs; root mean square of the cosines after centring; plain loops."""
    unit = [(t / t.norm()).double() for t in texts.double()]
    mean = sum(unit, torch.zeros_like(unit[0])) / len(unit)
    raw, squares = [], []
    for i, first in enumerate(unit):
        for second in unit[i + 1 :]:
            a, b = first - mean, second - mean
            raw.append(float(first @ second))
            squares.append(float(a @ b / (a.norm() * b.norm())) ** 2)
    return sum(raw) / len(raw), math.sqrt(sum(squares) / len(squares))


@pytest.mark.parametrize("count", [2, 3, 9])
def test_text_cosines_equal_loops_over_pairs(count):
    texts = torch.randn(count, 12, generator=torch.Generator().manual_seed(count)) + 2
    assert text_cosines(texts) == pytest.approx(naive_cosines(texts), abs=1e-12)


def test_text_cosines_separate_what_is_shared_from_what_differs():
    eye = torch.eye(4)
    assert text_cosines(eye) == pytest.approx((0, 1 / 3))
    shared = torch.cat([torch.full((4, 1), 7.0), eye], 1)
    raw, centred = text_cosines(shared)
    assert raw == pytest.approx(49 / 50)
    assert centred == pytest.approx(1 / 3)
    assert text_cosines(torch.ones(3, 5)) == pytest.approx((1, 0), abs=1e-9)


def test_part_text_cosines_use_present_texts_of_one_part_only(bank):
    part = torch.randn(bank.part.shape, generator=torch.Generator().manual_seed(0))
    part, present = torch.cat([part, part + 1]), torch.cat([bank.present, bank.present])
    present[0, LIP20.index("Face")] = False
    present[1:, LIP20.index("Pants")] = False  # one identity alone
    identity, pids = torch.cat([bank.identity, bank.identity]), (7, 9, 11, 13)
    larger = PromptBank(identity, part, bank.label, present, pids, bank.vocabulary, {})
    cosines = part_text_cosines(larger)
    assert cosines == {"Face": pytest.approx(naive_cosines(part[1:, LIP20.index("Face")]))}


def test_bank_probe_measures_cosines_between_identities(bank, text):
    result = probe_bank(bank, text, bank.identity, torch.tensor([7, 9]), people=None)
    assert (result.identity_cosine, result.identity_cosine_centred) == pytest.approx((0, 1))
    assert result.part_cosine is not None
    assert result.part_cosine_centred is not None
    assert result.part_cosine.keys() == result.part_cosine_centred.keys() == {"Face", "Pants"}
    assert result.part_cosine["Pants"] == pytest.approx(1)
    assert result.part_cosine["Face"] < 0.99


def test_bank_with_one_identity_has_no_cosines(bank, text):
    alone = dataclasses.replace(
        bank, identity=bank.identity[:1], part=bank.part[:1], present=bank.present[:1], pids=(7,)
    )
    result = probe_bank(alone, text, bank.identity[:1], torch.tensor([7]), people=None)
    assert (result.identity_cosine, result.part_cosine) == (None, {})


def test_readouts_of_earlier_versions_still_load():
    old = {"own_identity": 0.5, "nearest_label": None, "colour": None}
    assert BankProbe(**old).identity_cosine is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bank_probe_accepts_features_on_a_gpu(bank, make_clip):
    clip = make_clip().to(torch.device("cuda"))
    people = {7: NOTHING | {"coat": "red"}, 9: NOTHING}
    pids = torch.tensor([7, 9])
    assert probe_bank(bank, clip.text, bank.identity.cuda(), pids, people).own_identity == 1.0
