"""What `pivl-distill` and `python -m pivl_distill` start: the command line, or a word on what it
lacks.

A device has only what the runtime needs, so nothing but the standard library is imported before it
is known that the rest is there.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import NoReturn

from pivl_distill.errors import PivlError

PACKAGES = ("click", "rich")
"""What the command line needs beside the runtime's own packages."""
_OURS = ("pivl_distill", "teachers", "students", "export", "configs")


def main() -> None:
    """Run the command line; a package that is not installed is said without traceback."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        _refuse(
            f"The command pivl-distill needs {' and '.join(missing)}: `pip install"
            f" {' '.join(missing)}`. From Python, pivl_distill.runtime works without."
        )
    from pivl_distill.cli import main as command_line

    try:
        command_line()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package in _OURS:
            raise
        _refuse(
            f"This command needs {package}, which is not installed; `pip install pivl-distill`"
            " brings all. Where only the runtime's packages are, there is `pivl-distill embed"
            " CROPS --export FOLDER -o features.npz`."
        )


def _refuse(sentence: str) -> NoReturn:
    print(f"Error: {sentence}", file=sys.stderr)
    sys.exit(PivlError.exit_code)


if __name__ == "__main__":
    # `python -m` puts the working directory first on the path; it is dropped, so that a user's own
    # `export.py` or `configs/` is not taken for ours.
    if sys.path and sys.path[0] in ("", sys.argv[0].rsplit("/pivl_distill", 1)[0]):
        del sys.path[0]
    main()
