"""Hostile files of every format: one PivlError each, in little memory and time.

A subprocess with a limit of its address space reads all of them, as a user's machine would.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image

MEMORY_BYTES, SECONDS = 512 * 2**20, 10.0


def write_sparse(path: Path, start: bytes = b"") -> None:
    """Write a file of a terabyte that takes no room."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(2**40)


def write_safetensors(path: Path, shape: list[int], end: int, size: int) -> None:
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}
    header = json.dumps({"weight": tensor}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


def write_zip_bomb(path: Path) -> None:
    torch.save({"a": torch.ones(1)}, path)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("weights/data/9", "w", force_zip64=True) as bomb,
    ):
        for _ in range(100):
            bomb.write(bytes(2**20))


def write_onnx(path: Path, **tensor: object) -> None:
    proto = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, **tensor)
    graph = onnx.GraphProto(name="g", initializer=[proto])
    path.write_bytes(onnx.ModelProto(ir_version=9, graph=graph).SerializeToString())


def write_many_nodes(path: Path) -> None:
    """Write 4 million empty nodes: field 1 of the graph, length 0."""
    nodes = b"\x0a\x00" * 4_000_000
    path.write_bytes(b"\x3a\x80\xa4\xe8\x03" + nodes)


def write_laughs(path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    path.write_text("\n".join(lines))


def write_scans(path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (2000, 2000), 128).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    path.write_bytes(data[:-2] + 5_000 * scan + data[-2:])


def write_manifest(path: Path) -> None:
    path.mkdir()
    (path / "manifest.json").write_text('{"format": 2, "name": ' + "[" * 10**6)


HOSTILE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "sparse.safetensors": ("bank", write_sparse),
    "header.safetensors": ("bank", lambda p: write_sparse(p, struct.pack("<Q", 2**39))),
    "shape.safetensors": ("bank", lambda p: write_safetensors(p, [2**40], 2**42, 8)),
    "empty.safetensors": ("weights", lambda p: write_safetensors(p, [2**62, 0, 2**62], 0, 0)),
    "bomb.pth": ("weights", write_zip_bomb),
    "sparse.pth": ("weights", write_sparse),
    "expanded.pth": ("weights", lambda p: torch.save({"a": torch.ones(1).expand(2**45)}, p)),
    "shape.onnx": ("onnx", lambda p: write_onnx(p, dims=[2**40], raw_data=bytes(4))),
    "nodes.onnx": ("onnx", write_many_nodes),
    "sparse.onnx": ("onnx", write_sparse),
    "laughs.yaml": ("yaml", write_laughs),
    "deep.yaml": ("yaml", lambda p: p.write_text("[" * 250_000)),
    "sparse.yaml": ("yaml", write_sparse),
    "deep.json": ("json", lambda p: p.write_text("[" * 10**7)),
    "wide.json": ("json", lambda p: p.write_text("[" + "[]," * 10**7 + "[]]")),
    "deep.jsonl": ("table", lambda p: p.write_text("[" * 10**7)),
    "cell.csv": ("table", lambda p: p.write_text("path,pid,split\n" + "x" * 10**7)),
    "sparse.csv": ("table", write_sparse),
    "export": ("export", write_manifest),
    "pixels.png": ("image", lambda p: Image.new("1", (12_000, 12_000)).save(p)),
    "scans.jpg": ("image", write_scans),
    "sparse.png": ("image", write_sparse),
    "map.png": ("map", lambda p: Image.new("P", (9_000, 9_000)).save(p)),
}
"""File name → kind of reader, and what writes the file."""

READ_ALL = """
import json, resource, sys, time
from pathlib import Path
from pivl_distill.bank import PromptBank
from pivl_distill.config import read_yaml
from pivl_distill.data.images import read_image
from pivl_distill.data.part_maps import read_stored_map
from pivl_distill.data.table import load_manifest
from pivl_distill.errors import PivlError
from pivl_distill.runtime import Extractor
from pivl_distill.runtime.onnx_session import open_session
from pivl_distill.storage.readers import read_json
from pivl_distill.storage.weights_file import read_state_dict

READERS = {
    "bank": PromptBank.load, "weights": read_state_dict, "onnx": open_session,
    "yaml": lambda path: read_yaml(path, "settings"), "table": load_manifest,
    "json": lambda path: read_json(path, "a manifest"), "export": Extractor,
    "image": read_image, "map": read_stored_map,
}
folder, kinds, limit = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
for name, kind in kinds.items():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + limit, resource.RLIM_INFINITY))
    began = time.process_time()
    try:
        result = f"returned {READERS[kind](folder / name)!r:.200}"
    except PivlError as error:
        result = f"PivlError {error}"
    except BaseException as error:
        result = f"{type(error).__name__} {error}"
    print(json.dumps([name, result[:2000], time.process_time() - began]), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
def test_hostile_files_are_refused_in_bounded_memory_and_time(tmp_path: Path) -> None:
    for name, (_, write) in HOSTILE.items():
        write(tmp_path / name)
    kinds = json.dumps({name: kind for name, (kind, _) in HOSTILE.items()})
    command = [sys.executable, "-c", READ_ALL, str(tmp_path), kinds, str(MEMORY_BYTES)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    results = {name: (text, s) for name, text, s in map(json.loads, output.splitlines())}
    assert results.keys() == HOSTILE.keys()
    wrong = {
        name: text
        for name, (text, _) in results.items()
        if not text.startswith("PivlError") or len(text) > 600
    }
    assert wrong == {}
    assert max(seconds for _, seconds in results.values()) < SECONDS
