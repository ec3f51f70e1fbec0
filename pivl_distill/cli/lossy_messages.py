"""Messages and progress that cannot be written are left out: a full disk for logs stops no command.

Results, on standard output, are not: without them a command has failed.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Full disk, quota or file, and a terminal that is gone; a closed pipe ends commands."""


class _LossyFile(io.FileIO):
    """A file in which writing always succeeds."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            return len(data)


def make_messages_lossy() -> None:
    """Let standard error leave out what cannot be written.

    A stream that was put in its place, as tests do, stays, and so do consoles of Windows, which are
    no files.
    """
    stream = sys.stderr
    replaced = stream is not sys.__stderr__ or not isinstance(stream, io.TextIOWrapper)
    if os.name != "posix" or replaced:
        return
    stream.flush()
    file = io.BufferedWriter(_LossyFile(stream.fileno(), "w", closefd=False))
    sys.stderr = io.TextIOWrapper(file, stream.encoding, stream.errors, line_buffering=True)
