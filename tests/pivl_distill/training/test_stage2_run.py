"""The steps that `teach`, `student` and their dry runs share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pivl_distill.config import StudentConfig
from pivl_distill.data.sampling import epoch_rng, pk_batches
from pivl_distill.errors import PivlError
from pivl_distill.training.stage2_run import Stage2Run

CONFIG = StudentConfig(
    data={"spec": "synthetic:tiny", "size_hw": (32, 16), "crop_cache_gib": 0},
    stage2={"identities_per_batch": 3, "crops_per_identity": 2},
    device="cpu",
)


def test_only_dry_runs_accept_the_meta_device() -> None:
    config = CONFIG.model_copy(update={"device": "meta"})
    assert Stage2Run.prepare("student", config, dry_run=True).device == torch.device("meta")
    with pytest.raises(PivlError, match="--dry-run only"):
        Stage2Run.prepare("student", config)


def test_prepare_seeds_torch() -> None:
    draws = []
    for seed in (1, 1, 2):
        Stage2Run.prepare("student", CONFIG.model_copy(update={"seed": seed}))
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1] != draws[2]


def test_first_batch_holds_its_crops_and_their_indices() -> None:
    stage2 = Stage2Run.prepare("student", CONFIG, dry_run=True)
    store, indices = stage2.load_first_batch(None)
    batch = pk_batches(stage2.pids, 3, 2, epoch_rng(CONFIG.seed, 0))[0]
    assert indices.tolist() == batch.tolist()
    assert store.pids.tolist() == stage2.pids[batch].tolist()


def test_resume_reopens_the_run_with_equal_inputs_only(tmp_path: Path) -> None:
    stage2 = Stage2Run.prepare("student", CONFIG)
    with stage2.session(tmp_path / "run", None, start="none") as run:
        store = stage2.load_crops(run, None)
        assert run.progress.contract.values["contents"] == store.contents
    with stage2.session(None, tmp_path / "run", start="none") as resumed:
        assert resumed.path == run.path
    with (
        pytest.raises(PivlError, match="start was none, now timm"),
        stage2.session(None, tmp_path / "run", start="timm"),
    ):
        pass


@pytest.mark.parametrize(("name", "value"), [("keep_best", True), ("evaluate_every", 2)])
def test_evaluation_needs_held_out_identities(name: str, value: object) -> None:
    stage2 = CONFIG.stage2.model_copy(update={name: value})
    config = CONFIG.model_copy(update={"stage2": stage2})
    with pytest.raises(PivlError, match=rf"stage2\.{name} needs identities to validate on"):
        Stage2Run.prepare("student", config)
    data = CONFIG.data.model_copy(update={"validation_identities": 3})
    run = Stage2Run.prepare("student", config.model_copy(update={"data": data}))
    assert run.validation is not None
    assert len(run.dataset.train_pids) == 5
    assert {record.pid for record in run.validation.query}.isdisjoint(run.dataset.train_pids)
