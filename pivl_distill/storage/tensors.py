"""Tensors on disk: safetensors files that say what they are. Nothing is ever unpickled.

Every file of ours — prompt banks, teachers, students, embedded weights — holds named tensors, its
kind, and metadata as JSON, so that one file is enough to know how to use it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.storage.files import write_bytes

FORMAT = 2
_ENTRY = "pivl-distill"
"""The only metadata entry: safetensors writes several in no fixed order, and the same tensors
should be the same bytes."""


class Metadata(dict[str, Any]):
    """The metadata of a file; one that it lacks is a PivlError."""

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        super().__init__(metadata)
        self.path = path

    def __missing__(self, name: str) -> Any:
        raise PivlError(
            f"{self.path} does not say its '{name}': another version of pivl-distill wrote it."
            " Make it again."
        )


def save_tensors(
    path: Path, kind: str, tensors: dict[str, Tensor], metadata: dict[str, Any]
) -> None:
    """Write `tensors` atomically as a file of this `kind`; of several processes, the first does."""
    if process_group.rank():
        return
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "kind": kind, "metadata": metadata}
    write_bytes(path, to_safetensors(tensors, {_ENTRY: json.dumps(metadata)}))


def is_foreign(path: Path) -> bool:
    """Whether a file, by its ending or its metadata, was not written by `save_tensors`."""
    if path.suffix != ".safetensors":
        return True
    try:
        with safe_open(path, framework="pt") as file:
            return _ENTRY not in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False  # `load_tensors` says what is wrong with it


def load_tensors(path: Path, *kinds: str) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """Kind, tensors and metadata of a file that must be of one of `kinds`.

    Raises PivlError when it is missing, damaged or something else.
    """
    expected = " or ".join(kinds)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise PivlError(f"No {expected} at {path}.") from error
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise PivlError(f"{path} is not a {expected}: {error}") from error
    if metadata.get("kind") not in kinds or metadata.get("format") != FORMAT:
        raise PivlError(
            f"{path} is not a {expected} of format {FORMAT}, but of kind"
            f" {metadata.get('kind')!r} and format {metadata.get('format')!r}."
        )
    return metadata["kind"], tensors, Metadata(path, metadata["metadata"])
