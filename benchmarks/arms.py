"""The arms that experiments on students compare: settings relative to the default recipe."""

from __future__ import annotations

from collections.abc import Mapping
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


UNLABELED = "synthetic:crowd:11"
"""People and cameras that occur nowhere else; their labels are not used."""
START: dict[str, Any] = {
    "data.unlabeled": UNLABELED,
    "distill.start_epochs": 2,
    "stage2.epochs": 15,
}
"""A start by distillation that takes half of the steps of the other arms' 30 epochs."""


def arm(
    label: str, supervision: str, teacher: str = "none", settings: Mapping[str, Any] | None = None
) -> Arm:
    """Return an arm.

    `label` is its name in the table, `supervision` the setting of this name, `teacher` a key of the
    teachers of `measure_arms`, and `settings` are further ones by dotted name.
    """
    chosen = {"supervision": supervision, "teacher": teacher, **(settings or {})}
    return Arm(label=label, settings=chosen)


ARMS = {
    "plain": arm("labels alone", "none"),
    "identity": arm("identity bank, Eq. 3", "identity", settings=PAPER_FORM),
    "part_paper": arm("part bank, paper's form", "part", settings=PAPER_FORM),
    "label_paper": arm("part names without identity, paper's form", "label", settings=PAPER_FORM),
    "part": arm("part bank", "part"),
    "permuted": arm("part bank of other identities", "permuted"),
    "embeddings": arm("teacher's embeddings", "none", OURS),
    "visual": arm("teacher's embeddings and identity means", "none", OURS, {"distill.anchors": 1}),
    "recipe": arm("part bank and embeddings (default)", "part", OURS),
    "recipe_permuted": arm("part bank of other identities and embeddings", "permuted", OURS),
    "unlabeled": arm("teacher's embeddings, start on crops without labels", "none", OURS, START),
    "best": arm("part bank and embeddings, start on crops without labels", "part", OURS, START),
}
