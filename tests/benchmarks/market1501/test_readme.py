"""The page of the scripts names every command, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from benchmarks.market1501 import __file__ as package
from benchmarks.market1501.__main__ import main

PAGE = Path(package).with_name("README.md").read_text(encoding="utf-8")


def test_the_page_lists_every_command_once_in_its_table() -> None:
    listed = re.findall(r"^\| `python -m benchmarks\.market1501 (\S+) ", PAGE, flags=re.M)
    assert listed == list(main.commands)


def test_errors_are_reported_without_a_traceback(tmp_path: Path) -> None:
    for name in main.commands:
        result = CliRunner().invoke(main, [name, "--root", str(tmp_path)])
        assert result.exit_code == 2
        assert "does not exist" in result.output
