"""SegFormer parsers with the real architecture: small, randomly initialised, from a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pivl_distill.data.vocabulary import ATR18, IGNORE
from pivl_distill.errors import PivlError
from pivl_distill.parsing.base import ParserInput
from pivl_distill.parsing.segformer import SegformerParser, check_labels
from pivl_distill.parsing.settings import SegformerSettings

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder written by save_pretrained."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 16, 24],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(ATR18.labels)),
        label2id={label: number for number, label in enumerate(ATR18.labels)},
    )
    folder = tmp_path_factory.mktemp("segformer")
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    size = {"height": 64, "width": 96}
    transformers.SegformerImageProcessor(size=size).save_pretrained(folder)
    return folder


def settings(source: Path | str, **changes: object) -> SegformerSettings:
    plain = {"kind": "segformer", "vocabulary": "atr18", "source": str(source), "device": "cpu"}
    return SegformerSettings(**{**plain, **changes})


@pytest.fixture
def crops() -> list[ParserInput]:
    rng = np.random.default_rng(0)
    sizes = [(40, 20), (64, 96), (128, 64)]
    return [
        ParserInput(Path("a.jpg"), rng.integers(0, 256, (*s, 3), dtype=np.uint8)) for s in sizes
    ]


def test_maps_are_the_best_classes_of_the_model(clothes: Path, crops: list[ParserInput]) -> None:
    """At the input's size the map equals the argmax of bilinearly resized logits."""
    parser = SegformerParser("clothes", settings(clothes))
    maps = [part_map.labels for part_map in parser.parse(crops)]
    assert [labels.shape for labels in maps] == [crop.pixels.shape[:2] for crop in crops]
    image = torch.from_numpy(crops[1].pixels).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    with torch.inference_mode():
        logits = parser.model(pixel_values=(image - mean) / std).logits
    resized = F.interpolate(logits, (64, 96), mode="bilinear")
    agree = (torch.from_numpy(maps[1]) == resized.argmax(1)[0]).float().mean()
    assert agree > 0.999


def test_pixels_below_min_confidence_are_ignored(clothes: Path, crops: list[ParserInput]) -> None:
    parser = SegformerParser("clothes", settings(clothes, min_confidence=0.99))
    assert all((part_map.labels == IGNORE).all() for part_map in parser.parse(crops))


def test_metadata_contain_a_hash_of_the_weights(clothes: Path) -> None:
    first, again = (SegformerParser("clothes", settings(clothes)).metadata for _ in range(2))
    assert first == again
    assert len(first["sha256"]) == 64
    assert "source" not in first


def test_another_vocabulary_is_rejected(clothes: Path) -> None:
    with pytest.raises(PivlError, match="has 18 classes, but lip20 has 20"):
        SegformerParser("clothes", settings(clothes, vocabulary="lip20"))
    with pytest.raises(PivlError, match="names class 1 'Hat', but fashn18 names it 'face'"):
        SegformerParser("clothes", settings(clothes, vocabulary="fashn18"))


def test_label_spelling_and_placeholder_names_are_accepted() -> None:
    written = {n: label.lower().replace("-", "_") for n, label in enumerate(ATR18.labels)}
    check_labels("any", written, ATR18)
    check_labels("any", {number: f"LABEL_{number}" for number in range(18)}, ATR18)


def test_missing_weights_are_not_initialised_at_random(clothes: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((clothes / name).read_bytes())
    state = load_file(clothes / "model.safetensors")
    encoder = {name: value for name, value in state.items() if "decode_head" not in name}
    save_file(encoder, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        PivlError, match=r"not a trained segmentation model: \d+ weights are missing"
    ):
        SegformerParser("clothes", settings(tmp_path))


def test_folders_without_a_model_are_rejected(clothes: Path, tmp_path: Path) -> None:
    with pytest.raises(PivlError, match=r"Cannot load a segmentation model .*Name a hub id"):
        SegformerParser("clothes", settings(tmp_path))
    with pytest.raises(PivlError, match="Cannot load a segmentation model"):
        SegformerParser("clothes", settings(tmp_path / "nowhere"))


def test_missing_transformers_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PivlError, match=r"pip install 'pivl-distill\[parse\]'"):
        SegformerParser("clothes", settings("mattmdjaga/segformer_b2_clothes"))
