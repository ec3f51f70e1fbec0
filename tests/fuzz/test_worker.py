"""The worker notices everything that is neither a result nor a readable refusal."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("memory is limited and measured with /proc", allow_module_level=True)

from fuzz import worker
from fuzz.case import Case
from fuzz.messages import fault_of_message
from fuzz.worker import MEMORY_BYTES, Worker
from pivl_distill.errors import PivlError

CASE = Case({"bank.bin": b"abc", "folder/": b""}, {"names": ["seed"]})
REFUSAL = PivlError("bank.bin is damaged; make it again.")


def fail(error: BaseException) -> None:
    raise error


def take(size: int) -> None:
    """Use fresh memory; `bytes` may get what the process has freed, which is resident already."""
    with mmap.mmap(-1, size) as memory:
        for page in range(0, size, mmap.PAGESIZE):
            memory[page] = 1


USES: dict[str, tuple[Callable[[Path, Path], object], str, str]] = {
    "result": (lambda given, out: (given / "bank.bin").read_bytes(), "result", ""),
    "refusal": (lambda given, out: fail(REFUSAL), "refusal", ""),
    "written": (lambda given, out: (out / "new.bin").write_bytes(b"x"), "result", ""),
    "exception": (lambda given, out: fail(KeyError("x")), "failure", "KeyError in test_worker"),
    "exit": (lambda given, out: fail(SystemExit(1)), "failure", "SystemExit in test_worker"),
    "message": (lambda given, out: fail(PivlError("")), "failure", "message is empty"),
    "changed": (
        lambda given, out: (given / "bank.bin").write_bytes(b"x"), "failure", "changed the input"
    ),
    "added": (lambda given, out: (given / "x").touch(), "failure", "changed the input"),
    "partial": (
        lambda given, out: (out / ".a.x.partial").touch(), "failure", "left partial files"
    ),
    "memory": (
        lambda given, out: take(MEMORY_BYTES + 2**20), "failure", "took more than 512 MiB"
    ),
    "absurd memory": (lambda given, out: bytes(2**40), "failure", "MemoryError in test_worker"),
}  # fmt: skip


@pytest.mark.parametrize("name", USES)
def test_each_outcome_is_recognised(name: str, tmp_path: Path) -> None:
    use, outcome, signature = USES[name]

    def with_options(given: Path, out: Path, options: Any) -> None:
        assert options == CASE.options
        assert (given / "folder").is_dir()
        use(given, out)

    verdict = worker._examine(with_options, CASE, tmp_path / "case")
    assert verdict.outcome == outcome, verdict.text
    assert verdict.signature.startswith(signature)
    assert verdict.peak_bytes >= (MEMORY_BYTES if name == "memory" else 0)


def test_slow_uses_are_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "CPU_S", 0.0)
    verdict = worker._examine(lambda *_: sum(range(10**5)), CASE, tmp_path / "case")
    assert (verdict.outcome, verdict.signature) == ("failure", "took more than 0 s")


def test_a_process_that_dies_is_a_failure_and_is_replaced() -> None:
    case = Case({"crop.png": b"no image"})
    with Worker() as started:
        assert started.examine("images", case).outcome == "refusal"
        os.kill(started._process.pid, 9)
        started._process.join()
        assert started.examine("images", case).signature == "crash -9"
        assert started.examine("images", case).outcome == "refusal"
        folder = started._folder
    assert not folder.exists()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("bank.bin is damaged; make it again.", ""),
        ("Bad settings in bank.bin:\n  seed: not a number\n  device: not a name", ""),
        ("The seed is too large.", ""),
        ("The number is too large.", "names no place"),
        (" \n", "is empty"),
        ("bank.bin " + "x" * 3000, "is too long"),
        ("bank.bin: <Tensor object at 0x7f>", "shows internals"),
        ('bank.bin:\n  File "x.py", line 3', "shows internals"),
        ("KeyError: 'bank.bin'", "shows internals"),
        ("bank.bin \x1b[2J", "holds control characters"),
        ("bank.bin: std::bad_alloc", "ran out of memory"),
        ("bank.bin is damaged:\nsee the log", "has several lines that are no list"),
    ],
)
def test_messages_have_a_form(text: str, fault: str, tmp_path: Path) -> None:
    assert fault_of_message(text, tmp_path, CASE) == fault
