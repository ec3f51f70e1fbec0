"""Texts that decide which rows of CLIP's token table a tiny CLIP keeps."""

from __future__ import annotations

from pivl_distill.data.synthetic.people import COLOURS, person, phrases
from pivl_distill.data.vocabulary import VOCABULARIES

SAMPLE_SEED, SAMPLE_PEOPLE = 5_000_003, 4000


def vocabulary_texts() -> list[str]:
    """Return the phrases of synthetic people, all part labels, and the words of the prompts."""
    people = (person(SAMPLE_SEED, index, 1) for index in range(SAMPLE_PEOPLE))
    worn = {phrase for who in people for phrase in phrases(who).values()}
    named = {text for v in VOCABULARIES.values() for text in (*v.labels, *v.words)}
    return ["a photo of a person wearing and the of X, .", *COLOURS, *sorted(worn | named)]
