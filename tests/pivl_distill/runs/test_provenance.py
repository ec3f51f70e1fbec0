"""Provenance of runs and banks: hashes of files and arrays, settings, data and machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from pivl_distill import __version__
from pivl_distill.config import PromptSettings, StudentConfig
from pivl_distill.data.datasets import load_dataset
from pivl_distill.runs.provenance import (
    array_sha256,
    bank_provenance,
    file_provenance,
    run_provenance,
    weights_provenance,
)

SHA256 = hashlib.sha256(b"content").hexdigest()


def test_file_is_recorded_with_absolute_path_and_hash(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.chdir(tmp_path)
    assert file_provenance(Path("file")) == {"file": str(tmp_path / "file"), "sha256": SHA256}
    assert file_provenance(None) is None


def test_weights_are_a_hash_or_a_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert weights_provenance(str(tmp_path / "file")) == SHA256
    assert weights_provenance("timm") == "timm"


def test_array_hash_depends_on_its_values() -> None:
    array = np.arange(3, dtype=np.uint8)
    assert array_sha256(array) == hashlib.sha256(bytes([0, 1, 2])).hexdigest()
    assert array_sha256(array + 1) != array_sha256(array)
    assert array_sha256(None) is None


def test_run_and_bank_provenance_are_json_and_name_the_data() -> None:
    dataset = load_dataset("synthetic:tiny")
    run = run_provenance(StudentConfig(seed=3), dataset, torch.device("cpu"))
    assert run["config"]["seed"] == 3
    assert run["data"]["images"] == dataset.fingerprint
    assert run["machine"]["device"] == "cpu"
    bank = bank_provenance("tiny", "0" * 64, PromptSettings(), dataset, seed=3)
    assert (bank["version"], bank["clip_sha256"], bank["seed"]) == (__version__, "0" * 64, 3)
    assert (bank["dataset"], bank["fingerprint"]) == (dataset.name, dataset.fingerprint)
    assert json.loads(json.dumps([run, bank])) == [run, bank]
