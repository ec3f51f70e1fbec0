"""`pivl-distill export` of CLIP-ReID's full-size checkpoints: the file gives the golden features.

The official code has printed figures for `vit` and `rn50`. The third kind, camera embeddings and
overlapping patches, is held to a recomputation that shares no code with the encoders.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from command_line import succeed

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4
CAMERAS, STRIDE, GRID_HW = 6, 12, (21, 10)
"""(256 − 16) // 12 + 1 rows and (128 − 16) // 12 + 1 columns of overlapping patches."""
COEFFICIENT = 3.0
"""Not CLIP-ReID's 1, so that a coefficient left out shows."""
HEADS = 12


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """The least Market-1501 that an export can be verified on: two crops of one person."""
    rng = np.random.default_rng(0)
    for folder, camera in (("bounding_box_train", 1), ("query", 1), ("bounding_box_test", 2)):
        (tmp_path / "market" / folder).mkdir(parents=True)
        path = tmp_path / "market" / folder / f"0001_c{camera}s1_000001_00.png"
        Image.fromarray(rng.integers(0, 256, (128, 64, 3), dtype=np.uint8)).save(path)
    return tmp_path / "market"


@pytest.fixture
def exported(golden_state, tmp_path, market):
    """`exported(shapes, *options)` runs what the command wrote on its inputs."""

    def export(shapes: dict[str, list[int]], *options: str) -> onnxruntime.InferenceSession:
        torch.save(golden_state(shapes), tmp_path / "checkpoint.pth")
        common = (
            tmp_path / "checkpoint.pth",
            "-o",
            tmp_path / "out",
            "--data",
            f"market1501:{market}",
        )
        assert "Verified" in succeed("export", *common, "--no-cache", *options)
        return open_file(tmp_path / "out" / "model.onnx")

    return export


def open_file(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def difference(ours: np.ndarray, theirs: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float(np.abs(ours - theirs.numpy()).max() / theirs.abs().max())


@pytest.mark.parametrize("model", ["vit", "rn50"])
def test_exported_file_matches_the_reference_features(
    exported, golden_shapes, golden_images, golden_figures, model
):
    session = exported(golden_shapes[model])
    (given,) = session.get_inputs()
    (features,) = session.run(None, {given.name: golden_images.numpy()})
    assert difference(features, golden_figures[f"{model}__eval_feature"]) < TOLERANCE


def sie_olp_shapes(vit: dict[str, list[int]]) -> dict[str, list[int]]:
    """The shapes of ViT + SIE + OLP: a position for each overlapping patch, a vector a camera."""
    positions = 1 + GRID_HW[0] * GRID_HW[1]
    return vit | {
        "image_encoder.positional_embedding": [positions, 768],
        "cv_embed": [CAMERAS, 768],
    }


def recomputed(state: dict[str, Tensor], images: Tensor, cameras: Tensor) -> Tensor:
    """[B, 768 + 512] of a CLIP-ReID ViT, step by step as its paper says, from tensors alone."""
    own = {key.removeprefix("image_encoder."): value for key, value in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], own[f"{name}.weight"], own[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ own[f"{name}.weight"].T + own[f"{name}.bias"]

    patches = F.unfold(images, 16, stride=STRIDE).mT @ own["conv1.weight"].flatten(1).T
    token = own["class_embedding"] + COEFFICIENT * state["cv_embed"][cameras]
    x = norm(torch.cat([token[:, None], patches], 1) + own["positional_embedding"], "ln_pre")
    for block in (f"transformer.resblocks.{number}" for number in range(12)):
        projected = norm(x, f"{block}.ln_1") @ own[f"{block}.attn.in_proj_weight"].T
        query, key, value = (
            part.unflatten(2, (HEADS, -1)).transpose(1, 2)
            for part in (projected + own[f"{block}.attn.in_proj_bias"]).chunk(3, dim=2)
        )
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        x = x + linear((weights @ value).transpose(1, 2).flatten(2), f"{block}.attn.out_proj")
        hidden = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        x = x + linear(hidden * torch.sigmoid(1.702 * hidden), f"{block}.mlp.c_proj")
    feature = norm(x[:, 0], "ln_post")
    return torch.cat([feature, feature @ own["proj"]], 1)


def test_with_cameras_and_overlapping_patches_it_gives_what_the_paper_says(
    exported, golden_shapes, golden_state, golden_images
):
    shapes = sie_olp_shapes(golden_shapes["vit"])
    session = exported(shapes, "--sie-coefficient", str(COEFFICIENT))
    images, cameras = golden_images[:6], torch.arange(CAMERAS)
    names = [given.name for given in session.get_inputs()]
    given = dict(zip(names, (images.numpy(), cameras.numpy()), strict=True))
    (features,) = session.run(None, given)
    with torch.inference_mode():
        state = golden_state(shapes)
        expected = recomputed(state, images, cameras)
        other = recomputed(state, images, cameras.flip(0))
    assert difference(other.numpy(), expected) > 10 * TOLERANCE  # cameras matter
    assert difference(features, expected) < TOLERANCE
