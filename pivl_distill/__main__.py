"""Entry point of `pivl-distill` and `python -m pivl_distill`.

A deployment device has only the runtime's packages. This module therefore imports nothing but the
standard library before it has checked that the packages of the command line are installed.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import NoReturn

from pivl_distill.errors import PivlError

PACKAGES = ("click", "rich")
"""Packages that the command line needs in addition to those of the runtime."""


def main() -> None:
    """Run the command line, if its packages are installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        _exit_with_error(
            f"The command pivl-distill needs {' and '.join(missing)}: `pip install"
            f" {' '.join(missing)}`. The Python package pivl_distill.runtime works without."
        )
    try:
        from pivl_distill.cli import main as command_line

        command_line()
    except KeyboardInterrupt:  # before the command began
        sys.exit(130)


def _exit_with_error(message: str) -> NoReturn:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(PivlError.exit_code)


if __name__ == "__main__":
    # `python -m` puts the working directory first on sys.path. Remove it, so that an `export.py` or
    # `configs/` of the user does not shadow ours.
    if sys.path and sys.path[0] in ("", sys.argv[0].rsplit("/pivl_distill", 1)[0]):
        del sys.path[0]
    main()
