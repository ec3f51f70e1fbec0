"""The consumer's end of `export.consumers.worker`: frames in, vectors out. Only needs numpy.

Whatever the consumer prints goes to standard error, so that it does not disturb the messages.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np


def serve(by: str, embed: Callable[[np.ndarray, Sequence[int]], np.ndarray]) -> None:
    """Answer until the input ends.

    `by` names program and version. `embed` maps a frame, uint8 RGB [H, W, 3], and a box (left, top,
    right, bottom) to the vector [F] of the person in it.
    """
    _send({"by": by})
    while line := sys.stdin.buffer.readline():
        vectors = []
        try:
            for frame in json.loads(line)["frames"]:
                height, width = frame["size_hw"]
                data = sys.stdin.buffer.read(3 * height * width)
                pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)
                # A copy: some programs return a view that their next call overwrites.
                vectors.append(np.array(embed(pixels, frame["box"]), "<f4").reshape(-1))
            _send({"shape": [len(vectors), len(vectors[0])]}, np.stack(vectors).tobytes())
        except Exception as error:
            fail(error)


def fail(error: Exception) -> NoReturn:
    """Send why the consumer cannot run the file, and end."""
    _send({"error": f"{type(error).__name__}: {error}"})
    sys.exit(1)


def _send(message: dict[str, object], data: bytes = b"") -> None:
    _MESSAGES.write(json.dumps(message).encode() + b"\n" + data)
    _MESSAGES.flush()


_MESSAGES = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
