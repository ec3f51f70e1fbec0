"""Run a consumer in a process of its own, with a Python in which it is installed.

The process runs a script of `export.consumers.scripts`, which needs nothing of ours but
`worker_io.py` beside it. Frames go to its standard input and vectors come from its standard output,
each message a line of JSON and then raw bytes; `worker_io.py` is the other end.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from export.consumers.base import (
    Consumer,
    ExportFolder,
    Frame,
    NetworkFile,
    NotRunnableError,
    Runner,
    RunOptions,
)
from pivl_distill.errors import PivlError

SCRIPTS = Path(__file__).parent / "scripts"
OFFLINE = {
    "PIP_NO_INDEX": "1",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_OFFLINE": "true",
    "CUDA_VISIBLE_DEVICES": "",
}
"""Environment of the process: consumers install packages by themselves, and prefer a GPU."""
_ERROR_LINES = 3
_VERSION = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


@dataclass(frozen=True)
class Package:
    """A Python package that runs networks: its name for pip, its script, and its own name."""

    distribution: str
    script: str
    """Name of the file in `SCRIPTS`."""
    title: str

    @contextmanager
    def open(self, consumer: str, options: RunOptions, *arguments: object) -> Iterator[Runner]:
        """Start the script with these arguments; the process ends with the block.

        Raises NotRunnableError if `options` names no Python for `consumer` and ours does not have
        the package, PivlError if the script cannot open the network.
        """
        python = options.pythons.get(consumer) or self._our_python(consumer)
        with run_worker([python, SCRIPTS / self.script, *arguments], self.title) as runner:
            yield runner

    def _our_python(self, consumer: str) -> Path:
        """This Python, if it has the package; raises NotRunnableError with what to do if not."""
        try:
            importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            raise NotRunnableError(
                f"{self.title} is not installed here. Install it in an environment of its own and"
                f" name its Python: --consumer-python {consumer}=PATH."
            ) from None
        return Path(sys.executable)


class PackageConsumer(Consumer):
    """A consumer that is a Python package, run by a script in the Python that has it."""

    package: ClassVar[Package]

    @abstractmethod
    def arguments(self, folder: Path, file: NetworkFile) -> Sequence[object]:
        """Return the arguments of the script for a network in `folder`."""

    def check_python(self, python: Path) -> None:
        installed_version(self.package.distribution, python)

    @contextmanager
    def open(
        self, export: ExportFolder, folder: Path, file: NetworkFile, options: RunOptions
    ) -> Iterator[Runner]:
        with self.package.open(self.name, options, *self.arguments(folder, file)) as runner:
            yield runner


@contextmanager
def run_worker(command: Sequence[object], title: str) -> Iterator[Runner]:
    """Start the other end of this module, which runs `title`; the process ends with the block."""
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile() as errors:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment |= OFFLINE | {"YOLO_CONFIG_DIR": home}
        process = subprocess.Popen(  # noqa: S603  (our script, the user's Python)
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
        )
        connection = _Connection(process, errors, title)
        try:
            yield Runner(connection.embed, connection.receive()["by"])
        finally:
            process.kill()
            process.communicate()


def installed_version(distribution: str, python: Path) -> str:
    """Return the version of a package in `python`; raise PivlError if it is not there."""
    try:
        result = subprocess.run(  # noqa: S603  (the user's Python)
            [str(python), "-I", "-c", _VERSION, distribution], capture_output=True, text=True
        )
    except OSError as error:
        raise PivlError(f"Cannot run the Python {python}: {error.strerror}.") from error
    if result.returncode:
        raise PivlError(f"{distribution} is not installed in {python}.")
    return result.stdout.strip()


@dataclass(frozen=True)
class _Connection:
    """A running script; its error output is in `errors`."""

    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    title: str

    def embed(self, frames: Sequence[Frame]) -> np.ndarray:
        """Return the vectors float32 [N, F] of N frames; raises PivlError if the script fails."""
        header = [{"size_hw": f.pixels.shape[:2], "box": f.box} for f in frames]
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"frames": header}).encode() + b"\n")
            for frame in frames:
                self.process.stdin.write(np.ascontiguousarray(frame.pixels).tobytes())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer is missing then, and the error output says why
        shape = self.receive()["shape"]
        assert self.process.stdout is not None
        data = self.process.stdout.read(4 * int(np.prod(shape)))
        return np.frombuffer(data, "<f4").reshape(shape)

    def receive(self) -> dict[str, Any]:
        """Return the next message; raises PivlError if there is none, or if it is an error."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise PivlError(f"{self.title} ended without an answer: {self._last_errors()}")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise PivlError(f"{self.title} cannot run it: {message['error']}")
        return message

    def _last_errors(self) -> str:
        self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").splitlines()
        return " / ".join(lines[-_ERROR_LINES:]) or f"exit code {self.process.returncode}"
