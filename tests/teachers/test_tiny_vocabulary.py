"""The texts that decide a tiny CLIP's token table."""

from __future__ import annotations

from pivl_distill.data.synthetic.people import COLOURS, person, phrases
from pivl_distill.data.vocabulary import LIP20
from teachers.text_encoder import UNKNOWN_ROW, Tokenizer, used_token_ids
from teachers.tiny_vocabulary import vocabulary_texts


def test_every_phrase_of_unseen_people_has_rows_of_its_own():
    texts = vocabulary_texts()
    assert texts == vocabulary_texts()
    tokenizer = Tokenizer(used_token_ids(texts))
    spoken = [phrase for i in range(300) for phrase in phrases(person(77, i, 1)).values()]
    spoken += [f"a photo of a X X X X person {word}" for word in (*LIP20.words, *LIP20.labels)]
    spoken += [f"a photo of a person wearing the {colour} coat and a hat." for colour in COLOURS]
    silent = {text for text in spoken if UNKNOWN_ROW in tokenizer.encode(text)}
    assert silent == set()
