"""The arms that experiments on students compare: settings relative to the default recipe."""

from __future__ import annotations

from typing import Any

from benchmarks.experiment import Arm

BASELINE = "plain"
OURS = "ours"
"""The teacher of the same run as the bank."""

PAPER_FORM: dict[str, Any] = {
    "part_classification.weight": 0,
    "stage2.loss.align": 5,
    "stage2.loss.centre_texts": False,
    "stage2.loss.text_scale": 10,
}
"""Texts as in the paper: Eq. 3 with raw texts, Eq. 11 on early maps."""


def arm(label: str, supervision: str, teacher: str = "none", **settings: Any) -> Arm:
    """Return an arm.

    Args:
        label: name in the table.
        supervision: texts, as the setting of this name.
        teacher: name of the teacher whose embeddings are distilled, a key of `measure_arms`.
        settings: further settings by dotted name, with `__` for dots.
    """
    values = {name.replace("__", "."): value for name, value in settings.items()}
    return Arm(label=label, settings={"supervision": supervision, "teacher": teacher, **values})


def in_paper_form(label: str, supervision: str) -> Arm:
    """Return an arm with texts in the paper's form, without a teacher."""
    return Arm(label=label, settings={**arm(label, supervision).settings, **PAPER_FORM})


UNLABELED = "synthetic:crowd:11"
"""People and cameras that occur nowhere else; their labels are not used."""
START: dict[str, Any] = {
    "data.unlabeled": UNLABELED,
    "distill.start_epochs": 4,
    "stage2.epochs": 30,
}
"""A start by distillation that takes half of the steps of the other arms' 60 epochs."""


ARMS = {
    "plain": arm("labels alone", "none"),
    "identity": in_paper_form("identity bank, Eq. 3", "identity"),
    "part_paper": in_paper_form("part bank, paper's form", "part"),
    "label_paper": in_paper_form("part names without identity, paper's form", "label"),
    "part": arm("part bank", "part"),
    "permuted": arm("part bank of other identities", "permuted"),
    "embeddings": arm("teacher's embeddings", "none", OURS),
    "visual": arm("teacher's embeddings and identity means", "none", OURS, distill__anchors=1),
    "recipe": arm("part bank and embeddings (default)", "part", OURS),
    "recipe_permuted": arm("part bank of other identities and embeddings", "permuted", OURS),
    "unlabeled": Arm(
        label="teacher's embeddings, start on crops without labels",
        settings={**arm("", "none", OURS).settings, **START},
    ),
    "best": Arm(
        label="part bank and embeddings, start on crops without labels",
        settings={**arm("", "part", OURS).settings, **START},
    ),
}
