"""Checkpoints: students, teachers, and weights of others (safetensors, .pth, TorchScript)."""

from __future__ import annotations

import io
import pickle
import tempfile
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import save as to_safetensors
from torch import nn

from fuzz.case import Case
from fuzz.mutation import damaged, edited_safetensors, odd_values
from fuzz.uses import use_each
from pivl_distill.app.networks import load_checkpoint
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.storage.weights_file import read_state_dict
from pivl_distill.storage.wrappers import WRAPPERS
from students.backbones import create_backbone
from students.pretrained import load_network
from students.student import bare_embedding_model, save_student
from teachers.clip_loading import load_clip
from teachers.image_encoders import ViTOptions
from teachers.teacher import clip_embedding_model, save_teacher

ARCH, SIZE_HW = "test_efficientnet", (64, 32)
CLIP, CLIP_SIZE_HW = "tiny_rn", (128, 64)


@cache
def _student() -> bytes:
    network = create_backbone(ARCH, image_size_hw=SIZE_HW, last_stride=1)
    return _saved(
        bare_embedding_model(ARCH, network, SIZE_HW), lambda m, path: save_student(m, path, 1)
    )


@cache
def _teacher() -> bytes:
    clip = load_clip(CLIP, "none", CLIP_SIZE_HW, ViTOptions())
    return _saved(clip_embedding_model(clip), save_teacher)


def _saved(model: EmbeddingModel, save: Any) -> bytes:
    """Return the file of a model with constant weights, which compress well."""
    for parameter in model.network.parameters():
        nn.init.constant_(parameter, 0.01)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(model, path)
        return path.read_bytes()


def _weights() -> dict[str, torch.Tensor]:
    return {"conv.weight": torch.ones(2, 3), "bn.bias": torch.zeros(2), "n": torch.tensor(3)}


def _pth(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@cache
def _pickled() -> list[bytes]:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    script = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # files of TorchScript are still around
        torch.jit.save(torch.jit.trace(network.eval(), torch.ones(1, 2)), script)
    state = {"model": {f"module.{name}": tensor for name, tensor in _weights().items()}}
    return [
        _pth(_weights()),
        _pth(state),
        _pth({**state, "epoch": 3, "best": np.float64(0.5)}),
        _pth(network),
        _pth(_weights(), _use_new_zipfile_serialization=False),
        _pth(_weights(), pickle_protocol=4),
        pickle.dumps({"a": np.ones(3)}),
        script.getvalue(),
        _pth({"sparse": torch.eye(3).to_sparse(), "w": torch.ones(1).expand(10**6)}),
    ]


def _nested_state() -> st.SearchStrategy[bytes]:
    """State dicts under wrappers, in lists, and beside values of other types."""
    leaves = st.just(_weights()) | odd_values()
    keys = st.sampled_from([*WRAPPERS, "optimizer", "epoch", "module.a", 0])
    trees = st.recursive(
        leaves, lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=6
    )
    return trees.map(_pth)


def cases() -> st.SearchStrategy[Case]:
    """One file, read as a checkpoint of ours, or as weights of others."""
    ours = st.sampled_from([_student(), _student(), _student(), _teacher()])
    published = to_safetensors(
        create_backbone(ARCH, image_size_hw=SIZE_HW, last_stride=1).state_dict() | _weights()
    )
    small = to_safetensors(_weights(), {"format": "pt"})
    tokens = [b"\x80\x02", b".", b"cos\nsystem\n", b"PK\x03\x04", b"PK\x05\x06", b"data.pkl"]
    pickled = st.sampled_from(_pickled())
    foreign = pickled | pickled.flatmap(lambda data: damaged(data, tokens)) | _nested_state()
    return st.one_of(
        ours.flatmap(edited_safetensors).map(lambda data: Case({"model.safetensors": data})),
        st.sampled_from([small, published])
        .flatmap(edited_safetensors)
        .map(lambda data: Case({"weights.safetensors": data})),
        st.builds(
            lambda data, suffix: Case({f"weights.{suffix}": data}),
            foreign,
            st.sampled_from(["pth", "pth", "pt", "safetensors"]),
        ),
    )


def use(given: Path, out: Path, options: Mapping[str, Any]) -> None:
    """Load a checkpoint and embed two crops with it; read weights in all ways that they are."""
    (path,) = given.iterdir()
    if path.stem == "model":
        _embed(load_checkpoint(path))
        return
    use_each(
        lambda: _read(path),
        lambda: load_checkpoint(path),
        lambda: load_network(ARCH, SIZE_HW, path),
    )


def _embed(model: EmbeddingModel) -> None:
    crops = np.full((2, *model.size_hw, 3), 128, np.uint8)
    with torch.inference_mode():
        images = model.preprocess(crops)
        cameras = torch.zeros(2, dtype=torch.long)
        features = model.network(images, cameras) if model.cameras else model.network(images)
    assert features.shape[0] == 2


def _read(path: Path) -> None:
    for name, tensor in read_state_dict(path).items():
        assert isinstance(name, str)
        assert tensor.is_floating_point() is False or bool(tensor.float().isfinite().all())
