"""Worker processes of this process, which share its terminal."""

from __future__ import annotations

import signal


def ignore_ctrl_c() -> None:
    """Initialise a worker: Ctrl-C reaches it too, and only its parent reacts.

    Otherwise every worker would print a traceback. The parent ends its workers when it ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
