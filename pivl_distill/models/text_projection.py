"""The fixed projection of text features to the dimension in which Eq. 11 compares (§4.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from pivl_distill.config import HeadSettings
from pivl_distill.errors import PivlError


def alignment_dim(dim: int, settings: HeadSettings) -> int:
    """Return the dimension of Eq. 11 for text features of `dim` dimensions.

    Raises PivlError if it is smaller: an orthogonal projection could not preserve their angles.
    """
    if settings.align_dim is not None and settings.align_dim < dim:
        raise PivlError(
            f"stage2.head.align_dim {settings.align_dim} is less than the {dim} dimensions of the"
            " text features and would not preserve their angles; increase it, or set it to null."
        )
    return settings.align_dim or dim


def orthogonal_projection(dim: int, wider: int) -> Tensor:
    """Return a matrix [dim, wider] with orthonormal rows: it preserves all inner products.

    It is the same in every run and is not trained: a learned map on the target side of Eq. 11
    collapses (readings 13).
    """
    if dim == wider:
        return torch.eye(dim)
    random = torch.randn(wider, dim, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(random).Q.T.contiguous()
