"""What tests of JavaScript need; they are skipped, with the reason, where it is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "browser"
NODE_MODULES = EXAMPLE / "node_modules"
READER = Path(__file__).parent.parent / "export" / "consumers" / "reid.mjs"


def node() -> str:
    """The path of Node; skips the test where it is missing or too old."""
    path = shutil.which("node")
    if path is None:
        pytest.skip("Node is not installed")
    version = subprocess.run([path, "--version"], check=True, capture_output=True, text=True).stdout
    if int(version.removeprefix("v").split(".")[0]) < 20:
        pytest.skip(f"Node {version.strip()} is older than 20")
    return path


def require_onnxruntime_web() -> None:
    """Skip the test where onnxruntime-web is missing."""
    node()
    if not (NODE_MODULES / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not installed: make examples/browser/node_modules")


def run_module(script: str, *arguments: object) -> Any:
    """Run an ES module in Node that sees the exports of the reader; return the JSON it prints."""
    code = f'import * as reader from "{READER.as_uri()}";\nimport fs from "node:fs";\n{script}'
    command = [node(), "--input-type=module", "-e", code, *map(str, arguments)]
    environment = os.environ | {"NODE_PATH": str(NODE_MODULES)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)
