"""Deployment without torch, with the newest and the oldest supported packages.

Slow, because pip installs ONNX Runtime from the registry twice.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchmarks.torch_free import AGES, PACKAGES, check, deployment_snippets, requirements


def test_the_oldest_versions_are_those_of_pyproject():
    assert requirements((*PACKAGES, "click"), "oldest") == [
        "numpy==1.26", "pillow==10.0", "onnxruntime==1.18", "click==8.1",
    ]  # fmt: skip
    assert requirements(PACKAGES, "newest") == [*PACKAGES]


def test_the_snippets_are_those_of_the_readme_and_the_page():
    assert [page for page, _ in deployment_snippets()] == ["README.md", "docs/deploy.md"]


@pytest.mark.slow
@pytest.mark.parametrize("age", AGES)
def test_an_export_runs_without_torch(deployed_once: Path, age: str):
    if age == "oldest" and sys.version_info >= (3, 12):
        pytest.skip("Pillow 10.0 has no wheel for this Python")
    found = check(deployed_once, age)
    for page in ("README.md", "docs/deploy.md"):
        assert re.match("(one person|two people)", str(found[f"{page} printed"]))
    assert re.fullmatch(r"fp16 \S+, fp32 1\.0000, int8 \S+", str(found["cosine to fp32"]))
    assert str(found["pivl-distill embed"]).startswith("1×24 values")
    installed = dict(package.split("==") for package in str(found["packages"]).lower().split(", "))
    assert "torch" not in installed
    if age == "oldest":
        versions = {name: installed[name] for name in PACKAGES}
        assert versions == {"numpy": "1.26.0", "pillow": "10.0.0", "onnxruntime": "1.18.0"}
