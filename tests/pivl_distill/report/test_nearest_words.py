"""Words near a text, by the bank's own CLIP."""

from __future__ import annotations

import pytest
import torch

from pivl_distill.data.vocabulary import LIP20
from pivl_distill.errors import PivlError
from pivl_distill.report.nearest_words import encode_phrases, nearest, part_phrases
from pivl_distill.report.runs import ReportRun


def test_phrases_are_part_words_plain_and_coloured() -> None:
    phrases = part_phrases(LIP20)
    assert "coat" in phrases
    assert "red coat" in phrases
    assert not any("background" in phrase for phrase in phrases)
    assert len(set(phrases)) == len(phrases)


def test_a_phrase_is_nearest_to_itself(report_runs) -> None:
    phrases = ["red coat", "blue pants", "hat"]
    words = encode_phrases(report_runs["teach-1"], phrases)
    assert words.norm(dim=1) == pytest.approx(torch.ones(3))
    assert [found[0] for found in nearest(3 * words, words, phrases, 2)] == phrases


def test_weights_that_are_not_here_are_not_downloaded(report_runs) -> None:
    taught = report_runs["teach-1"]
    config = taught.config | {"clip": {"name": "RN50", "weights": "openai"}}
    run = ReportRun(taught.path, "teach", "teach-1", config, {}, [])
    with pytest.raises(PivlError, match="'openai' is no file of weights"):
        encode_phrases(run, ["hat"])
