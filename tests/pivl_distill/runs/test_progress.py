"""Runs that are stopped and continued: the same bytes, or a sentence that says why not."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pivl_distill.config import Stage2Settings
from pivl_distill.data.sampling import Step
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.models.network import BNNeck, EncoderOutput, ReIDNetwork, ReIDOutput
from pivl_distill.runs import progress
from pivl_distill.runs.progress import SAVE_PERIOD_S, Progress, is_running
from pivl_distill.runs.run import Run
from pivl_distill.training.stage2 import Stage2Trainer, train

SETTINGS = Stage2Settings(epochs=3, identities_per_batch=6, crops_per_identity=1)
STEPS_PER_EPOCH = 4  # as many as each of the six people has crops
STEPS = SETTINGS.epochs * STEPS_PER_EPOCH


class Killed(BaseException):
    """The process ends here; nothing may depend on its being told."""


class Small(ReIDNetwork):
    """A convolution, whose kernels do not lie in memory in their order, dropout and batch norm."""

    size_hw = (128, 64)
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 5, stride=8)
        self.dropout = nn.Dropout(0.3)
        self.neck = BNNeck(8, 6)

    def forward_features(self, images: Tensor, cameras: Tensor | None = None) -> EncoderOutput:
        return EncoderOutput((self.dropout(self.patches(images).relu().mean((2, 3))),))

    def forward_heads(self, encoded: EncoderOutput) -> ReIDOutput:
        (feature,) = encoded.features
        return ReIDOutput((feature,), (self.neck(feature),), None, None)

    @property
    def body(self) -> nn.Module:
        return self.patches

    def embedding_model(self) -> EmbeddingModel:
        raise NotImplementedError


@pytest.fixture
def sit(band_store, tmp_path) -> Callable[..., Small]:
    """`sit()` begins or continues the run in `run/` and trains as far as it comes."""

    def begin_or_continue(**begun_with: object) -> Small:
        run, network = Run(tmp_path / "run"), Small()
        run.path.mkdir(exist_ok=True)
        with run.progress.session("student", **begun_with):
            train(network, band_store, None, SETTINGS, 0, run, "Training")
        return network

    return begin_or_continue


@pytest.fixture
def unstopped(band_store, tmp_path) -> tuple[dict[str, Tensor], list[dict]]:
    """Weights and metrics of a run in one go."""
    run, network = Run.create("student", "", tmp_path / "unstopped"), Small()
    train(network, band_store, None, SETTINGS, 0, run, "Training")
    return network.state_dict(), metrics(run.path)


@pytest.fixture
def at_step(monkeypatch) -> Callable[[int, Callable[[], None]], None]:
    """`at_step(n, act)` acts in the middle of the n-th step from then on, counted from 1."""
    step = Stage2Trainer.step

    def plant(number: int, act: Callable[[], None]) -> None:
        count = iter(range(1, number + 1))

        def acting(self, *args):
            if next(count, None) == number:
                act()
            return step(self, *args)

        monkeypatch.setattr(Stage2Trainer, "step", acting)

    return plant


def die() -> None:
    raise Killed


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def metrics(path: Path) -> list[dict]:
    """The lines of a run without the one figure that a clock decides."""
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "crops_per_s"} for line in lines]


def assert_same(network: Small, path: Path, unstopped: tuple[dict[str, Tensor], list[dict]]):
    weights, lines = unstopped
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert metrics(path) == lines


@pytest.mark.parametrize("period_s", [progress.SAVE_PERIOD_S, 0.0])
def test_killed_at_any_step_it_goes_on_to_the_same_weights_and_metrics(
    sit, at_step, unstopped, tmp_path, monkeypatch, period_s
):
    """Saved at the end of epochs, or after each step."""
    monkeypatch.setattr(progress, "SAVE_PERIOD_S", period_s)
    for number in (1, 1, 4, 2, 6, 1, 3):  # of the steps of each sitting
        at_step(number, die)
        with pytest.raises(Killed):
            sit()
    at_step(0, die)
    assert_same(sit(), tmp_path / "run", unstopped)


def test_what_is_saved_is_not_done_again(sit, at_step, capsys):
    at_step(STEPS_PER_EPOCH + 2, die)
    with pytest.raises(Killed):
        sit()
    at_step(STEPS - STEPS_PER_EPOCH, die)  # the last of the steps that are left
    with pytest.raises(Killed):
        sit()
    assert f"Continuing after step 4 of {STEPS}." in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["before the rename", "after it"])
def test_killed_while_the_state_is_written(sit, unstopped, tmp_path, monkeypatch, moment):
    run, replace, renames = tmp_path / "run", os.replace, iter(range(100))

    def killed(source, target):
        if Path(target).name != "progress.safetensors" or next(renames) != 1:
            return replace(source, target)
        if moment == "after it":
            replace(source, target)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        patch.setattr(Path, "unlink", lambda *_args, **_kwargs: None)  # nobody tidies up
        with pytest.raises(Killed):
            sit()
    partial = [path for path in (run / "state").iterdir() if path.name.startswith(".")]
    assert len(partial) == (moment == "before the rename")
    assert_same(sit(), run, unstopped)
    assert list(run.rglob(".*")) == []


def test_lines_after_the_saved_state_are_taken_back(sit, at_step, unstopped, tmp_path):
    at_step(2 * STEPS_PER_EPOCH + 1, die)
    with pytest.raises(Killed):
        sit()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "reid", "epoch": 3}\n{"stage": "re')
    assert_same(sit(), tmp_path / "run", unstopped)


def test_killed_before_anything_was_saved_it_begins_anew(sit, at_step, unstopped, tmp_path):
    at_step(2, die)
    with pytest.raises(Killed):
        sit()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"stage": "reid"')
    assert_same(sit(), tmp_path / "run", unstopped)


@pytest.mark.parametrize(
    ("number", "stopped", "code"),
    [(signal.SIGTERM, SystemExit, 143), (signal.SIGINT, KeyboardInterrupt, None)],
)
def test_a_signal_waits_for_the_step_and_its_state(
    sit, at_step, unstopped, tmp_path, capsys, number, stopped, code
):
    at_step(STEPS_PER_EPOCH + 2, send(number))
    with pytest.raises(stopped) as raised:
        sit()
    assert getattr(raised.value, "code", None) == code
    said = capsys.readouterr().err
    assert f"continue it with `pivl-distill student --resume {tmp_path / 'run'}`" in said
    at_step(0, die)
    network = sit()
    assert f"Continuing after step {STEPS_PER_EPOCH + 2} of {STEPS}." in capsys.readouterr().err
    assert_same(network, tmp_path / "run", unstopped)


def test_a_second_signal_does_not_wait(sit, at_step, capsys):
    def twice() -> None:
        send(signal.SIGINT)()
        send(signal.SIGINT)()
        raise AssertionError("the step went on")

    at_step(2, twice)
    with pytest.raises(KeyboardInterrupt):
        sit()


@pytest.mark.parametrize("moment", ["reading data", "after the last step"])
def test_outside_of_steps_a_signal_stops_at_once(tmp_path, capsys, moment):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    progress = Progress(tmp_path)

    def interrupted_session() -> None:
        with progress.session("teach"):
            if moment == "after the last step":
                assert list(progress.remaining("reid", ())) == []
            send(signal.SIGTERM)()
            pytest.fail("went on")

    with pytest.raises(SystemExit) as raised:
        interrupted_session()
    assert raised.value.code == 143
    assert "pivl-distill teach --resume" in capsys.readouterr().err
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


def test_signals_are_left_alone_in_other_threads(sit):
    trained: list[Small] = []
    thread = threading.Thread(target=lambda: trained.append(sit()))
    thread.start()
    thread.join()
    assert len(trained) == 1


def test_signals_that_are_ignored_stay_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        with Progress(tmp_path).session("teach"):
            send(signal.SIGINT)()
    finally:
        signal.signal(signal.SIGINT, before)


BEGUN_WITH = {
    "config": {"seed": 0, "stage2": {"epochs": 3, "loss": {"align": 5.0}}},
    "data": {"name": "market1501", "images": "ab", "maps": None},
    "bank": {"file": "/here/bank", "sha256": "12"},
}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"config": {"seed": 1, "stage2": {"epochs": 3}}}, "config.seed was 0, now 1"),
        ({"config": {"seed": 0, "stage2": {"epochs": 4}}}, "config.stage2.epochs was 3, now 4"),
        ({"config": {"seed": 0, "stage2": {}}}, "config.stage2.loss was {'align': 5.0}, now None"),
        ({"config": BEGUN_WITH["config"] | {"new": 1}}, "config.new was None, now 1"),
        ({"data": BEGUN_WITH["data"] | {"images": "cd"}}, "data.images was ab, now cd"),
        ({"data": BEGUN_WITH["data"] | {"maps": "ef"}}, "data.maps was None, now ef"),
        ({"bank": {"file": "/here/bank", "sha256": "34"}}, "bank.sha256 was 12, now 34"),
        ({"bank": None}, "bank was {'file': '/here/bank', 'sha256': '12'}, now None"),
    ],
)
def test_a_run_goes_on_with_what_it_was_begun_with_or_not_at_all(
    sit, at_step, tmp_path, changes, sentence
):
    at_step(STEPS_PER_EPOCH + 1, die)
    with pytest.raises(Killed):
        sit(**BEGUN_WITH)
    files = [p for p in sorted((tmp_path / "run").rglob("*")) if p.is_file() and p.name != "lock"]
    before = [path.read_bytes() for path in files]
    with pytest.raises(PivlError) as refused:
        sit(**BEGUN_WITH | changes)
    assert f"{tmp_path / 'run'} was begun with something else:" in str(refused.value)
    assert f"\n  {sentence}\n" in str(refused.value)
    assert [path.read_bytes() for path in files] == before


def test_everything_that_changed_is_named(tmp_path):
    progress = Progress(tmp_path)
    progress.pin(**BEGUN_WITH)
    with pytest.raises(PivlError) as refused:
        progress.pin(config={"seed": 7, "stage2": {"epochs": 9, "loss": {"align": 5.0}}})
    told = [line for line in str(refused.value).splitlines() if line.startswith("  ")]
    assert told == ["  config.seed was 0, now 7", "  config.stage2.epochs was 3, now 9"]


def test_a_bank_may_have_moved(tmp_path):
    progress = Progress(tmp_path)
    progress.pin(**BEGUN_WITH)
    progress.pin(bank={"file": "/there/bank", "sha256": "12"})
    assert progress.contract["bank"]["file"] == "/there/bank"


def test_another_machine_is_said_but_not_refused(tmp_path, capsys):
    progress = Progress(tmp_path)
    progress.pin(machine={"device": "cpu", "threads": 2})
    progress.pin(machine={"device": "cpu", "threads": 2})
    assert capsys.readouterr().err == ""
    progress.pin(machine={"device": "cpu", "threads": 8})
    said = capsys.readouterr().err
    assert "last bits" in said
    assert "machine.threads was 2, now 8" in said


def test_later_facts_are_pinned_beside_the_earlier_ones(tmp_path):
    progress = Progress(tmp_path)
    progress.pin(config={"seed": 0})
    progress.pin(bank="12")
    assert Progress(tmp_path).contract == {"config": {"seed": 0}, "bank": "12"}


def test_one_process_at_a_time(tmp_path):
    assert not is_running(tmp_path)
    with Progress(tmp_path).session("teach"):
        assert is_running(tmp_path)
        with (
            pytest.raises(PivlError, match="Another process is running"),
            Progress(tmp_path).session("teach"),
        ):
            pytest.fail("two processes at one run")
    assert not is_running(tmp_path)


def test_a_finished_run_keeps_no_state(tmp_path):
    run = Run.create("teach", "", tmp_path / "run")
    with run.progress.session("teach", config={}):
        assert (run.path / "state" / "contract.json").is_file()
        run.finish("teach")
        assert (run.path / "state").is_dir()  # until all is over
    assert sorted(p.name for p in run.path.iterdir()) == ["config.yaml", "run.json"]


def test_a_damaged_state_is_said(sit, at_step, tmp_path):
    at_step(STEPS_PER_EPOCH + 1, die)
    with pytest.raises(Killed):
        sit()
    file = tmp_path / "run" / "state" / "progress.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(PivlError, match=r"progress\.safetensors is not a training progress"):
        sit()


def test_progress_of_an_earlier_stage_is_no_progress_of_this_one(sit, at_step, unstopped, tmp_path):
    at_step(STEPS_PER_EPOCH + 1, die)
    with pytest.raises(Killed):
        sit()
    progress = Progress(tmp_path / "run")
    with progress.session("teach"):
        part = Small()
        assert len(progress.remaining("another", range(9), part=part)) == 9
    assert torch.equal(part.patches.weight, Small().patches.weight)


def six_steps(epoch: int = 3) -> list[Step]:
    """Six steps in epochs of this many."""
    rng = np.random.default_rng(0)
    return [Step(n // epoch, n % epoch, epoch, np.arange(2), rng) for n in range(6)]


@pytest.fixture
def clock(monkeypatch) -> Callable[[float], None]:
    """Time that passes only when asked to: `clock(seconds)`."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    return pass_time


def test_time_counts_for_the_stage_that_was_entered(clock):
    progress = Progress(Path())
    clock(1)  # nothing was entered yet
    for stage, seconds in (("prompts", 2), ("teacher", 4), ("prompts", 8), ("end", 16)):
        progress.enter(stage)
        clock(seconds)
    progress.enter("never")
    assert progress.seconds == {"prompts": 10, "teacher": 4, "end": 16}


def test_seconds_up_to_the_saved_step_outlive_a_kill(clock, tmp_path):
    def sitting(progress: Progress, step_s: float, killed_in: int | None = None) -> None:
        with progress.session("student"):
            progress.enter("training")
            for number, _ in enumerate(progress.remaining("reid", six_steps()), start=1):
                clock(step_s)
                if number == killed_in:
                    raise Killed
            progress.enter("evaluation")

    with pytest.raises(Killed):
        sitting(Progress(tmp_path), step_s=10, killed_in=5)
    again = Progress(tmp_path)
    sitting(again, step_s=1)
    assert again.seconds == {"training": 3 * 10 + 3 * 1}


def test_a_long_epoch_is_saved_within_bounds(clock, tmp_path):
    progress = Progress(tmp_path)
    file, saved = tmp_path / "state" / "progress.safetensors", []
    with progress.session("student"):
        for _ in progress.remaining("reid", six_steps(epoch=6)):
            saved.append(file.is_file())
            clock(0.4 * SAVE_PERIOD_S)
    assert saved == [False, False, False, True, True, True]


def test_states_come_back_with_their_keys_types_and_layout():
    kernel = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    state = {
        "state": {0: {"step": torch.tensor(3.0), "moment": kernel}, 1: {}},
        "groups": [{"lr": 0.1, "betas": [0.9, 0.999], "fused": True, "none": None}],
        "flat.name": torch.arange(3),
    }
    tensors: dict[str, Tensor] = {}
    packed = json.loads(json.dumps(progress._pack(state, "optimizer", tensors)))
    assert set(tensors) == {
        "optimizer.state.0.step",
        "optimizer.state.0.moment",
        "optimizer.flat.name",
    }
    back = progress._unpack(packed, {name: t.contiguous() for name, t in tensors.items()})
    assert back["groups"] == state["groups"]
    assert back["state"].keys() == {0, 1}
    assert torch.equal(back["state"][0]["moment"], kernel)
    assert back["state"][0]["moment"].stride() == kernel.stride()
    assert torch.equal(back["flat.name"], state["flat.name"])
