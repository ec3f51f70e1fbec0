"""The fixed projection of text features preserves inner products."""

from __future__ import annotations

import pytest
import torch

from pivl_distill.config import HeadSettings
from pivl_distill.errors import PivlError
from pivl_distill.models.text_projection import alignment_dim, orthogonal_projection


def test_the_projection_has_orthonormal_rows():
    wide = orthogonal_projection(5, 9)
    torch.testing.assert_close(wide @ wide.T, torch.eye(5))
    assert torch.equal(orthogonal_projection(5, 5), torch.eye(5))
    assert not wide.requires_grad


def test_the_alignment_dimension_defaults_to_that_of_the_texts():
    assert alignment_dim(16, HeadSettings()) == 16
    assert alignment_dim(16, HeadSettings(align_dim=24)) == 24
    with pytest.raises(PivlError, match="align_dim 15 is less than the 16 dimensions"):
        alignment_dim(16, HeadSettings(align_dim=15))
