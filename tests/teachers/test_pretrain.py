"""The pretraining script with a small recipe, and the shipped weights that it made."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pivl_distill.data.synthetic.crops import render_crops
from pivl_distill.data.synthetic.people import garments
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.storage.tensors import load_tensors
from teachers.clip import Clip
from teachers.clip_loading import load_clip
from teachers.pretrain import RECIPE, described, main, train
from teachers.probes import probe_clip
from teachers.tiny_clip import TINY_KIND, WEIGHTS_DIR

SHIPPED = WEIGHTS_DIR / "tiny_rn.safetensors"


@pytest.mark.parametrize("name", ["tiny_rn", "tiny_vit"])
def test_training_changes_both_encoders_and_stays_finite(name: str) -> None:
    recipe = dataclasses.replace(RECIPE, crops=48, passes=2, batch_size=24, cameras=4)
    untrained = load_clip(name, "none", (128, 64))
    clip, rows = train(name, recipe)
    assert rows == sorted(rows)
    for encoder in (clip.image, clip.text):
        assert all(torch.isfinite(p).all() for p in encoder.parameters())
        assert not any(p.requires_grad for p in encoder.parameters())
    assert not torch.equal(clip.text.token_embedding.weight, untrained.text.token_embedding.weight)


def test_script_writes_a_loadable_file_with_recipe_and_accuracies(tmp_path: Path) -> None:
    out = tmp_path / "tiny_rn.safetensors"
    result = CliRunner().invoke(main, ["--crops", "48", "--passes", "0", "--out", str(out)])
    assert result.exit_code == 0, result.output
    _, _, metadata = load_tensors(out, TINY_KIND)
    assert metadata["recipe"]["crops"] == 48
    assert 0 <= metadata["unseen_people"]["part_naming"] <= 1
    load_clip("tiny_rn", str(out), (128, 64))


def test_captions_leave_out_skin() -> None:
    crops = render_crops(0, 3, 2)
    ours = described(crops)
    for of_crop, who in zip(ours.phrases, crops.people, strict=True):
        captioned = [text for part, text in of_crop.items() if part not in ours.uncaptioned]
        assert list(dict.fromkeys(captioned)) == garments(who, range(len(LIP20)))


@pytest.fixture(scope="module")
def shipped() -> Clip:
    return load_clip("tiny_rn", "embedded", (128, 64)).freeze()


def test_shipped_weights_are_small() -> None:
    assert SHIPPED.stat().st_size <= 4_000_000


def test_shipped_weights_reach_their_recorded_accuracy(shipped: Clip) -> None:
    """The recorded accuracies are reproduced and are high enough for teaching."""
    _, _, metadata = load_tensors(SHIPPED, TINY_KIND)
    stored = metadata["unseen_people"]
    measured = probe_clip(shipped)
    assert measured.part_naming == pytest.approx(stored["part_naming"], abs=5e-3)
    assert measured.caption_rank1 == pytest.approx(stored["caption_rank1"], abs=1e-2)
    assert measured.colour == pytest.approx(stored["colour"], abs=1e-2)
    assert min(measured.colour[name] for name in ("shoes", "hat", "socks")) >= 0.85
    assert min(measured.colour[name] for name in ("pants", "coat")) >= 0.93
    assert measured.caption_rank1 >= 0.5
