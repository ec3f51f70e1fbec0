"""Small networks, their exported graphs (once per session), and random query and gallery crops."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import export.source
from export.accuracy import AccuracyBudget
from export.engines.library import load_tensorrt
from export.exporter import export_model
from export.onnx_export import write_onnx
from pivl_distill.data.store import CropStore
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval.evaluation import QueryGalleryCrops
from students.backbones import create_backbone

SIZE_HW = (64, 32)
RTX_PACKAGES = ("tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx")


def randomised(network: nn.Module) -> nn.Module:
    """Give norms and biases random values; in a new network they are ones and zeros."""
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5) if "weight" in name else nn.init.normal_(
                parameter
            )
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return network.eval()


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SmallNetwork(nn.Module):
    """Five convolutions, one of them depthwise, with strides and a residual: fast to export."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16))
        self.wide = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32))
        self.depthwise = nn.Conv2d(32, 32, 3, 1, 1, groups=32)
        self.narrow = nn.Conv2d(32, 16, 1)
        self.last = nn.Conv2d(16, 24, 3, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.first(images).relu()
        deeper = nn.functional.relu6(self.depthwise(nn.functional.relu6(self.wide(maps))))
        return self.last(maps + self.narrow(deeper)).relu().mean((2, 3))


@pytest.fixture(scope="session")
def rtx() -> Any:
    """Return the real TensorRT-RTX, which builds engines on a CPU; skip if not installed."""
    if not all(map(importlib.util.find_spec, RTX_PACKAGES)):
        pytest.skip(
            "TensorRT-RTX is not installed (pip install 'pivl-distill[rtx]' on Linux x86-64)"
        )
    return load_tensorrt("tensorrt-rtx")


@pytest.fixture(scope="session")
def small() -> EmbeddingModel:
    torch.manual_seed(0)
    return EmbeddingModel("small", randomised(SmallNetwork()), SIZE_HW, MEAN, STD)


@pytest.fixture(scope="session")
def small_onnx(small, tmp_path_factory) -> Path:
    return write_onnx(small, tmp_path_factory.mktemp("small") / "model.onnx")


def embedding_model(name: str) -> EmbeddingModel:
    torch.manual_seed(0)
    network = randomised(create_backbone(name, image_size_hw=SIZE_HW))
    return EmbeddingModel(name, network, SIZE_HW, MEAN, STD)


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[EmbeddingModel, Path]]:
    """Return a function from an architecture to its embedding model and ONNX file."""
    cache: dict[str, tuple[EmbeddingModel, Path]] = {}

    def make(name: str) -> tuple[EmbeddingModel, Path]:
        if name not in cache:
            model = embedding_model(name)
            path = tmp_path_factory.mktemp(name) / "model.onnx"
            cache[name] = model, write_onnx(model, path)
        return cache[name]

    return make


@pytest.fixture(scope="session")
def mobilenet(exported) -> tuple[EmbeddingModel, Path]:
    return exported("mobilenetv2_025")


def crop_store(seed: int, camid: int, identities: int = 6) -> CropStore:
    """Return two random crops per identity; crops of an identity share a pattern."""
    pids = np.repeat(np.arange(identities), 2)
    patterns = np.random.default_rng(0).integers(0, 200, (identities, *SIZE_HW, 3))
    noise = np.random.default_rng(seed).integers(0, 56, (len(pids), *SIZE_HW, 3))
    crops = (patterns[pids] + noise).astype(np.uint8)
    return CropStore(crops, None, pids, np.full(len(pids), camid))


@pytest.fixture(scope="session")
def query() -> CropStore:
    return crop_store(seed=1, camid=0)


@pytest.fixture(scope="session")
def gallery() -> CropStore:
    return crop_store(seed=2, camid=1)


@pytest.fixture(scope="session")
def test_split(query, gallery) -> QueryGalleryCrops:
    return QueryGalleryCrops(query, gallery)


@pytest.fixture(scope="session")
def training() -> CropStore:
    return crop_store(seed=3, camid=0)


@pytest.fixture
def lenient_budgets() -> dict[str, AccuracyBudget]:
    """Budgets that the small network meets in every precision."""
    return {"int8": AccuracyBudget(0.95, 5.0, 10.0), "fp16": AccuracyBudget(0.999, 5.0, 10.0)}


@pytest.fixture
def export_small(
    small, small_onnx, test_split, training, lenient_budgets, tmp_path, monkeypatch, quick_latency
):
    """Return a function that exports the small network; its graph is copied, not traced again."""

    def copy(model, path, *, normalize, bake_preprocessing):
        assert not normalize
        assert not bake_preprocessing
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(small_onnx.read_bytes())
        return path

    monkeypatch.setattr(export.source, "write_onnx", copy)
    defaults = {"test": test_split, "calibration": training, "budgets": lenient_budgets}
    return lambda **options: export_model(small, tmp_path / "out", **(defaults | options))
