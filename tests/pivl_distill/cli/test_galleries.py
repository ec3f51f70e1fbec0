"""A new network for the gallery of an old one, from training to the exported file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import QUICK, refuse, succeed
from pivl_distill.runtime import Extractor
from pivl_distill.storage.tensors import load_tensors

ALONE = (*QUICK, "--bank", "none")


@pytest.mark.usefixtures("desk")
def test_a_student_for_the_gallery_of_an_export(deployed_once: Path, tmp_path: Path) -> None:
    options = ("--compatible-with", deployed_once, "-o", "kept")
    assert "24 dimensions" in succeed("student", *ALONE, *options, "--dry-run")
    output = succeed("student", *ALONE, *options)
    assert "trained for the gallery of" in output
    space = Extractor(deployed_once).space
    assert space is not None
    _, _, metadata = load_tensors(Path("kept/student.safetensors"), "student")
    assert (metadata["embedding_dim"], metadata["compatible_with"]) == (24, [space.id])
    metrics = Path("kept/metrics.jsonl").read_text().splitlines()
    assert {"gallery_regression", "gallery_classification"} <= json.loads(metrics[-1]).keys()
    output = succeed("evaluate", "kept", "--gallery", deployed_once, "--json", "scores.json")
    for name in ("old → old", "new → new", "new → old"):
        assert name in output
        assert json.loads(Path("scores.json").read_text())["gallery"][name]["mAP"] > 0
    succeed("export", "kept", "-o", "exported")
    extractor = Extractor("exported")
    assert extractor.space is not None
    assert extractor.space.compatible_with == (space.id,)
    crops = tmp_path / "crops"
    crops.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(crops / "a.png")
    succeed("embed", crops, "--export", deployed_once, "-o", "old.npz")
    assert extractor.load_vectors("old.npz")[0] == ["a.png"]


@pytest.mark.usefixtures("desk")
def test_mistakes_are_refused_before_the_training() -> None:
    assert "no ONNX file" in refuse("student", *ALONE, "--compatible-with", "none.onnx")
    off = ("--set", "compatible.regression=0", "--set", "compatible.classification=0")
    output = refuse("student", *ALONE, "--compatible-with", "unstopped", *off)
    assert "one of them needs a weight" in output
    assert not Path("runs/student-1").exists()
