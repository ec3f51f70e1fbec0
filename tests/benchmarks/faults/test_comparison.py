"""What is compared: everything that does not depend on the clock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.faults.comparison import comparable, contents, damaged_files, differences
from benchmarks.faults.workloads import EXPORT, result_of
from pivl_distill.storage.files import sha256
from pivl_distill.storage.tensors import save_tensors


@pytest.mark.parametrize(
    ("name", "clock", "other"),
    [
        ("run.json", '{"seconds": %d, "kind": "teach"}', '{"seconds": 1, "kind": "student"}'),
        ("metrics.jsonl", '{"crops_per_s": %d, "loss": 1}\n', '{"crops_per_s": 1, "loss": 2}\n'),
        (
            "model.fp32.rtx.engine.json",
            '{"build_seconds": %d, "engine_sha256": "1", "engine_bytes": 0, "flags": []}',
            '{"build_seconds": 1, "engine_sha256": "1", "engine_bytes": 0, "flags": ["FP16"]}',
        ),
        (
            "manifest.json",
            '{"artifacts": [{"file": "a", "latency": [{"batch": 1, "median_ms": %d}]}]}',
            '{"artifacts": [{"file": "a", "latency": [{"batch": 2, "median_ms": 1}]}]}',
        ),
    ],
)
def test_only_what_depends_on_the_clock_is_left_out(
    tmp_path: Path, name: str, clock: str, other: str
) -> None:
    file, seen = tmp_path / name, []
    for text in (clock % 1, clock % 2, other):
        file.write_text(text)
        seen.append(comparable(file))
    assert seen[0] == seen[1] != seen[2]


def test_a_bank_is_compared_without_its_date(tmp_path: Path) -> None:
    file, seen = tmp_path / "prompt_bank.safetensors", []
    for date, value in (("today", 1.0), ("tomorrow", 1.0), ("today", 2.0)):
        provenance = {"date": date, "clip": "tiny"}
        save_tensors(file, "prompt bank", {"a": torch.tensor([value])}, {"provenance": provenance})
        seen.append(comparable(file))
    assert seen[0] == seen[1] != seen[2]


def test_an_engine_is_the_file_that_others_describe(tmp_path: Path) -> None:
    engine = tmp_path / "model.int8.rtx.engine"
    texts = [engine.with_name(f"{engine.name}.json"), tmp_path / "manifest.json"]
    seen = []
    for content in (b"kernel 17", b"kernel 4"):
        engine.write_bytes(content)
        facts = {"sha256": sha256(engine), "bytes": len(content)}
        description = {f"engine_{name}": value for name, value in facts.items()}
        texts[0].write_text(json.dumps({"build_seconds": 1, **description}))
        manifest = {"artifacts": [{"file": engine.name, "latency": [], **facts}]}
        texts[1].write_text(json.dumps(manifest))
        seen.append(contents(tmp_path))
    engine.write_bytes(b"kernel 5")
    seen.append(contents(tmp_path))
    assert seen[0] == seen[1]
    assert {name for name in seen[0] if seen[0][name] != seen[2][name]} == {t.name for t in texts}


def test_every_other_byte_counts(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "teacher.safetensors"
    file.write_bytes(b"1")
    reference = contents(tmp_path / "run")
    assert reference.keys() == {"teacher.safetensors"}
    assert differences(reference, tmp_path / "run") == damaged_files(reference, file.parent) == []
    file.write_bytes(b"2")
    assert damaged_files(reference, tmp_path / "run") == ["teacher.safetensors"]
    assert differences(reference, tmp_path / "run") == ["teacher.safetensors differs"]
    file.rename(file.with_name("other"))
    (tmp_path / ".run.x.partial").touch()
    assert damaged_files(reference, tmp_path / "run") == []
    assert differences(reference, tmp_path / "run") == [
        "other differs",
        "teacher.safetensors differs",
        ".run.x.partial is left",
    ]


def test_the_last_export_is_compared(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        (tmp_path / "runs" / f"export-{number}").mkdir(parents=True)
    assert result_of(EXPORT, tmp_path).name == "export-10"
