"""The activation of weights in a file: by its name, its hash, its contents, or asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import open_clip
import pytest
import torch

from pivl_distill.errors import PivlError
from teachers.quick_gelu import needs_quick_gelu

FULL = {"transformer.weight": torch.full((2, 2), 0.1), "positional_embedding": torch.rand(3, 2)}
HALF = FULL | {"transformer.weight": torch.full((2, 2), 0.1).half().float()}


def file(folder: Path, name: str = "weights.pt") -> Path:
    (folder / name).write_bytes(b"weights")
    return folder / name


@pytest.mark.parametrize(
    ("file_name", "quick"),
    [
        ("openai_vit_b16.pt", True),
        ("ViT-B-16-OpenAI-finetuned.pth", True),
        ("vit_b_16-laion400m_e32-55e67d44.pt", False),
        ("CLIP-ViT-B-16-DataComp.XL-s13B-b90K.bin", False),
        ("metaclip_b16.pt", True),
    ],
)
def test_the_file_name_says_whose_weights_it_holds(tmp_path, file_name, quick):
    assert needs_quick_gelu("ViT-B-16", file(tmp_path, file_name), HALF) is quick


def test_the_hash_says_whose_weights_a_renamed_file_holds(tmp_path, monkeypatch):
    start = hashlib.sha256(b"weights").hexdigest()[:8]
    entry = {"url": f"https://somewhere/vit_b_16-quick-{start}.pt", "quick_gelu": True}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["ViT-B-16"], "somebodys", entry)
    assert needs_quick_gelu("ViT-B-16", file(tmp_path), HALF)


def test_half_precision_without_a_source_is_asked_for(tmp_path):
    message = r"Set clip\.activation to quick_gelu if they are OpenAI's .* and to gelu"
    with pytest.raises(PivlError, match=message):
        needs_quick_gelu("ViT-B-16", file(tmp_path), HALF)


def test_single_precision_without_a_source_has_the_activation_of_the_name(tmp_path):
    assert not needs_quick_gelu("ViT-B-16", file(tmp_path), FULL)
    assert needs_quick_gelu("ViT-B-16-quickgelu", file(tmp_path), FULL)
    assert not needs_quick_gelu("ViT-none", file(tmp_path), HALF)


def test_an_architecture_that_is_only_published_with_quickgelu_needs_it(tmp_path):
    assert needs_quick_gelu("RN50", file(tmp_path), FULL)
