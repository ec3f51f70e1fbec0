"""Log records on standard error, for the command line and scripts.

The library only creates records, with a logger per module; an application decides what becomes of
them. rich is imported with the first record, so that commands start fast.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pivl_distill.errors import printable

LOGGERS = ("pivl_distill", "teachers", "students", "export", "__main__")
"""The packages, and modules that `python -m` runs."""


class ConsoleHandler(logging.Handler):
    """Print the message of each record in yellow on standard error, above any progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from pivl_distill import console

        try:
            console.err.print(printable(self.format(record)), style="yellow", soft_wrap=True)
        except Exception:
            self.handleError(record)


@contextmanager
def logs_on_stderr() -> Iterator[None]:
    """Print records of level INFO and above inside the block; restore the loggers at its end.

    Records are not passed on to the root logger, which other packages may configure to print too.
    """
    handler = ConsoleHandler()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    previous = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, previous, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
