"""The image encoders against open_clip's forward passes, stage by stage."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer

from pivl_distill.errors import PivlError
from pivl_distill.models.fusion import block_thirds
from teachers.image_encoders import (
    ResNetImageEncoder,
    ViTImageEncoder,
    attention_pool,
    resize_position_embedding,
)

SIZE_HW = (128, 64)


@pytest.fixture(scope="module")
def resnet(randomise_norms) -> ModifiedResNet:
    """A ResNet for crops of 64 × 64 pixels, with a 2 × 2 grid."""
    torch.manual_seed(0)
    return randomise_norms(
        ModifiedResNet([2, 1, 1, 2], output_dim=24, heads=4, image_size=64, width=8)
    )


@pytest.fixture(scope="module")
def vit(randomise_norms) -> VisionTransformer:
    torch.manual_seed(0)
    visual = VisionTransformer(
        SIZE_HW, patch_size=16, width=32, layers=3, heads=4, mlp_ratio=2.0, output_dim=24
    )
    return randomise_norms(visual)


def resnet_encoder(resnet, size_hw=SIZE_HW, output_stride: int = 16) -> ResNetImageEncoder:
    return ResNetImageEncoder(copy.deepcopy(resnet), size_hw, output_stride)


def images(size_hw: tuple[int, int] = SIZE_HW) -> torch.Tensor:
    return torch.randn(2, 3, *size_hw, generator=torch.Generator().manual_seed(1))


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_resnet_stages_equal_open_clips_on_the_original_grid(resnet):
    encoder = resnet_encoder(resnet, (64, 64), output_stride=32)
    x = images((64, 64))
    out = encoder(x)
    assert resnet(x).std() > 0.01
    assert_close(out.projected, resnet(x))
    maps = resnet.forward_intermediates(x)["image_intermediates"]
    for ours, theirs in zip(out.pyramid, maps[1:4], strict=True):
        assert torch.equal(ours, theirs)
    assert_close(out.previous, maps[3].mean((2, 3)))
    assert_close(out.feature, maps[4].mean((2, 3)))


def test_attention_pool_of_every_token_equals_full_attention(resnet):
    x = torch.randn(2, 256, 2, 2)
    pool = resnet.attnpool
    tokens = x.flatten(2).permute(2, 0, 1)
    tokens = torch.cat([tokens.mean(0, keepdim=True), tokens]) + pool.positional_embedding[:, None]
    expected, _ = F.multi_head_attention_forward(
        query=tokens,
        key=tokens,
        value=tokens,
        embed_dim_to_check=256,
        num_heads=pool.num_heads,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        use_separate_proj_weight=True,
        need_weights=False,
    )
    assert_close(attention_pool(pool, x, every_token=True), expected.transpose(0, 1))
    assert_close(attention_pool(pool, x, every_token=False)[:, 0], pool(x))


@pytest.mark.parametrize(
    ("output_stride", "grid_hw", "strides"),
    [(8, (16, 8), (4, 8, 8)), (16, (8, 4), (4, 8, 16)), (32, (4, 2), (4, 8, 16))],
)
def test_output_stride_sets_the_grid(resnet, output_stride, grid_hw, strides):
    encoder = resnet_encoder(resnet, SIZE_HW, output_stride)
    out, tokens = encoder(images()), encoder.joint_tokens(images())
    assert encoder.grid_hw == grid_hw
    assert tokens.shape == (2, 1 + grid_hw[0] * grid_hw[1], encoder.dim)
    assert_close(tokens[:, 0], out.projected)
    sizes = [(SIZE_HW[0] // stride, SIZE_HW[1] // stride) for stride in strides]
    assert [tuple(m.shape[2:]) for m in out.pyramid] == sizes
    assert tuple(m.shape[1] for m in out.pyramid) == encoder.pyramid_channels == (32, 64, 128)
    assert out.previous.shape == (2, encoder.previous_dim)
    assert out.feature.shape == (2, encoder.feature_dim)
    assert out.projected.shape == (2, encoder.dim) == (2, 24)


def test_smaller_stride_changes_only_the_position_embedding(resnet):
    encoder = resnet_encoder(resnet, SIZE_HW, output_stride=8)
    changed = "attnpool.positional_embedding"
    ours, theirs = encoder.visual.state_dict(), resnet.state_dict()
    assert ours.keys() == theirs.keys()
    for name in theirs.keys() - {changed}:
        assert torch.equal(ours[name], theirs[name]), name
    assert ours[changed].shape == (1 + 16 * 8, 256)
    assert ours[changed].requires_grad == theirs[changed].requires_grad


def test_other_output_strides_are_refused(resnet):
    with pytest.raises(PivlError, match="output stride 8, 16 or 32, not 4"):
        resnet_encoder(resnet, output_stride=4)


def test_vit_output_equals_open_clips(vit):
    encoder, x = ViTImageEncoder(vit, SIZE_HW), images()
    out, tokens = encoder(x), encoder.joint_tokens(x)
    assert encoder.grid_hw == (8, 4)
    assert vit(x).std() > 0.01
    assert_close(out.projected, vit(x))
    assert_close(tokens[:, 0], vit(x))
    assert tokens.shape == (2, 1 + 8 * 4, encoder.dim) == (2, 33, 24)


def test_vit_stages_equal_block_by_block_computation(vit):
    encoder, x = ViTImageEncoder(vit, SIZE_HW), images()
    out = encoder(x)
    hidden = vit._embeds(x)
    for block in vit.transformer.resblocks[:-1]:
        hidden = block(hidden)
    assert_close(out.previous, hidden[:, 0])
    last = vit.ln_post(vit.transformer.resblocks[-1](hidden))
    assert_close(out.feature, last[:, 0])
    assert encoder.pyramid_channels == (patches_dim(vit),) * 3
    patches = out.pyramid[-1]
    assert patches.shape == (2, patches_dim(vit), 8, 4)
    for row in range(8):
        for column in range(4):
            assert_close(patches[:, :, row, column], last[:, 1 + 4 * row + column])


def patches_dim(vit) -> int:
    return vit.positional_embedding.shape[1]


def test_vit_pyramid_holds_the_tokens_after_each_third_of_the_blocks(vit):
    encoder, x = ViTImageEncoder(vit, SIZE_HW), images()
    hidden, after = vit._embeds(x), []
    for block in vit.transformer.resblocks:
        hidden = block(hidden)
        after.append(hidden[:, 1:])
    after[-1] = vit.ln_post(after[-1])
    for tokens, block in zip(encoder(x).pyramid, block_thirds(len(after)), strict=True):
        assert_close(tokens.flatten(2).transpose(1, 2), after[block])


def test_value_path_of_a_vit_attends_to_each_position_only(vit):
    encoder, x = ViTImageEncoder(vit, SIZE_HW), images()
    *blocks, last = vit.transformer.resblocks
    hidden = vit._embeds(x)
    for block in blocks:
        hidden = block(hidden)
    self_only_mask = torch.full((hidden.shape[1],) * 2, -torch.inf).fill_diagonal_(0)
    expected = vit.ln_post(last(hidden, attn_mask=self_only_mask)) @ vit.proj
    tokens = encoder.value_tokens(x)
    assert_close(tokens[:, 1:], expected[:, 1:])
    assert_close(tokens[:, 0], encoder(x).projected)


def test_value_path_of_a_resnet_pools_each_position_only(resnet):
    encoder, x = resnet_encoder(resnet, SIZE_HW, 16), images()
    *_, conv5 = encoder._stages(x)
    tokens, pool = encoder.value_tokens(x), encoder.visual.attnpool
    assert_close(tokens[:, 0], encoder(x).projected)
    positions = tokens[:, 1:].unflatten(1, encoder.grid_hw)
    assert_close(positions[1, 3, 2], pool.c_proj(pool.v_proj(conv5[1, :, 3, 2])))
    attended = encoder.joint_tokens(x)[:, 1:]
    assert not torch.allclose(tokens[:, 1:], attended, atol=1e-3)


@pytest.mark.parametrize("form", ["resnet", "vit"])
@pytest.mark.parametrize("stage", ["previous", "feature", "projected", "pyramid", "joint_tokens"])
def test_gradients_reach_the_first_layer_from_every_stage(request, form, stage):
    visual = copy.deepcopy(request.getfixturevalue(form))
    encoder = (
        ResNetImageEncoder(visual, SIZE_HW, 16)
        if form == "resnet"
        else ViTImageEncoder(visual, SIZE_HW)
    )
    if stage == "joint_tokens":
        result = encoder.joint_tokens(images())
    else:
        result = getattr(encoder(images()), stage)
    result = result[-1] if stage == "pyramid" else result
    (result * torch.randn_like(result)).sum().backward()
    assert visual.conv1.weight.grad is not None
    assert visual.conv1.weight.grad.abs().sum() > 0


def test_position_embedding_is_unchanged_on_its_own_grid():
    embedding = torch.randn(1 + 6, 5)
    assert resize_position_embedding(embedding, (3, 2), (3, 2)) is embedding


def test_resized_position_embeddings_keep_the_class_token_and_the_layout():
    # Channel 0 is the row, channel 1 the column.
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    grid = torch.stack([rows.flatten(), columns.flatten()], dim=1)
    embedding = torch.cat([torch.tensor([[7.0, 9.0]]), grid])
    resized = resize_position_embedding(embedding, (4, 4), (8, 2))
    assert resized.shape == (1 + 16, 2)
    assert torch.equal(resized[0], embedding[0])
    row, column = resized[1:].T.unflatten(1, (8, 2))
    assert (row.diff(dim=0) >= 0).all()
    assert row[:, 0].tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    assert torch.equal(row[:, 0], row[:, 1])
    assert column[0].tolist() == [0.5, 2.5]
