"""CLIP-ReID checkpoints: architecture from tensor shapes, cameras, and files that are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from export.cost import check_no_training_layers, network_cost
from export.onnx_export import write_onnx
from export.onnx_inference import run_session
from pivl_distill.config import HeadSettings
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import embed
from pivl_distill.runtime.onnx_session import open_session
from teachers.clip_reid_checkpoint import load_clip_reid_checkpoint
from teachers.teacher import Teacher, load_teacher, save_teacher, with_camera

CAMERAS, COEFFICIENT, STRIDE, HEADS = 6, 1.5, 12, 2


def plain_features(state: dict[str, Tensor], images: Tensor, camera: Tensor) -> Tensor:
    """Return CLIP-ReID's evaluation features (SIE, OLP) by plain operations; camera [B, C]."""

    def tensor(name: str) -> Tensor:
        return state[f"image_encoder.{name}"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], tensor(f"{name}.weight"), tensor(f"{name}.bias"))

    patches = F.conv2d(images, tensor("conv1.weight"), stride=STRIDE).flatten(2).mT
    token = tensor("class_embedding") + COEFFICIENT * camera
    x = norm(torch.cat([token[:, None], patches], 1) + tensor("positional_embedding"), "ln_pre")
    for block in ("transformer.resblocks.0", "transformer.resblocks.1"):
        joined = norm(x, f"{block}.ln_1") @ tensor(f"{block}.attn.in_proj_weight").T
        joined = joined + tensor(f"{block}.attn.in_proj_bias")
        query, key, value = (
            part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in joined.chunk(3, dim=2)
        )
        attention = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        attended = (attention @ value).transpose(1, 2).flatten(2)
        x = x + F.linear(
            attended, tensor(f"{block}.attn.out_proj.weight"), tensor(f"{block}.attn.out_proj.bias")
        )
        hidden = F.linear(
            norm(x, f"{block}.ln_2"),
            tensor(f"{block}.mlp.c_fc.weight"),
            tensor(f"{block}.mlp.c_fc.bias"),
        )
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        x = x + F.linear(
            hidden, tensor(f"{block}.mlp.c_proj.weight"), tensor(f"{block}.mlp.c_proj.bias")
        )
    feature = norm(x, "ln_post")[:, 0]
    return torch.cat([feature, feature @ tensor("proj")], 1)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Assert equality to 1e-4 of the largest value."""
    assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.fixture
def camera_state(small_reid_state) -> dict[str, Tensor]:
    state = small_reid_state(cameras=CAMERAS)
    state["cv_embed"] *= 50  # about as large as class tokens
    return state


@pytest.fixture
def camera_file(camera_state, tmp_path):
    torch.save(camera_state, tmp_path / "sie_olp.pth")
    return tmp_path / "sie_olp.pth"


@pytest.fixture
def images_and_cameras(golden_images) -> tuple[Tensor, Tensor]:
    """Three images and their cameras."""
    return golden_images[:3], torch.tensor([0, 5, 2])


def test_cameras_and_overlapping_patches_follow_from_shapes(camera_file):
    checkpoint = load_clip_reid_checkpoint(camera_file, COEFFICIENT)
    image_encoder = checkpoint.clip.image
    assert dataclasses.astuple(image_encoder.options) == (STRIDE, CAMERAS, COEFFICIENT)
    assert image_encoder.grid_hw == (21, 10)
    assert checkpoint.clip.size_hw == (256, 128)
    assert checkpoint.identities == 10
    assert checkpoint.embedding_model().cameras == CAMERAS
    assert image_encoder.joint_tokens(torch.zeros(1, 3, 256, 128)).shape == (1, 1 + 21 * 10, 24)


@torch.inference_mode()
def test_features_equal_a_plain_computation(camera_file, camera_state, images_and_cameras):
    images, cameras = images_and_cameras
    network = load_clip_reid_checkpoint(camera_file, COEFFICIENT).embedding_model().network
    table = camera_state["cv_embed"]
    assert_close(network(images, cameras), plain_features(camera_state, images, table[cameras]))
    assert_close(network(images), plain_features(camera_state, images, 0 * table[cameras]))
    assert (network(images, cameras) - network(images)).abs().max() > 0.1


@pytest.mark.parametrize("choice", ["input", "4", "mean"])
@torch.inference_mode()
def test_exported_graph_has_a_camera_input_or_a_fixed_camera(
    camera_file, camera_state, images_and_cameras, tmp_path, choice
):
    images, cameras = images_and_cameras
    model = with_camera(
        load_clip_reid_checkpoint(camera_file, COEFFICIENT).embedding_model(), choice
    )
    path = write_onnx(model, tmp_path / "model.onnx")
    session, table = open_session(path), camera_state["cv_embed"]
    graph_inputs = {info.name: (info.type, info.shape) for info in session.get_inputs()}
    assert graph_inputs["images"] == ("tensor(float)", ["batch", 3, 256, 128])
    if choice == "input":
        assert graph_inputs["cameras"] == ("tensor(int64)", ["batch"])
        inputs, camera = (images, cameras), table[cameras]
    else:
        assert list(graph_inputs) == ["images"]
        inputs, camera = (images,), table[4] if choice == "4" else table.mean(0)
    assert_close(
        run_session(session, *inputs), plain_features(camera_state, images, camera.expand(3, -1))
    )
    check_no_training_layers(path, network_cost(model.network, model.size_hw, model.cameras))


def test_fixing_a_camera_does_not_change_the_original_model(camera_file, images_and_cameras):
    model = load_clip_reid_checkpoint(camera_file).embedding_model()
    before = model.network(*images_and_cameras)
    assert with_camera(model, "mean").cameras == 0
    assert torch.equal(model.network(*images_and_cameras), before)


@pytest.mark.parametrize("choice", ["6", "-1", "all", "²", "9" * 5000])
def test_invalid_camera_choice_is_refused(camera_file, choice):
    model = load_clip_reid_checkpoint(camera_file).embedding_model()
    with pytest.raises(PivlError, match="--camera takes input, mean, or a number from 0 to 5"):
        with_camera(model, choice)


def test_camera_option_without_camera_embeddings_is_refused(small_reid_state, tmp_path):
    torch.save(small_reid_state(), tmp_path / "plain.pth")
    model = load_clip_reid_checkpoint(tmp_path / "plain.pth").embedding_model()
    with pytest.raises(PivlError, match="has no camera embeddings"):
        with_camera(model, "mean")


def test_embed_passes_each_crops_camera_to_the_network(camera_file):
    model = load_clip_reid_checkpoint(camera_file).embedding_model()
    crops = np.random.default_rng(0).integers(0, 256, (4, 256, 128, 3), dtype=np.uint8)
    together = embed(model, crops, np.array([0, 1, 2, 5]), batch_size=3)
    with torch.inference_mode():
        alone = model.network(model.preprocess(crops[3:]), torch.tensor([5]))
    assert_close(torch.from_numpy(together[3:]), alone)
    with pytest.raises(PivlError, match=r"has cameras 0 to 5, .* cameras 0 to 6; use --camera"):
        embed(model, crops, np.array([0, 1, 2, 6]))
    with pytest.raises(PivlError, match="needs the camera id of each crop"):
        embed(model, crops)


def test_checkpoint_can_be_saved_as_a_teacher(camera_file, images_and_cameras, tmp_path):
    model = load_clip_reid_checkpoint(camera_file, COEFFICIENT).embedding_model()
    save_teacher(model, tmp_path / "teacher.safetensors")
    loaded = load_teacher(tmp_path / "teacher.safetensors")
    assert loaded.cameras == CAMERAS
    assert torch.equal(loaded.network(*images_and_cameras), model.network(*images_and_cameras))


def test_necks_are_loaded_from_the_file(camera_file, camera_state):
    checkpoint = load_clip_reid_checkpoint(camera_file)
    assert torch.equal(checkpoint.neck.classifier.weight, camera_state["classifier.weight"])
    running = camera_state["bottleneck_proj.running_mean"]
    assert torch.equal(checkpoint.projected_neck.norm.running_mean, running)


def test_teacher_can_start_from_its_image_encoder(camera_file, images_and_cameras):
    teacher = Teacher(load_clip_reid_checkpoint(camera_file).clip, 7, HeadSettings()).eval()
    out = teacher(*images_and_cameras)
    assert out.logits[0].shape == (3, 7)
    assert out.aligned.shape[:2] == (3, 24)


@pytest.mark.parametrize("form", ["module.", "safetensors", "state_dict"])
def test_all_file_formats_give_the_same_network(
    camera_state, camera_file, images_and_cameras, tmp_path, form
):
    path = tmp_path / ("other.safetensors" if form == "safetensors" else "other.pth")
    if form == "safetensors":
        save_file(camera_state, path)
    elif form == "module.":
        torch.save({f"module.{name}": value for name, value in camera_state.items()}, path)
    else:
        torch.save({"state_dict": camera_state, "epoch": 60}, path)
    ours, theirs = (
        load_clip_reid_checkpoint(p).embedding_model().network for p in (path, camera_file)
    )
    assert torch.equal(ours(*images_and_cameras), theirs(*images_and_cameras))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_learner.cls_ctx": None}, "it lacks prompt_learner.cls_ctx"),
        ({"image_encoder.conv1.weight": None}, "it lacks image_encoder.conv1.weight"),
        ({"image_encoder.ln_pre.bias": None}, "1 tensor differs: missing image_encoder.ln_pre"),
        ({"head.weight": torch.zeros(2)}, "1 tensor differs: unexpected head.weight"),
        ({"bottleneck.bias": torch.zeros(2)}, r"bottleneck.bias is \(2,\), not \(32,\)"),
        (
            {"prompt_learner.cls_ctx": torch.zeros(9, 4, 16)},
            r"prompt_learner.cls_ctx is \(9, 4, 16\), not \(10, 4, 16\)",
        ),
        (
            {"image_encoder.positional_embedding": torch.zeros(100, 32)},
            r"99 grid positions, which no stride of \(16, 12\) gives on crops of 256×128",
        ),
        (
            {"image_encoder.conv1.weight": torch.zeros(48, 3, 16, 16)},
            "which fits none of small-reid",
        ),
    ],
)
def test_missing_and_mismatched_tensors_are_named(small_reid_state, tmp_path, change, message):
    state = {
        name: value for name, value in (small_reid_state() | change).items() if value is not None
    }
    torch.save(state, tmp_path / "changed.pth")
    with pytest.raises(PivlError, match=message):
        load_clip_reid_checkpoint(tmp_path / "changed.pth")


def test_files_without_tensors_are_refused(tmp_path):
    with pytest.raises(PivlError, match="There are no weights at"):
        load_clip_reid_checkpoint(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(PivlError, match="is not a readable weights file"):
        load_clip_reid_checkpoint(tmp_path / "text.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    with pytest.raises(PivlError, match="holds no state dict"):
        load_clip_reid_checkpoint(tmp_path / "numbers.pth")
