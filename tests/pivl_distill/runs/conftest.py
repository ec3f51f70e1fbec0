"""A small network trained in a run that tests interrupt and resume."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from pivl_distill.runs.run import Run
from pivl_distill.training.stage2 import train
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.trainer import Stage2Trainer
from small_run import SETTINGS, small_network
from stopped_runs import read_metrics
from stubs import MapStub


@pytest.fixture
def train_run(band_store, tmp_path) -> Callable[..., MapStub]:
    """`train_run()` starts or resumes the run in `run/` and trains until it ends or is stopped."""

    def start_or_resume(**pinned: object) -> MapStub:
        run, network = Run(tmp_path / "run"), small_network()
        run.path.mkdir(exist_ok=True)
        with run.progress.session("student", **pinned):
            train(network, band_store, Supervision(), SETTINGS, 0, run, "Training")
        return network

    return start_or_resume


@pytest.fixture
def uninterrupted(band_store, tmp_path) -> tuple[dict[str, Tensor], list[dict]]:
    """Weights and metrics of an uninterrupted run."""
    run, network = Run.create("student", "", tmp_path / "uninterrupted"), small_network()
    train(network, band_store, Supervision(), SETTINGS, 0, run, "Training")
    return network.state_dict(), read_metrics(run.path)


@pytest.fixture
def call_at_step(monkeypatch) -> Callable[[int, Callable[[], None]], None]:
    """`call_at_step(n, function)` calls it at the start of the n-th step from then on, from 1."""
    step = Stage2Trainer.step

    def patch_step(number: int, function: Callable[[], None]) -> None:
        count = iter(range(1, number + 1))

        def step_with_call(self, *args):
            if next(count, None) == number:
                function()
            return step(self, *args)

        monkeypatch.setattr(Stage2Trainer, "step", step_with_call)

    return patch_step
