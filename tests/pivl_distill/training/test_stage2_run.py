"""The steps that `teach`, `student` and their dry runs share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from pivl_distill.config import StudentConfig
from pivl_distill.data.sampling import epoch_rng, pk_batches
from pivl_distill.data.synthetic.cache import cached_dataset
from pivl_distill.errors import PivlError
from pivl_distill.training import stage2_run
from pivl_distill.training.disk_room import CacheEntry
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
    stage2 = Stage2Run.prepare("student", CONFIG, tmp_path / "run")
    store = stage2.load_crops(None)
    with stage2.session(store, start="none") as run:
        assert run.progress.contract.values["contents"] == store.contents
    again = Stage2Run.prepare("student", CONFIG, resume=tmp_path / "run")
    again.refuse_changes(start="none")
    with again.session(store, start="none") as resumed:
        assert resumed.path == run.path
    with pytest.raises(PivlError, match="start was none, now timm"):
        again.refuse_changes(start="timm")
    with (
        pytest.raises(PivlError, match="start was none, now timm"),
        again.session(store, start="timm"),
    ):
        pass


def test_evaluation_may_be_left_out_on_resume_and_is_recorded(tmp_path: Path) -> None:
    stage2 = Stage2Run.prepare("student", CONFIG, tmp_path / "run")
    store = stage2.load_crops(None)
    assert stage2.test_crops is not None
    with stage2.session(store) as run:
        pass
    assert run.data_settings.evaluation
    unscored = CONFIG.model_copy(
        update={"data": CONFIG.data.model_copy(update={"evaluation": False})}
    )
    resumed = Stage2Run.prepare("student", unscored, resume=run.path)
    assert resumed.test_crops is None
    with resumed.session(store):
        assert not run.data_settings.evaluation


def test_unreadable_test_image_is_found_before_the_run_starts(tmp_path: Path, monkeypatch) -> None:
    root = tmp_path / "people"
    shutil.copytree(cached_dataset("tiny"), root)
    image = sorted((root / "bounding_box_test").iterdir())[-1]
    image.write_bytes(image.read_bytes()[:-500])  # the header is intact
    data = CONFIG.data.model_copy(update={"spec": f"market1501:{root}"})
    config = CONFIG.model_copy(update={"data": data})
    stage2 = Stage2Run.prepare("student", config)
    assert stage2.problems.found == []
    with pytest.raises(PivlError, match=f"Cannot read the image .*{image.name}"):
        stage2.load_crops(None)
    data = data.model_copy(update={"evaluation": False})
    Stage2Run.prepare("student", config.model_copy(update={"data": data})).load_crops(None)


def test_errors_that_leave_nothing_to_check_are_listed_together(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    data = CONFIG.data.model_copy(update={"spec": f"market1501:{tmp_path / 'gone'}"})
    config = CONFIG.model_copy(update={"data": data, "device": "meta"})
    with pytest.raises(PivlError) as refused:
        Stage2Run.prepare("student", config, tmp_path / "run")
    message = str(refused.value)
    assert message.startswith("3 problems; nothing was started:")
    for problem in ("already contains a run", "--dry-run only", "there is no such folder"):
        assert problem in message


def test_room_is_checked_for_all_crops_that_are_read(tmp_path: Path, monkeypatch) -> None:
    checked = []
    monkeypatch.setattr(stage2_run, "check_room", lambda *arguments: checked.append(arguments))
    data = {"crop_cache_gib": 1, "validation_identities": 3}
    config = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update=data)})
    stage2 = Stage2Run.prepare("student", config, tmp_path / "run")
    stage2.check_room(7, [CacheEntry("features", 5)])
    ((folder, size, entries),) = checked
    assert (folder, size, entries[-1]) == (tmp_path / "run", 7, CacheEntry("features", 5))
    crops = [len(stage2.dataset.train), 48 - len(stage2.dataset.train)]
    crops += [len(stage2.dataset.query), len(stage2.dataset.gallery)]
    expected = [3 * 32 * 16 * count for count in crops] + [32 * 16 * crops[0]]
    assert [entry.size for entry in entries[:-1]] == expected


@pytest.mark.parametrize(("name", "value"), [("keep_best", True), ("evaluate_every", 2)])
def test_evaluation_needs_held_out_identities(name: str, value: object) -> None:
    stage2 = CONFIG.stage2.model_copy(update={name: value})
    config = CONFIG.model_copy(update={"stage2": stage2})
    (problem,) = Stage2Run.prepare("student", config).problems.found
    assert f"stage2.{name} needs identities to validate on" in problem
    data = CONFIG.data.model_copy(update={"validation_identities": 3})
    run = Stage2Run.prepare("student", config.model_copy(update={"data": data}))
    assert run.validation is not None
    assert len(run.dataset.train_pids) == 5
    assert {record.pid for record in run.validation.query}.isdisjoint(run.dataset.train_pids)
