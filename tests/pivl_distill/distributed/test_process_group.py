"""Object collectives, sharding, resume, and errors when a peer process fails."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from pivl_distill.cli import main as command_line
from pivl_distill.config import Stage2Settings
from pivl_distill.data import store
from pivl_distill.data.records import Record
from pivl_distill.data.store import CropStore
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.log_handler import logs_on_stderr
from pivl_distill.runs import progress
from pivl_distill.runs.provenance import machine_provenance
from pivl_distill.runs.run import Run
from pivl_distill.training.stage2 import train
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.trainer import Stage2Trainer
from stubs import MapStub

SETTINGS = Stage2Settings(epochs=2, identities_per_batch=3, crops_per_identity=2)
"""Two epochs of two steps each."""


def make_network() -> MapStub:
    """Return a small network in double precision, with a batch norm."""
    return MapStub(6, 3, kernel_size=4, stride=4, size_hw=(16, 8)).double()


def train_run(
    folder: Path, stop_at: int | None = None, stop: Callable[[], None] = lambda: None
) -> MapStub:
    """Start or resume the run in a folder; call `stop` within step `stop_at`, counted from 1."""
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (12, 16, 8, 3), dtype=np.uint8)
    store = CropStore(crops, None, np.repeat(np.arange(3), 4), None)
    run, network, steps = Run(folder), make_network(), iter(range(1, 10))
    step = Stage2Trainer.step

    def stopping(self, *args):
        if next(steps) == stop_at:
            stop()
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage2Trainer, "step", stopping)
        patch.setattr(progress, "SAVE_PERIOD_S", 0.0)
        folder.mkdir(exist_ok=True)
        machine = machine_provenance(torch.device("cpu"))
        with run.progress.session("student", machine=machine):
            train(network, store, Supervision(), SETTINGS, 0, run, "Training")
    return network


class Killed(BaseException):
    """Raised where the test simulates the end of the process."""


def raise_killed() -> None:
    raise Killed


def assert_equals_uninterrupted_run(state: dict[str, Tensor], tmp_path: Path) -> None:
    expected = train_run(tmp_path / "uninterrupted").state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=1e-9, atol=1e-9)


def test_run_of_two_processes_resumes_with_one(launch, tmp_path):
    first, second = launch(2, __file__, "kill", tmp_path / "run")
    assert first.code == second.code == 9
    assert second.output == ""
    assert_equals_uninterrupted_run(train_run(tmp_path / "run").state_dict(), tmp_path)


def test_run_of_one_process_resumes_with_two(launch, tmp_path, capsys):
    with pytest.raises(Killed):
        train_run(tmp_path / "run", 3, raise_killed)
    first, second = launch(2, __file__, "resume", tmp_path / "run")
    assert first.code == second.code == 0, first.output + second.output
    assert "Continuing after step 2 of 4." in first.output
    assert "machine.processes was 1, now 2" in first.output
    assert "message of process 0" in first.output
    assert second.output == ""
    assert_equals_uninterrupted_run(load_file(tmp_path / "weights.safetensors"), tmp_path)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_signal_to_one_process_stops_all_after_the_same_step(launch, tmp_path):
    first, second = launch(2, __file__, "signal", tmp_path / "run")
    assert first.code == second.code == 143
    assert "is unfinished; resume it with `pivl-distill student --resume" in first.output
    assert second.output == ""
    assert_equals_uninterrupted_run(train_run(tmp_path / "run").state_dict(), tmp_path)


@pytest.mark.parametrize("failure", ["gone", "stuck"])
def test_missing_process_ends_the_others_with_an_error(launch, tmp_path, failure):
    first, second = launch(2, __file__, failure, tmp_path / "run")
    assert (first.code, second.code) == (2, 5)
    assert "Error: Process 0 of 2: a peer process failed or timed out" in " ".join(
        first.output.split()
    )
    assert "Traceback" not in first.output
    assert "is unfinished; resume it with `pivl-distill student --resume" in first.output


def test_error_of_one_process_is_reported_once_and_ends_all(launch, tmp_path):
    first, second = launch(2, __file__, "raise", tmp_path / "run")
    assert (first.code, second.code) == (2, 2)
    assert first.output == ""
    assert second.output == "Error: Only process 1 sees this.\n"


def test_error_of_all_processes_is_reported_once(launch):
    results = launch(2, "-m", "pivl_distill", "export")
    assert [process.code for process in results] == [2, 2]
    (message,) = (process.output for process in results if process.output)
    assert (
        message == "Error: `pivl-distill export` is a single process; start it without torchrun.\n"
    )


def test_object_collectives(launch, tmp_path):
    for process in launch(2, __file__, "exchange", tmp_path):
        assert process.code == 0, process.output


def test_only_the_first_process_of_a_machine_hashes_the_files(launch, tmp_path):
    for process in launch(2, __file__, "hash", tmp_path):
        assert process.code == 0, process.output


def test_broadcast_on_node_returns_the_value_of_each_machine(monkeypatch):
    """Each of four processes on two machines gets the value of its machine's first process."""
    gathered = [("a", 0, "one"), ("b", 0, "other"), ("a", 1, None), ("b", 1, None)]
    monkeypatch.setattr(process_group, "all_gather_object", lambda _value: gathered)
    for number, (node, local, _) in enumerate(gathered):
        monkeypatch.setattr(
            process_group, "_group", process_group.ProcessGroup(number, 4, local, None)
        )
        monkeypatch.setattr(process_group.platform, "node", lambda node=node: node)
        value = process_group.broadcast_object_on_node(
            lambda node=node: {"a": "one", "b": "other"}[node]
        )
        assert value == {"a": "one", "b": "other"}[node]


def test_shards_cover_all_items_and_differ_by_at_most_one(monkeypatch):
    for size in range(1, 6):
        monkeypatch.setattr(process_group, "world_size", lambda size=size: size)
        for items in range(12):
            shards = []
            for rank in range(size):
                monkeypatch.setattr(process_group, "rank", lambda rank=rank: rank)
                shards.append(range(items)[process_group.shard(items)])
            assert [item for shard in shards for item in shard] == list(range(items))
            assert max(map(len, shards)) - min(map(len, shards)) <= 1


def run_command(function: Callable[[], None]) -> None:
    """Run `function` as the body of a command."""
    command_line.commands["evaluate"].callback = lambda **_: function()
    command_line(["evaluate"])


def exchange_objects() -> None:
    rank = process_group.rank()
    assert process_group.broadcast_object(lambda: f"from {rank}") == "from 0"
    assert process_group.all_gather_object({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    assert process_group.all_reduce_max(10 * rank) == 10
    assert process_group.broadcast_object(lambda: Path("a")) == Path("a")
    assert process_group.broadcast_object(lambda: None) is None
    assert process_group.broadcast_object_on_node(lambda: f"from {rank}") == "from 0"


def hash_files(folder: Path) -> None:
    """Only process 0 hashes the crops; both processes get the hash."""
    names = [folder / f"{number}.png" for number in range(3)]
    if not process_group.rank():
        for number, name in enumerate(names):
            Image.new("RGB", (8, 16), (number, 0, 0)).save(name)
    process_group.barrier()
    expected = hashlib.sha256(b"".join(sha256(name.read_bytes()) for name in names)).hexdigest()
    hashed = []

    def digest(path: Path) -> bytes:
        hashed.append(path)
        return sha256(path.read_bytes())

    store._file_digest = digest
    records = [Record(path=name, pid=0, camid=0) for name in names]
    assert CropStore.load(records, (16, 8), hash_files=True).contents["images"] == expected
    assert len(hashed) == (0 if process_group.rank() else 3)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def exit_rank_1() -> None:
    if process_group.rank():
        os._exit(5)


def block_rank_1() -> None:
    if process_group.rank():
        sys.stdin.read()  # until process 0 has ended
        os._exit(5)


def raise_error() -> None:
    if process_group.rank():
        raise PivlError("Only process 1 sees this.")
    process_group.barrier()


def send_sigterm() -> None:
    if process_group.rank():
        os.kill(os.getpid(), 15)


def main(task: str, folder: Path) -> None:
    process_group.TIMEOUT = timedelta(seconds=60 if task != "stuck" else 8)
    process_group.REPORT_TIMEOUT = timedelta(seconds=1)
    if task == "kill":
        with process_group.session():
            train_run(folder, 4, lambda: os._exit(9))
    elif task == "resume":
        with logs_on_stderr(), process_group.session():
            logging.getLogger("pivl_distill").info(f"message of process {process_group.rank()}")
            network = train_run(folder)
            if not process_group.rank():
                weights = {n: value.contiguous() for n, value in network.state_dict().items()}
                save_file(weights, folder.parent / "weights.safetensors")
        process_group.exit_process(0)
    elif task == "signal":
        with logs_on_stderr(), process_group.session():
            train_run(folder, 2, send_sigterm)
    elif task in ("gone", "stuck"):
        run_command(lambda: train_run(folder, 2, exit_rank_1 if task == "gone" else block_rank_1))
    else:
        functions = {
            "raise": raise_error,
            "exchange": exchange_objects,
            "hash": partial(hash_files, folder),
        }
        run_command(functions[task])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
