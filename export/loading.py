"""An exported file or engine as an embedding model, to be scored like the network it came from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import nn

from export.engines.runner import EngineRunner
from export.manifest import read_manifest, sha256
from export.session import open_session, run
from pivl_distill.embedding import EmbeddingModel, Forward
from pivl_distill.errors import PivlError


def load_exported(path: Path) -> tuple[EmbeddingModel, Forward]:
    """The preprocessing that the manifest states, and the file's own forward pass.

    Raises PivlError if there is no manifest or the file is not the one it describes.
    """
    manifest = read_manifest(path.parent)
    if manifest.artifacts.get(path.name) != sha256(path):
        raise PivlError(f"{path} is not the file its manifest describes; export it again.")
    spec = manifest.input
    model = EmbeddingModel(
        manifest.name, nn.Identity(), spec.size_hw, spec.mean, spec.std, spec.cameras
    )
    if path.suffix == ".engine":
        return model, EngineRunner(path)
    return model, partial(run, open_session(path))
