"""`pivl-distill embed`: the embeddings of a folder of crops in one file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pivl_distill.app import embed_folder
from pivl_distill.cli import main
from pivl_distill.errors import PivlError
from pivl_distill.retrieval.faiss_index import FeatureShards, build_index
from pivl_distill.runtime import Extractor
from pivl_distill.vectors import files


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Seven crops of several sizes in two folders."""
    folder = tmp_path / "crops"
    rng = np.random.default_rng(0)
    for number in range(7):
        path = folder / ("a" if number % 2 else "b") / f"{number}ü.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop = rng.integers(0, 256, (40 + number, 20, 3), dtype=np.uint8)
        Image.fromarray(crop).save(path)
    return folder


@pytest.fixture
def embed(deployed_once: Path, crops: Path):
    """`embed(*arguments)` runs the command on the crops."""

    def run(*arguments: str | Path) -> Result:
        command = ["embed", crops, "--export", deployed_once, *arguments]
        return CliRunner().invoke(main, [str(argument) for argument in command])

    return run


def expected(
    deployed_once: Path, crops: Path, precision: str = "auto"
) -> tuple[list[str], np.ndarray]:
    return Extractor(deployed_once, precision=precision).embed_folder(crops)


@pytest.mark.skipif(os.name != "posix", reason="needs the locks of POSIX")
def test_what_a_killed_command_left_is_removed(embed, tmp_path):
    out = tmp_path / "new" / "features.parquet"
    out.parent.mkdir()
    (out.parent / ".features.parquet.a1b2c3.partial").write_bytes(b"large")
    assert embed("-o", out).exit_code == 0
    assert [path.name for path in out.parent.iterdir()] == ["features.parquet"]


def test_npz_contains_names_unit_vectors_and_provenance(embed, deployed_once, crops, tmp_path):
    out = tmp_path / "new" / "features.npz"
    result = embed("-o", out, "--precision", "int8")
    assert result.exit_code == 0, result.output
    assert "7 of 24 values" in result.output
    assert [path.name for path in out.parent.iterdir()] == ["features.npz"]
    names, vectors = expected(deployed_once, crops, "int8")
    assert names[0] == "a/1ü.png"
    with np.load(out) as file:
        assert file["names"].tolist() == names
        assert file["features"].dtype == np.float32
        np.testing.assert_allclose(file["features"], vectors, atol=1e-6)
        metadata = json.loads(str(file["metadata"]))
    assert metadata["artifact"] == "model.int8.onnx"
    assert metadata["unreadable"] == []
    assert len(metadata["artifact_sha256"]) == 64


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_name_that_is_not_utf8_has_a_row(embed, crops, tmp_path, suffix):
    name = os.fsdecode(b"caf\xe9.png")
    (crops / "a" / "1ü.png").rename(crops / "a" / name)
    out = tmp_path / f"features.{suffix}"
    if suffix == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    result = embed("-o", out)
    assert result.exit_code == 0, result.output
    if suffix == "npz":
        with np.load(out) as file:
            assert f"a/{name}" in file["names"].tolist()
    else:
        assert "a/caf\\udce9.png" in parquet.read_table(out)["name"].to_pylist()


def test_each_process_writes_a_shard(launch, deployed_once, crops, tmp_path):
    pytest.importorskip("pyarrow")
    (crops / "b" / "broken.png").write_bytes(b"none")
    command = ("-m", "pivl_distill", "embed", crops, "--export", deployed_once, "-o")
    first, second = launch(2, *command, tmp_path / "features" / "people.parquet")
    assert first.code == second.code == 3, first.output
    assert second.output == ""
    assert "7 of 24 values" in first.output
    assert "Cannot read b/broken.png" in first.output
    shards = FeatureShards.open(tmp_path / "features")
    assert [p.name for p in shards.files] == ["people-1-of-2.parquet", "people-2-of-2.parquet"]
    (crops / "b" / "broken.png").unlink()
    names, vectors = expected(deployed_once, crops)
    assert shards.names(range(7)) == names
    np.testing.assert_allclose(np.concatenate(list(shards.batches())), vectors, atol=1e-6)
    ended = launch(2, *command, tmp_path / "people.npz")
    assert [process.code for process in ended] == [2, 2]
    # The first to fail prints the error; the other may report a failed peer.
    assert sum("Several processes write Parquet files" in process.output for process in ended) == 1


def test_shards_of_another_number_of_processes_are_an_error(embed, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    out = tmp_path / "gallery" / "people.parquet"
    out.parent.mkdir()
    left = out.with_name("people-2-of-4.parquet")
    left.touch()
    result = embed("-o", out)
    assert result.exit_code == 2
    assert "people-2-of-4.parquet was written by another number of processes" in " ".join(
        result.output.split()
    )
    monkeypatch.setattr(embed_folder.process_group, "world_size", lambda: 4)
    monkeypatch.setattr(embed_folder.process_group, "rank", lambda: 1)
    assert embed_folder.shard_file(out) == left  # the same number of processes overwrites it
    monkeypatch.setattr(embed_folder.process_group, "world_size", lambda: 2)
    with pytest.raises(PivlError, match="people-2-of-4"):
        embed_folder.shard_file(out)
    left.rename(out)
    with pytest.raises(PivlError, match=r"people\.parquet was written by another"):
        embed_folder.shard_file(out)


@pytest.mark.parametrize("group", [3, 7, 4096])
def test_parquet_row_groups_contain_the_same_vectors(
    embed, deployed_once, crops, tmp_path, monkeypatch, group
):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(files, "ROWS_PER_GROUP", group)
    out = tmp_path / "features.parquet"
    assert embed("-o", out).exit_code == 0
    names, vectors = expected(deployed_once, crops)
    table = parquet.read_table(out)
    assert table["name"].to_pylist() == names
    np.testing.assert_allclose(np.array(table["feature"].to_pylist()), vectors, atol=1e-6)
    assert parquet.ParquetFile(out).num_row_groups == -(-7 // group)
    metadata = json.loads(parquet.read_metadata(out).metadata[b"pivl_distill"])
    assert metadata["network"] == "small"


def test_a_folder_of_parquet_files_can_be_searched(
    embed, deployed_once, crops, tmp_path, monkeypatch
):
    """`search` reads what `embed` writes: rows, row groups, shards and names."""
    pytest.importorskip("pyarrow")
    pytest.importorskip("faiss")
    monkeypatch.setattr(files, "ROWS_PER_GROUP", 3)
    gallery = tmp_path / "gallery"
    for shard in ("1.parquet", "2.parquet"):
        assert embed("-o", gallery / shard).exit_code == 0
    names, vectors = expected(deployed_once, crops)
    shards = FeatureShards.open(gallery)
    assert (len(shards), shards.dim) == (14, 24)
    similarity, found = build_index(shards).search(vectors, 2)
    np.testing.assert_allclose(similarity, 1, atol=1e-5)
    assert [shards.names(ids) for ids in found] == [[name, name] for name in names]


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_unreadable_images_are_left_out_and_listed(embed, crops, tmp_path, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    for name in ("a/3ü.png", "b/0ü.png"):
        (crops / name).write_bytes(b"no image")
    out = tmp_path / f"features.{ending}"
    result = embed("-o", out)
    assert result.exit_code == 3, result.output
    output = " ".join(result.output.split())
    assert "Cannot read a/3ü.png" in output, result.output
    assert "Cannot read b/0ü.png" in output, result.output
    if ending == "npz":
        with np.load(out) as file:
            assert len(file["features"]) == len(file["names"]) == 5
            metadata = json.loads(str(file["metadata"]))
        assert metadata["unreadable"] == ["a/3ü.png", "b/0ü.png"]


def test_only_the_first_unreadable_images_are_logged(embed, crops, tmp_path):
    for number in range(25):
        (crops / f"x{number:02}.jpg").write_bytes(b"")
    result = embed("-o", tmp_path / "features.npz")
    assert result.exit_code == 3
    assert "Cannot read x09.jpg" in result.output
    assert "x10.jpg" not in result.output
    assert "and 15 more" in result.output


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_a_failure_keeps_the_old_file_and_no_partial_one(embed, crops, tmp_path, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / "out" / f"features.{ending}"
    out.parent.mkdir()
    out.write_text("old")
    for path in crops.rglob("*.png"):
        path.write_bytes(b"")
    result = embed("-o", out)
    assert result.exit_code == 2
    assert "None of the 7 images" in result.output
    assert [path.read_text() for path in out.parent.iterdir()] == ["old"]


def test_wrong_input_is_an_error_before_the_work(embed, crops, tmp_path, monkeypatch):
    result = embed("-o", tmp_path / "features.csv")
    assert result.exit_code == 2
    assert "must end in .npz" in result.output
    for path in crops.rglob("*.png"):
        path.unlink()
    result = embed("-o", tmp_path / "features.npz")
    assert result.exit_code == 2
    assert "contains no images" in result.output
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = embed("-o", tmp_path / "features.parquet")
    assert result.exit_code == 2
    assert "pip install 'pivl-distill[search]'" in result.output


def test_camera_is_passed_for_every_image(deployed_once, crops, tmp_path, monkeypatch):
    extractor = Extractor(deployed_once)
    seen = []
    streamed = extractor.stream_files
    monkeypatch.setattr(
        extractor, "stream_files", lambda paths, ids: seen.append(ids) or streamed(paths, ids)
    )
    embed_folder.embed_folder(crops, extractor, tmp_path / "a.npz", camera=3)
    embed_folder.embed_folder(crops, extractor, tmp_path / "b.npz")
    assert seen == [[3] * 7, None]


def test_torch_is_not_imported(deployed_once, crops, tmp_path):
    script = (
        "import sys; from pivl_distill.cli import main\n"
        f"main(['embed', {str(crops)!r}, '--export', {str(deployed_once)!r},"
        f" '-o', {str(tmp_path / 'features.npz')!r}], standalone_mode=False)\n"
        "assert not {'torch', 'pydantic', 'yaml', 'open_clip', 'timm'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_an_unwritable_output_is_an_error_before_the_work(embed, crops, monkeypatch):
    monkeypatch.setattr(embed_folder, "embed_folder", lambda *_: pytest.fail("began to work"))
    result = embed("-o", crops / "a" / "1ü.png" / "features.npz")
    assert result.exit_code == 2
    assert "Cannot write to" in result.output
