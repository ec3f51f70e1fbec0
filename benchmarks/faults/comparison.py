"""Compare the files of a command with those of an uninterrupted one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pivl_distill.storage.tensors import load_tensors

ENGINE = r".*\.engine"
LEFT_OUT = {
    r"run\.json": "the durations",
    r"metrics\.jsonl": "`crops_per_s`",
    r"prompt_bank\.safetensors": "the date of creation",
    r"manifest\.json": "the measured latencies",
    r".*\.engine\.json": "the seconds of the build",
    ENGINE: "the bytes, since TensorRT-RTX builds another file each time; it must be the one"
    " whose hash is in its description and in the manifest",
}
"""What is left out of a comparison, by the name of the file: nothing else."""
PARTIAL = (".partial", ".part", ".lock")
"""Endings of hidden files and folders that exist while something is written."""
GROWING = r"metrics\.jsonl|manifest\.json|parsing\.json|model\.int8.*\.onnx"
"""Files that are complete at any time, but not final."""


def damaged_files(reference: dict[str, str], result: Path) -> list[str]:
    """Return the files of an unfinished result that are not those of the uninterrupted command.

    A file exists as a whole or not at all; those that grow, or that a search replaces, are only
    compared at the end.
    """
    if not result.exists():
        return []
    found = contents(result)
    return [
        name
        for name, digest in reference.items()
        if found.get(name, digest) != digest and not re.fullmatch(GROWING, name)
    ]


def differences(reference: dict[str, str], result: Path) -> list[str]:
    """Return how a finished result differs from the uninterrupted one, and what is left beside it.

    Each difference is a phrase.
    """
    found = contents(result)
    names = sorted({*reference, *found})
    differing = [f"{n} differs" for n in names if found.get(n) != reference.get(n)]
    left = [p.name for p in result.parent.glob(".*") if p.suffix in PARTIAL]
    return differing + [f"{name} is left" for name in sorted(left)]


def contents(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a result, without `LEFT_OUT`, by its relative path."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(comparable(file)).hexdigest()
        for file in files
        if file.is_file()
    }


def comparable(file: Path) -> bytes:
    """Return the bytes of a file, without `LEFT_OUT`."""
    for pattern, reduce in _REDUCED.items():
        if re.fullmatch(pattern, file.name):
            return reduce(file)
    return file.read_bytes()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _run_summary(file: Path) -> bytes:
    return _json({key: v for key, v in json.loads(file.read_text()).items() if key != "seconds"})


def _metrics(file: Path) -> bytes:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return _json([{key: v for key, v in line.items() if key != "crops_per_s"} for line in lines])


def _bank(file: Path) -> bytes:
    _, tensors, metadata = load_tensors(file, "prompt bank")
    digest = {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }
    provenance = {key: v for key, v in metadata["provenance"].items() if key != "date"}
    return _json([digest, {**metadata, "provenance": provenance}])


def _manifest(file: Path) -> bytes:
    manifest = json.loads(file.read_text())
    for artifact in manifest["artifacts"]:
        artifact["latency"] = [timed["batch"] for timed in artifact["latency"]]
        _compare_engine(artifact, file.with_name(artifact["file"]), "sha256", "bytes")
    return _json(manifest)


def _description(file: Path) -> bytes:
    description = json.loads(file.read_text())
    description.pop("build_seconds")
    _compare_engine(description, file.with_suffix(""), "engine_sha256", "engine_bytes")
    return _json(description)


def _compare_engine(entry: dict[str, Any], engine: Path, digest: str, size: str) -> None:
    """Replace hash and size of an engine by whether they are those of the file."""
    if re.fullmatch(ENGINE, engine.name):
        written = engine.read_bytes() if engine.is_file() else b""
        entry[digest] = entry[digest] == hashlib.sha256(written).hexdigest()
        entry[size] = entry[size] == len(written)


_REDUCED: dict[str, Callable[[Path], bytes]] = dict(
    zip(
        LEFT_OUT,
        (_run_summary, _metrics, _bank, _manifest, _description, lambda _: b""),
        strict=True,
    )
)
