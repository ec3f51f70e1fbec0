"""manifest.json: all that whoever deploys an export needs to know, beside the files it describes.

It is written for failed exports too, with the failure in it, so that a folder found later says
whether it may be used. No dates: the same export twice gives the same manifest, but for timings.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from export.cost import Cost
from export.latency import Latency
from export.verify import Budget, Parity, RetrievalComparison
from pivl_distill.errors import PivlError
from pivl_distill.files import sha256 as sha256  # for those who read manifests
from pivl_distill.files import write_text

FILE_NAME = "manifest.json"
_PACKAGES = (
    "pivl-distill",
    "torch",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "onnxruntime",
)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputSpec(_Section):
    """Crops are resized to `size_hw` pixels, divided by 255, then (x − mean) / std per channel.

    Where `cameras` is not 0, a second input int64 [batch] takes each crop's camera, from 0 on.
    """

    name: str
    size_hw: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    colour_order: Literal["RGB"] = "RGB"
    layout: Literal["NCHW"] = "NCHW"
    min_batch: int = 1
    max_batch: int | None = None
    cameras: int = 0


class OutputSpec(_Section):
    """Features of `dim` values, either of unit length or as the network gives them."""

    name: str
    dim: int
    l2_normalised: bool


class Manifest(_Section):
    """One export folder. `artifacts` and `source` map file names to SHA-256 digests."""

    format: Literal[1] = 1
    name: str
    input: InputSpec
    output: OutputSpec
    precision: Literal["fp32"] = "fp32"
    artifacts: dict[str, str]
    source: dict[str, str]
    budget: Budget
    cost: Cost | None = None
    parity: Parity | None = None
    retrieval: RetrievalComparison | None = None
    latency: tuple[Latency, ...] = ()
    failure: str | None = None
    versions: dict[str, str]


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write `folder`/manifest.json atomically."""
    path = folder / FILE_NAME
    write_text(path, manifest.model_dump_json(indent=2) + "\n")
    return path


def read_manifest(folder: Path) -> Manifest:
    """Read `folder`/manifest.json; PivlError if it is missing or not a manifest."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise PivlError(f"'{folder}' has no {FILE_NAME}; name a folder written by an export.")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise PivlError(f"'{path}' is not a manifest of this version: {error}") from error


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide what an export contains."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
