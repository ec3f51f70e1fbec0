"""What supervises stage 2: identity labels, the texts of a bank, a teacher's embeddings."""

from __future__ import annotations

from dataclasses import dataclass

from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.compatibility import GalleryTargets
from pivl_distill.training.distillation import TeacherTargets
from pivl_distill.training.part_classification import PartTexts


@dataclass(frozen=True)
class Supervision:
    """The targets of the loss terms, on the training device; by default identity labels alone."""

    texts: TextFeatures | None = None
    """Of Eqs. 3 and 11."""
    part_texts: PartTexts | None = None
    """Of part classification."""
    teacher: TeacherTargets | None = None
    """Of the distillation terms; its rows are the crops of the store."""
    gallery: GalleryTargets | None = None
    """Of the terms that make the student compatible with another network's gallery."""
    labels: bool = True
    """Whether the terms of Eq. 12 apply; without them the distillation terms remain."""

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The parts of the bank; None without texts."""
        if self.texts is not None:
            return self.texts.vocabulary
        return None if self.part_texts is None else self.part_texts.vocabulary
