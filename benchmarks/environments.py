"""Virtual environments in `build/consumers/` for packages that only tests and benchmarks run.

Each one also sees this checkout and the packages of the environment that creates it, torch
included: only the named packages are downloaded, and none of their dependencies. A dependency that
is not in this environment has to be named too.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).parent.parent


def shared_environment(name: str, packages: Sequence[str]) -> Path:
    """Return the Python of `build/consumers/NAME`, created if it lacks one of the packages.

    `packages` are requirements as pip takes them. Processes that ask at the same time wait for the
    first one. Raises CalledProcessError if pip fails.
    """
    folder = ROOT / "build" / "consumers" / name
    seen_too = f"{ROOT}\n{sysconfig.get_path('purelib')}\n"
    made = folder / "made_from.txt"
    wanted = f"{sys.executable}\n{seen_too}{' '.join(packages)}\n"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not made.is_file() or made.read_text() != wanted:
            venv.create(folder, clear=True, with_pip=True)
            site = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
            (Path(site) / "shared.pth").write_text(seen_too)
            pip = [python_of(folder), "-m", "pip", "install", "--quiet", "--no-deps", *packages]
            subprocess.run(pip, check=True)
            made.write_text(wanted)
    return python_of(folder)


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / "bin" / "python"
