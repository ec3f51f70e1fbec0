"""A full disk for messages stops no command; one for results does."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pivl_distill.cli import lossy_messages
from pivl_distill.cli.lossy_messages import make_messages_lossy
from pivl_distill.data.synthetic.cache import cached_dataset

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


@needs_full
def test_what_cannot_be_written_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with FULL.open("w", encoding="ascii", errors="replace") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "__stderr__", stream)
        make_messages_lossy()
        print("a message →", file=sys.stderr)
        sys.stderr.flush()
        assert (sys.stderr.encoding, sys.stderr.errors) == ("ascii", "replace")
        assert sys.stderr is not stream
        make_messages_lossy()  # as a second command in one process


def test_another_stream_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = sys.stderr
    monkeypatch.setattr(sys, "__stderr__", None)
    make_messages_lossy()
    assert sys.stderr is stream


def test_other_errors_are_raised(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(OSError, match="Broken pipe") as caught:
        lossy_messages._LossyFile(write, "w").write(b"for nobody")
    assert caught.value.errno == errno.EPIPE
    with lossy_messages._LossyFile(str(tmp_path / "log"), "w") as file:
        assert file.write(b"message") == 7
    assert (tmp_path / "log").read_bytes() == b"message"


@needs_full
@pytest.mark.parametrize(("stream", "code"), [("stderr", 0), ("stdout", 2)])
def test_a_command_on_a_full_disk(stream: str, code: int) -> None:
    command = [
        sys.executable,
        "-m",
        "pivl_distill",
        "check",
        f"market1501:{cached_dataset('tiny')}",
    ]
    with FULL.open("w") as full:
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        result = subprocess.run(command, **streams | {stream: full}, text=True)
    assert result.returncode == code
    if stream == "stdout":
        assert "No space left on device" in result.stderr
        assert "Traceback" not in result.stderr
        assert "Exception ignored" not in result.stderr
    else:
        assert "102" in result.stdout
