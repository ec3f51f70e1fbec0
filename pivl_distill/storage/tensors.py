"""Tensor files: safetensors with a format number, a kind and metadata. Nothing is ever unpickled.

Every tensor file of this package (prompt banks, teachers, students, embeddings, start weights)
holds named tensors, its kind and metadata as JSON, so that it can be used without any other file.
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
"""Format number of the files; a file with another one is refused."""

_ENTRY = "pivl-distill"
"""The only metadata entry: safetensors writes several in random order, but equal contents should
give equal bytes."""

_REMEDIES = {
    "prompt bank": "make it again with `pivl-distill teach`",
    "teacher": "make it again with `pivl-distill teach`",
    "teacher embeddings": "make it again with `pivl-distill teach`",
    "student": "make it again with `pivl-distill student`",
    "training progress": "start a new run, or resume this one with the version that started it",
}
"""What to do about a file of another format, by kind."""


class Metadata(dict[str, Any]):
    """The metadata of a file; accessing a missing key raises PivlError."""

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        super().__init__(metadata)
        self.path = path

    def __missing__(self, name: str) -> Any:
        raise PivlError(
            f"The metadata of {self.path} lacks '{name}': another version of pivl-distill wrote it."
            " Make it again."
        )


def save_tensors(
    path: Path, kind: str, tensors: dict[str, Tensor], metadata: dict[str, Any]
) -> None:
    """Write `tensors` and JSON `metadata` atomically as a file of this `kind`; only rank 0 writes.

    Equal contents give equal bytes.
    """
    if process_group.rank():
        return
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "kind": kind, "metadata": metadata}
    write_bytes(path, to_safetensors(tensors, {_ENTRY: json.dumps(metadata)}))


def is_foreign(path: Path) -> bool:
    """Whether the extension or metadata of a file shows that `save_tensors` did not write it."""
    if path.suffix != ".safetensors":
        return True
    try:
        with safe_open(path, framework="pt") as file:
            return _ENTRY not in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False  # `load_tensors` raises a PivlError about it


def load_tensors(path: Path, *kinds: str) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """Return kind, tensors and metadata of a file of one of `kinds`.

    Raises PivlError if it is missing, damaged, of another kind or of another format.
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
    if not metadata:
        raise PivlError(f"{path} is not a {expected}: it was not written by pivl-distill.")
    kind, version = metadata.get("kind"), metadata.get("format")
    if version != FORMAT:
        age = "an earlier" if isinstance(version, int) and version < FORMAT else "another"
        remedy = _REMEDIES.get(kind) or _REMEDIES.get(kinds[0], "make it again")
        raise PivlError(
            f"{path} was written by {age} version of pivl-distill (format {version}, not {FORMAT});"
            f" {remedy}."
        )
    if kind not in kinds:
        raise PivlError(f"{path} is not a {expected}, but a {kind}.")
    return kind, tensors, Metadata(path, metadata["metadata"])
