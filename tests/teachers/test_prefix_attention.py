"""Encoding after a cached prefix against open_clip's transformer with its causal mask."""

from __future__ import annotations

import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor, nn

from pivl_distill.errors import PivlError
from teachers.prefix_attention import (
    PrefixCache,
    encode_after_prefix,
    extend_prefix,
    require_known_blocks,
)

WIDTH = 32
VARIANTS = {
    "gelu": ({}, False),
    "quick gelu": ({}, True),
    "layer scale": ({"ls_init_value": 0.5}, False),
    "wide mlp": ({"mlp_ratio": 6.0}, False),
}


def make_clip(quick_gelu: bool = False, **text: object) -> CLIP:
    torch.manual_seed(0)
    vision = {"image_size": 16, "patch_size": 16, "layers": 1, "width": 16, "head_width": 16}
    text = {"vocab_size": 9, "width": WIDTH, "heads": 4, "layers": 3, **text}
    clip = CLIP(12, vision_cfg=vision, text_cfg=text, quick_gelu=quick_gelu).double().eval()
    for parameter in clip.transformer.parameters():
        nn.init.normal_(parameter, std=0.2)
    return clip


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def clip(request) -> CLIP:
    text, quick_gelu = request.param
    return make_clip(quick_gelu, **text)


def tokens(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, WIDTH, dtype=torch.float64, generator=generator)
    return x.requires_grad_()


def last_hidden_state(clip: CLIP, *pieces: Tensor) -> Tensor:
    """Return the hidden state of a sequence's last token by open_clip's own forward pass."""
    x = torch.cat(pieces)
    return clip.transformer(x[None], attn_mask=clip.attn_mask[: len(x), : len(x)])[0, -1]


def assert_same(ours: Tensor, plain: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-9)
    weights = torch.randn_like(ours)
    ours_back, plain_back = (
        torch.autograd.grad((y * weights).sum(), inputs) for y in (ours, plain)
    )
    for mine, theirs in zip(ours_back, plain_back, strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def test_sequences_of_unequal_length_without_a_prefix(clip):
    x, lengths = tokens(4, 5), [5, 1, 3, 5]
    ours = encode_after_prefix(clip.transformer.resblocks, x, torch.tensor(lengths))
    plain = [last_hidden_state(clip, x[row, :length]) for row, length in enumerate(lengths)]
    assert_same(ours, torch.stack(plain), x)


def test_rows_share_prefixes(clip):
    blocks = clip.transformer.resblocks
    root, prefixes, suffixes = tokens(1, 2), tokens(3, 4, seed=1), tokens(5, 3, seed=2)
    prefix_of_row, lengths = [2, 0, 2, 1, 2], [3, 1, 2, 2, 3]
    shared = extend_prefix(blocks, prefixes, extend_prefix(blocks, root)).select(
        torch.tensor(prefix_of_row)
    )
    assert len(shared) == 6
    ours = encode_after_prefix(blocks, suffixes, torch.tensor(lengths), shared)
    plain = [
        last_hidden_state(clip, root[0], prefixes[prefix], suffixes[row, :length])
        for row, (prefix, length) in enumerate(zip(prefix_of_row, lengths, strict=True))
    ]
    assert_same(ours, torch.stack(plain), root, prefixes, suffixes)


def test_all_rows_may_share_one_prefix(clip):
    blocks = clip.transformer.resblocks
    root, suffixes = tokens(1, 2), tokens(3, 2, seed=1)
    ours = encode_after_prefix(
        blocks, suffixes, torch.tensor([2, 2, 2]), extend_prefix(blocks, root)
    )
    plain = [last_hidden_state(clip, root[0], suffix) for suffix in suffixes]
    assert_same(ours, torch.stack(plain), root, suffixes)


def test_tokens_after_the_end_are_not_computed(clip):
    blocks = clip.transformer.resblocks
    x, lengths = tokens(3, 6).detach(), torch.tensor([2, 6, 3])
    garbage = x.clone()
    garbage[0, 2:], garbage[2, 3:] = torch.nan, torch.nan
    counts: list[int] = []
    hook = blocks[1].mlp.register_forward_hook(lambda _m, given, _o: counts.append(len(given[0])))
    assert torch.equal(
        encode_after_prefix(blocks, garbage, lengths), encode_after_prefix(blocks, x, lengths)
    )
    hook.remove()
    assert counts == [2 + 6 + 3] * 2


def test_last_block_computes_only_last_tokens(clip):
    blocks = clip.transformer.resblocks
    counts: list[int] = []
    hook = blocks[-1].mlp.register_forward_hook(lambda _m, given, _o: counts.append(len(given[0])))
    root = extend_prefix(blocks, tokens(1, 2))
    encode_after_prefix(blocks, tokens(3, 6), torch.tensor([2, 6, 3]), root)
    hook.remove()
    assert counts == [3]


def test_length_of_a_prefix_cache_is_its_number_of_tokens():
    block = (torch.zeros(1, 2, 7, 4), torch.zeros(1, 2, 7, 4))
    assert len(PrefixCache((block,))) == 7


def test_blocks_of_open_clip_are_accepted(clip):
    require_known_blocks(clip.transformer)


def test_unsupported_blocks_are_refused_by_name():
    clip = make_clip(qk_norm=True)
    with pytest.raises(PivlError, match="blocks of type CustomResidualAttentionBlock"):
        require_known_blocks(clip.transformer)
    with pytest.raises(PivlError, match="has a Sequential, through which"):
        require_known_blocks(nn.Sequential())
