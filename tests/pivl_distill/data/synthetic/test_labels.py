"""Label names of the renderer are those of the vocabulary."""

from __future__ import annotations

from pivl_distill.data.synthetic import labels
from pivl_distill.data.vocabulary import LIP20


def test_ids_agree_with_the_vocabulary() -> None:
    named = {
        "Hat": labels.HAT, "Glove": labels.GLOVE, "Upper-clothes": labels.UPPER,
        "Dress": labels.DRESS, "Socks": labels.SOCKS, "Jumpsuits": labels.JUMPSUIT,
        "Scarf": labels.SCARF, "Face": labels.FACE, "Left-arm": labels.LEFT_ARM,
        "Right-leg": labels.RIGHT_LEG, "Right-shoe": labels.RIGHT_SHOE,
    }  # fmt: skip
    assert {name: LIP20.index(name) for name in named} == named
