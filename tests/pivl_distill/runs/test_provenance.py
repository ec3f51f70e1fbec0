"""Provenance values are JSON, and depend on contents rather than on locations."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch

from pivl_distill.runs.provenance import (
    array_sha256,
    file_provenance,
    machine_provenance,
    weights_provenance,
)


def test_machine_provenance_is_json():
    machine = machine_provenance(torch.device("cpu"))
    assert json.loads(json.dumps(machine)) == machine
    assert machine["device"] == "cpu"
    assert machine["processes"] == 1
    assert machine["torch"] == torch.__version__


def test_file_provenance_has_absolute_path_and_hash(tmp_path, monkeypatch):
    (tmp_path / "bank").write_bytes(b"texts")
    monkeypatch.chdir(tmp_path)
    provenance = file_provenance((tmp_path / "bank").relative_to(tmp_path))
    digest = hashlib.sha256(b"texts").hexdigest()
    assert provenance == {"file": str(tmp_path.resolve() / "bank"), "sha256": digest}
    assert file_provenance(None) is None


def test_weights_provenance_hashes_files_and_keeps_names(tmp_path):
    (tmp_path / "start.pth").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert weights_provenance(str(tmp_path / "start.pth")) == digest
    assert weights_provenance("timm") == "timm"


def test_array_sha256_depends_on_the_contents():
    array = np.arange(6)
    assert array_sha256(array) == array_sha256(array.copy()) != array_sha256(array + 1)
    assert array_sha256(None) is None
