"""The photo CLIP's script on generated images: resuming, files, and the CLIP that `teach` loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.market1501 import photo_clip
from benchmarks.market1501.captions import caption, read_people, vocabulary_texts
from benchmarks.market1501.files import SIZE_HW, Files
from benchmarks.market1501.part_maps import draw_maps
from benchmarks.market1501.photo_clip import RECIPE, described, load_crops, main, train
from market_files import PIDS, SHOTS
from pivl_distill.errors import PivlError
from pivl_distill.storage.tensors import load_tensors
from teachers.clip import encoders_of
from teachers.clip_loading import load_clip
from teachers.text_encoder import UNKNOWN_ROW, used_token_ids
from teachers.tiny_clip import TINY_KIND


@pytest.fixture
def files(root: Path) -> Files:
    draw_maps(Files(root))
    return Files(root)


def test_every_tenth_identity_is_held_out(files: Files) -> None:
    training, measured = load_crops(files, read_people(files.attributes))
    assert set(measured.pids) == {PIDS[0], PIDS[10]}
    assert len(training) + len(measured) == len(PIDS) * SHOTS
    assert not set(training.pids) & set(measured.pids)


def test_identities_without_attributes_are_refused(files: Files) -> None:
    people = read_people(files.attributes)
    del people[PIDS[3]]
    with pytest.raises(PivlError, match=f"lacks 1 training identities, such as {PIDS[3]:04d}"):
        load_crops(files, people)


def test_an_interrupted_training_gives_the_same_weights(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = read_people(files.attributes)
    crops = described(load_crops(files, people)[0], people)
    token_ids = used_token_ids(vocabulary_texts(people))
    recipe = replace(RECIPE, passes=2, batch_size=27, crops=len(crops.images))
    whole = train(crops, token_ids, recipe, files.root / "whole.safetensors")

    def stop(*_: object) -> int:
        raise KeyboardInterrupt

    checkpoint = files.root / "stopped.safetensors"
    saved = photo_clip.TrainingProgress.save
    with monkeypatch.context() as patch:
        patch.setattr(
            photo_clip.TrainingProgress, "save", lambda *a: stop() if a[1] == 2 else saved(*a)
        )
        with pytest.raises(KeyboardInterrupt):
            train(crops, token_ids, recipe, checkpoint)
    resumed = train(crops, token_ids, recipe, checkpoint)
    for name, value in encoders_of(whole).state_dict().items():
        assert torch.equal(value, encoders_of(resumed).state_dict()[name]), name
    with pytest.raises(PivlError, match="was made with other settings"):
        train(crops, token_ids, replace(recipe, passes=3), checkpoint)


def test_command_writes_a_clip_with_its_own_token_table(files: Files) -> None:
    arguments = ["--root", str(files.root), "--passes", "1", "--batch", "27", "--threads", "1"]
    first, second = (CliRunner().invoke(main, arguments) for _ in range(2))
    assert first.exit_code == second.exit_code == 0, first.output
    for result in (first, second):
        assert "caption_rank1" in result.output
    assert [path.name for path in files.root.glob("*.safetensors")] == ["photo_clip.safetensors"]
    people = read_people(files.attributes)
    clip = load_clip("tiny_rn", str(files.photo_clip), SIZE_HW)
    for who in people.values():
        assert UNKNOWN_ROW not in clip.text.tokenizer.encode(caption(who))
    _, _, metadata = load_tensors(files.photo_clip, TINY_KIND)
    assert metadata["recipe"]["crops"] == 54
    assert metadata["held_out_identities"]["crops"] == 6
