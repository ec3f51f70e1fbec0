"""Vector spaces: which embeddings may be compared with which.

The vectors of two networks have nothing in common, even where they are equally long: their cosines
are numbers like any others and mean nothing. Each network therefore has a space id, and so has
every file of its vectors. Copies of one network in other precisions share its id: they compute the
same vectors up to rounding.

A network that was trained for the gallery of another one keeps an id of its own and names the other
space in `compatible_with`: its vectors may be compared with those of that space.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pivl_distill.errors import PivlError
from pivl_distill.storage.paths import shown

logger = logging.getLogger(__name__)

ID_DIGITS = 32
"""Hexadecimal digits of an id."""
ID_PATTERN = rf"^[0-9a-f]{{{ID_DIGITS}}}$"
MAX_COMPATIBLE = 64
"""Spaces that a network may name as compatible."""

SPACE_KEY, COMPATIBLE_KEY = "vector_space", "compatible_with"
"""Keys in ONNX metadata, in the metadata of vector files, and of a vector database's payload."""

REMEDY = (
    "Embed the crops of one of them with the network of the other, map stored vectors with"
    " `pivl-distill migrate`, or train a network for the gallery that you have with `pivl-distill"
    " student --compatible-with`."
)


@dataclass(frozen=True)
class VectorSpace:
    """The space of a network's embeddings."""

    id: str
    """32 hexadecimal digits."""
    compatible_with: tuple[str, ...] = ()
    """Ids of the spaces whose vectors these were trained to be compared with."""

    def accepts(self, other: VectorSpace) -> bool:
        """Whether vectors of the two spaces may be compared; the order does not matter."""
        return (
            self.id == other.id
            or other.id in self.compatible_with
            or self.id in other.compatible_with
        )

    def metadata(self) -> dict[str, Any]:
        """As JSON values for the metadata of a file; `space_from_metadata` reads them."""
        return {SPACE_KEY: self.id, COMPATIBLE_KEY: list(self.compatible_with)}

    def __str__(self) -> str:
        return self.id


def space_id(weights: Iterable[str], preprocessing: Mapping[str, Any], dim: int) -> str:
    """Return the id of a space: a hash of weights, preprocessing and dimension.

    Args:
        weights: digests of the weights, in any order.
        preprocessing: how an input is made from a crop, as JSON values.
        dim: length of a vector.
    """
    parts = {"weights": sorted(weights), "preprocessing": preprocessing, "dim": dim}
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def array_digest(array: np.ndarray) -> str:
    """Return the SHA-256 (hex) of the shape and the float32 values of an array of weights."""
    digest = hashlib.sha256(repr(array.shape).encode())
    digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()


def space_from_metadata(metadata: Mapping[str, Any]) -> VectorSpace | None:
    """Return the space that `VectorSpace.metadata` describes; None for older files, without one.

    Raises ValueError if it is not a space.
    """
    if (found := metadata.get(SPACE_KEY)) is None:
        return None
    (own,), compatible = check_ids([found]), check_ids(metadata.get(COMPATIBLE_KEY, []))
    return VectorSpace(own, compatible)


def check_ids(values: object) -> tuple[str, ...]:
    """Return the ids in a list of JSON values; raises ValueError if it is anything else."""
    if not isinstance(values, list | tuple) or len(values) > MAX_COMPATIBLE:
        raise ValueError(f"{shown(values)} is not a list of vector spaces")
    for value in values:
        if not isinstance(value, str) or not re.fullmatch(ID_PATTERN, value):
            raise ValueError(f"{shown(value)} is not the id of a vector space")
    return tuple(values)


def check_comparable(
    space: VectorSpace | None, what: str, other: VectorSpace | None, other_what: str
) -> None:
    """Raise PivlError if vectors of two spaces must not be compared.

    `what` and `other_what` name where they come from. Files and exports of earlier versions have no
    id: their space is unknown (None), and they are accepted with a warning.
    """
    for known, name in ((space, what), (other, other_what)):
        if known is None:
            logger.warning(
                f"{name} does not say which network its vectors are of; an earlier version wrote"
                " it. They are compared all the same; embed or export again to be sure."
            )
    if space is not None and other is not None and not space.accepts(other):
        raise PivlError(
            f"The vectors of {what} (space {space}) and of {other_what} (space {other}) are of"
            f" different networks, so their cosines mean nothing. {REMEDY}"
        )
