"""A bank from a CLIP-ReID checkpoint: order of identities, and token table of the base CLIP."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import open_clip
import pytest
import torch

from pivl_distill.config import DataSettings, TuningSettings
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.records import Record
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.errors import PivlError
from teachers.clip import with_weights_hash
from teachers.clip_loading import load_clip
from teachers.clip_reid_bank import (
    encode_part_texts,
    import_clip_reid_bank,
    make_clip_reid_bank,
    order_pids,
    text_agreement,
)
from teachers.clip_reid_checkpoint import parse_checkpoint, take_token_table
from teachers.stage1_losses import resolve_temperature
from teachers.text_encoder import Tokenizer

SIZE_HW = (256, 128)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic:tiny", None)


@pytest.fixture
def with_base(checkpoint_and_base):
    """A checkpoint and the file of its base CLIP."""
    state, path = checkpoint_and_base()
    return parse_checkpoint(state, "checkpoint"), path


def with_training_pids(dataset, pids):
    records = tuple(Record(Path(f"{pid:05d}_c1.jpg"), pid, 0) for pid in pids)
    return dataclasses.replace(dataset, train=records)


def test_rows_follow_the_iteration_order_of_a_set_of_pids(dataset):
    assert order_pids(with_training_pids(dataset, [7, 2, 2, 5]), 3, Path("x")) == (2, 5, 7)
    # A set of three integers iterates in order of hash modulo 8: 33 is 1, 70 is 6.
    assert order_pids(with_training_pids(dataset, [2, 33, 70]), 3, Path("x")) == (33, 2, 70)
    assert sorted(order_pids(dataset, 8, Path("x"))) == list(dataset.train_pids)


def test_dataset_with_another_number_of_identities_is_refused(dataset):
    with pytest.raises(PivlError, match=r"x\.pth was trained on 10 identities, but .* has 8"):
        order_pids(dataset, 10, Path("x.pth"))


def test_without_a_base_clip_the_bank_has_identity_texts_only(with_base, dataset):
    checkpoint, _ = with_base
    bank = make_clip_reid_bank(checkpoint, dataset, dataset.train_pids, None)
    assert torch.equal(bank.identity, checkpoint.identity_texts())
    assert not bank.present.any()
    assert not bank.part.any()
    assert bank.provenance["clip_sha256"] == checkpoint.clip.weights_sha256


def test_part_texts_use_learned_tokens_and_the_base_token_table(with_base):
    checkpoint, path = with_base
    present = torch.ones(8, len(LIP20), dtype=torch.bool)
    part, label = encode_part_texts(checkpoint, LIP20, present, str(path))
    assert part.shape == (8, len(LIP20), 24)
    text, tokens = checkpoint.clip.text, checkpoint.prompts.tokens
    ids = Tokenizer()
    hat = torch.tensor([*ids.encode("person hat"), ids.end])
    prompt = torch.cat([checkpoint.prompts.prefix, tokens[5], text.token_embedding(hat)])[None]
    expected = text(prompt, torch.tensor([prompt.shape[1] - 1]))[0]
    torch.testing.assert_close(part[5, LIP20.index("Hat")], expected, rtol=1e-4, atol=1e-5)
    base = load_clip("small-reid-quickgelu", str(path), SIZE_HW).text.token_embedding
    assert torch.equal(text.token_embedding.weight, base.weight)
    torch.testing.assert_close(label[1], text.encode(["a photo of a person hat"])[0])


def test_temperature_comes_from_the_base_clip(checkpoint_and_base):
    state, path = checkpoint_and_base()
    base = torch.load(path, weights_only=True)
    torch.save(base | {"logit_scale": torch.tensor(100.0).log()}, path)
    checkpoint = parse_checkpoint(state, "checkpoint")
    settings = TuningSettings(part_temperature="clip")
    take_token_table(checkpoint, str(path))
    resolved = resolve_temperature(settings, with_weights_hash(checkpoint.clip))
    assert resolved.part_temperature == pytest.approx(0.01)


def test_token_table_of_another_clip_is_refused(with_base, tmp_path):
    checkpoint, _ = with_base
    other = open_clip.create_model("small-reid", force_quick_gelu=True)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    with pytest.raises(
        PivlError, match=r"The token table of '.*other\.pt' does not match the checkpoint"
    ):
        take_token_table(checkpoint, str(tmp_path / "other.pt"))


def test_present_parts_come_from_the_maps(with_base, dataset):
    checkpoint, path = with_base
    bank = make_clip_reid_bank(checkpoint, dataset, dataset.train_pids, str(path))
    assert bank.present[:, LIP20.background].all()
    assert 0.1 < bank.present.float().mean() < 0.9
    without = make_clip_reid_bank(
        checkpoint, dataclasses.replace(dataset, vocabulary=None), dataset.train_pids, str(path)
    )
    assert without.present.all()


def test_text_agreement_is_the_share_of_crops_nearest_to_their_own_text(with_base, dataset):
    checkpoint, _ = with_base
    bank = make_clip_reid_bank(checkpoint, dataset, dataset.train_pids, None)
    same = dataclasses.replace(bank, identity=torch.ones_like(bank.identity))
    assert text_agreement(checkpoint, same, dataset) == pytest.approx(1 / 8)


def test_run_folder_has_the_files_of_a_teach_run(small_reid_state, tmp_path):
    torch.save(small_reid_state(cameras=6, identities=8), tmp_path / "sie_olp.pth")
    data = DataSettings(spec="synthetic:tiny")
    report = import_clip_reid_bank(tmp_path / "sie_olp.pth", data, out=tmp_path / "run")
    assert {path.name for path in report.run.iterdir()} == {
        "config.yaml",
        "prompt_bank.safetensors",
        "run.json",
        "teacher.safetensors",
    }
    assert (report.identities, report.parts) == (8, False)
