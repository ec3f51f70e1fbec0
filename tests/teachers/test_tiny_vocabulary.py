"""The texts whose tokens form a tiny CLIP's token table."""

from __future__ import annotations

from pivl_distill.data.synthetic.people import COLOURS, person, phrases
from pivl_distill.data.vocabulary import LIP20
from teachers.text_encoder import UNKNOWN_ROW, Tokenizer, used_token_ids
from teachers.tiny_vocabulary import vocabulary_texts


def test_phrases_of_unseen_people_have_no_unknown_tokens():
    texts = vocabulary_texts()
    assert texts == vocabulary_texts()
    tokenizer = Tokenizer(used_token_ids(texts))
    texts_to_encode = [phrase for i in range(300) for phrase in phrases(person(77, i, 1)).values()]
    texts_to_encode += [
        f"a photo of a X X X X person {word}" for word in (*LIP20.words, *LIP20.labels)
    ]
    texts_to_encode += [
        f"a photo of a person wearing the {colour} coat and a hat." for colour in COLOURS
    ]
    unknown = {text for text in texts_to_encode if UNKNOWN_ROW in tokenizer.encode(text)}
    assert unknown == set()
