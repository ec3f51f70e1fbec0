"""The arms that experiments on students compare: settings relative to the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.experiment import Arm

BASELINE = "plain"
OURS = "ours"
"""The teacher of the same run as the bank."""

FINAL_MAP: dict[str, Any] = {
    "part_classification.weight": 1,
    "stage2.loss.align": 0,
    "stage2.loss.centre_texts": True,
    "stage2.loss.text_scale": 16,
}
"""Texts on the final map: part classification and centred texts in Eq. 3, in place of Eq. 11."""


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
    "identity": arm("identity bank, Eq. 3", "identity"),
    "part": arm("part bank, Eqs. 3 and 11", "part"),
    "label": arm("part names without identity, Eqs. 3 and 11", "label"),
    "permuted": arm("part bank of other identities", "permuted"),
    "final_map": arm("part bank on the final map", "part", settings=FINAL_MAP),
    "regression": arm("teacher's embeddings", "none", OURS, {"distill.relation": 0}),
    "embeddings": arm("teacher's embeddings and relations", "none", OURS),
    "visual": arm("the same and identity means", "none", OURS, {"distill.anchors": 1}),
    "part_embeddings": arm("part bank, embeddings and relations", "part", OURS),
    "permuted_embeddings": arm("the same, bank of other identities", "permuted", OURS),
    "unlabeled": arm(
        "embeddings and relations, start on crops without labels", "none", OURS, START
    ),
}
