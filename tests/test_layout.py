"""The repository: size limits, import rules for every module, contents of the wheel."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pivl_distill", "teachers", "students", "export")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 300, 50


def test_no_module_is_too_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert {path.name: n for path, n in lengths.items() if n > MAX_MODULE_LINES} == {}


def test_no_function_is_too_long() -> None:
    lengths = {
        f"{path.name}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES} == {}


def test_functions_with_many_parameters_document_them() -> None:
    undocumented = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            names = {arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)} - {"self", "cls"}
            text = ast.get_docstring(node) or ""
            is_command = "commands" in path.parts  # options have help texts instead
            if len(names) > 4 and not is_command and not re.search(r"Args:| are those of `", text):
                undocumented.append(f"{path.name}: {node.name}")
    assert undocumented == []


def test_every_shared_module_is_under_the_import_rule() -> None:
    modules = {path.stem for path in (ROOT / "pivl_distill").iterdir() if path.stem[0] not in "_."}
    modules -= {"cli", "py"}  # these may import stages; py.typed is a marker
    rules = (ROOT / "pyproject.toml").read_text()
    assert {name for name in modules if f'"pivl_distill.{name}",' not in rules} == set()


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_contains_code_presets_and_weights(wheel_names: set[str]) -> None:
    packages = (*PACKAGES, "configs")
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in packages
        for pattern in ("*.py", "*.yaml", "*.safetensors", "*.onnx", "py.typed")
        for path in (ROOT / package).rglob(pattern)
    }
    assert expected - wheel_names == set()


def test_the_wheel_contains_nothing_else(wheel_names: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert tops <= {"pivl_distill", "teachers", "students", "export", "configs"} | {
        name for name in tops if name.endswith(".dist-info")
    }
