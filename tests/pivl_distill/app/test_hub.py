"""Upload and download of exports and banks, with a server on this machine in place of the hub."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from export.consumer_schema import ConsumerFolder
from export.manifest_schema import read_manifest, write_manifest
from hub_server import HubServer, hub_server
from pivl_distill.app.hub import Repository, download_bank, pull, push
from pivl_distill.app.training_plan import find_bank
from pivl_distill.bank import PromptBank
from pivl_distill.cli import main
from pivl_distill.errors import PivlError
from pivl_distill.runtime import Extractor
from pivl_distill.storage.files import sha256

CARD = "---\nlicense: other\n---\n\nA network.\n"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server


@pytest.fixture
def export(deployed) -> Path:
    """An export with a folder for the hub, as `export --for hub` writes it."""
    folder = deployed / "hub"
    folder.mkdir()
    for path in deployed.iterdir():
        if path.suffix in (".onnx", ".png", ".json") and path.name != "run.json":
            shutil.copy(path, folder)
    (folder / "README.md").write_text(CARD)
    files = {path.name: sha256(path) for path in folder.iterdir()}
    entry = ConsumerFolder(name="hub", folder="hub", files=files, runs=())
    write_manifest(deployed, read_manifest(deployed).with_consumer(entry))
    return deployed


def test_an_export_makes_the_round_trip(hub: HubServer, export, tmp_path):
    address = push(export, "me/network", licence="mit")
    assert address.startswith(f"{hub.address}/me/network/commit/")
    assert hub.private == {"me/network"}
    assert b"license: mit" in hub.repositories["me/network"]["README.md"]
    folder = pull("me/network", tmp_path / "pulled")
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert not list(folder.glob(".*"))
    crops = np.random.default_rng(0).integers(0, 256, (3, 50, 30, 3), np.uint8)
    vectors = [Extractor(f, precision="fp32", device="cpu").embed(crops) for f in (export, folder)]
    np.testing.assert_array_equal(*vectors)


def test_only_files_of_the_manifest_are_downloaded(hub: HubServer, export, tmp_path):
    push(export, "me/network")
    hub.repositories["me/network"]["install.sh"] = b"rm -rf /"
    folder = pull("me/network", tmp_path / "pulled")
    assert {p.name for p in folder.iterdir()} == {p.name for p in (export / "hub").iterdir()}


def test_a_file_changed_on_the_server_is_refused(hub: HubServer, export, tmp_path):
    push(export, "me/network")
    files = hub.repositories["me/network"]
    files["model.onnx"] = files["model.onnx"][:-1] + b"?"
    with pytest.raises(PivlError, match="is not the file its manifest describes"):
        pull("me/network", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    del files["model.onnx"]
    with pytest.raises(PivlError, match=r"has no model\.onnx, but its manifest names it"):
        pull("me/network", tmp_path / "pulled")
    assert not list(tmp_path.glob(".pulled*"))


def test_what_was_changed_is_not_uploaded(hub: HubServer, export):
    (export / "hub" / "model.onnx").write_bytes(b"another")
    with pytest.raises(PivlError, match="is not the file its manifest describes"):
        push(export, "me/network")
    assert hub.repositories == {}


def test_an_export_without_the_folder_says_how_to_make_it(hub: HubServer, deployed):
    with pytest.raises(PivlError, match="--for hub"):
        push(deployed, "me/network")


@pytest.fixture
def teach_run(prompt_bank, tmp_path) -> Path:
    folder = tmp_path / "teach-1"
    folder.mkdir()
    prompt_bank.save(folder / "prompt_bank.safetensors")
    return folder


def test_a_bank_makes_the_round_trip(hub: HubServer, teach_run, tmp_path):
    push(teach_run, "me/bank", public=True)
    assert hub.private == set()
    assert set(hub.repositories["me/bank"]) == {"prompt_bank.safetensors", "README.md"}
    for path in (
        find_bank("hf-hub:me/bank", "aligned"),
        download_bank("hf-hub:me/bank@main"),
        pull("me/bank", tmp_path / "pulled") / "prompt_bank.safetensors",
    ):
        assert PromptBank.load(path).pids == PromptBank.load(teach_run / path.name).pids


def test_a_folder_of_something_else_is_refused(hub: HubServer, tmp_path):
    with pytest.raises(PivlError, match="is neither an export nor a teach run"):
        push(tmp_path, "me/network")


@pytest.mark.parametrize("name", ["network", "/network", "me/", "me/net/work", "hf-hub:network"])
def test_names_of_repositories(name):
    with pytest.raises(PivlError, match="looks like OWNER/NAME"):
        Repository.parse(name)


def test_a_revision_is_for_downloads(hub: HubServer, teach_run):
    assert Repository.parse("hf-hub:me/bank@v1") == Repository("me/bank", "v1")
    with pytest.raises(PivlError, match="without a revision"):
        push(teach_run, "me/bank@v1")


def test_errors_of_the_server_name_the_repository(hub: HubServer, tmp_path):
    with pytest.raises(PivlError, match=r"Cannot download manifest\.json of me/none: 404"):
        pull("me/none", tmp_path / "pulled")
    hub.repositories["me/empty"] = {}
    with pytest.raises(PivlError, match=r"has neither manifest\.json nor prompt_bank"):
        pull("me/empty", tmp_path / "pulled")
    with pytest.raises(PivlError, match=r"me/empty has no prompt_bank\.safetensors"):
        download_bank("hf-hub:me/empty")
    assert not list(tmp_path.glob("*pulled*"))


def test_without_a_connection_nothing_is_left(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between tries
    with pytest.raises(PivlError, match="Check the name and the connection"):
        pull("me/never-seen", tmp_path / "pulled")
    assert list(tmp_path.iterdir()) == []


def test_the_commands(hub: HubServer, teach_run, tmp_path):
    run = CliRunner().invoke
    pushed = run(main, ["push", str(teach_run), "me/bank", "--license", "mit"])
    assert (pushed.exit_code, f"{hub.address}/me/bank/commit" in pushed.output) == (0, True)
    out = tmp_path / "new"
    assert run(main, ["pull", "me/bank", "-o", str(out)]).exit_code == 0
    again = run(main, ["pull", "me/bank", "-o", str(out)])
    assert again.exit_code == 2
    assert "exists; name another folder" in again.output
