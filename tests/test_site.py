"""The documentation: the site builds, and every command and snippet on its pages is valid."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import yaml

from pivl_distill.cli import main

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
SHELL_WORDS = ("pip", "docker", "git", "sbatch", "ruff")
"""Programs that are not ours; their arguments are not checked."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block on a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.M | re.S)


def snippets(*languages: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block in one of these languages."""
    return [
        (name, text)
        for name, path in PAGES.items()
        for language, text in blocks(path)
        if language in languages
    ]


def shell_lines() -> list[tuple[str, str]]:
    """(page, command) of every line in a shell block, continued lines joined."""
    return [
        (name, line)
        for name, text in snippets("sh", "bash")
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]


def check_pivl_distill(arguments: list[str]) -> None:
    """Parse the arguments as the command line does, without running the command."""
    name, command, rest = main.resolve_command(click.Context(main), arguments)
    assert command is not None
    command.make_context(name, rest)


def check_python(arguments: list[str]) -> None:
    """The script or module exists."""
    if arguments[0] == "-m":
        assert arguments[1] == "pytest" or importlib.util.find_spec(arguments[1])
    else:
        assert (ROOT / arguments[0]).is_file()


def check_make(arguments: list[str]) -> None:
    """The target exists."""
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{arguments[0]}:", makefile, flags=re.M)


def check_torchrun(arguments: list[str]) -> None:
    """What follows `-m pivl_distill` is a valid command."""
    check_pivl_distill(arguments[arguments.index("pivl_distill") + 1 :])


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "pivl-distill": check_pivl_distill,
    "python": check_python,
    ".venv/bin/python": check_python,
    "make": check_make,
    "torchrun": check_torchrun,
}


@pytest.fixture
def writable_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every path on a page can be written, whoever runs the tests."""
    monkeypatch.setattr("pivl_distill.storage.files.check_writable", lambda *_, **__: None)


@pytest.mark.usefixtures("writable_places")
@pytest.mark.parametrize(("page", "line"), shell_lines())
def test_every_shell_command_is_valid(page: str, line: str) -> None:
    for part in line.split("&&"):
        program, *arguments = shlex.split(part, comments=True)
        if "=" in program or program in SHELL_WORDS:
            continue
        CHECKS[program](arguments)


@pytest.mark.parametrize(("page", "text"), snippets("python"))
def test_every_python_snippet_compiles(page: str, text: str) -> None:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pivl_distill"):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize(("page", "text"), snippets("yaml", "json"))
def test_every_data_snippet_parses(page: str, text: str) -> None:
    for document in yaml.safe_load_all(text):
        assert json.dumps(document, default=str)


def test_every_path_on_a_page_exists() -> None:
    roots = ("", "docs", "tests", "pivl_distill", "pivl_distill/models", "pivl_distill/training")
    missing = [
        (name, text)
        for name, page in PAGES.items()
        for text in re.findall(r"`([\w/.-]+\.(?:py|sbatch|svg))`", page.read_text())
        if not any((ROOT / root / text).exists() for root in roots)
    ]
    assert missing == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = {name for name in PAGES if name != "README.md"}
    assert pages == set(re.findall(r": (\S+\.md)$", navigation, flags=re.M))


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES["README.md"].read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "index.html").is_file()
