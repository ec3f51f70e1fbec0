"""Files that cannot be opened, and what is missing to open them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pivl_distill.errors import PivlError
from pivl_distill.foreign.graphs import open_graph


@pytest.mark.parametrize("name", ["net.onnx", "net.xml"])
def test_missing_and_broken_files_are_named(name: str, tmp_path: Path, as_openvino) -> None:
    with pytest.raises(PivlError, match=f"There is no ONNX file or OpenVINO IR at .*{name}"):
        open_graph(tmp_path / name)
    (tmp_path / name).write_text("no network")
    with pytest.raises(PivlError, match=f"cannot load .*{name}"):
        open_graph(tmp_path / name)


def test_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PivlError, match=r"net\.tflite is neither an ONNX file .* nor an OpenVINO"):
        open_graph(tmp_path / "net.tflite")


def test_missing_weights_are_named(mean_net, as_openvino) -> None:
    path = as_openvino(mean_net())
    path.with_suffix(".bin").unlink()
    with pytest.raises(PivlError, match=r"mean\.bin is not beside it"):
        open_graph(path)


def test_the_extra_is_named_without_openvino(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    (tmp_path / "net.xml").touch()
    with pytest.raises(PivlError, match=r"pip install 'pivl-distill\[openvino\]'"):
        open_graph(tmp_path / "net.xml")


def test_openvino_runs_on_the_cpu_only(tmp_path: Path) -> None:
    (tmp_path / "net.xml").touch()
    with pytest.raises(PivlError, match="remove --device cuda"):
        open_graph(tmp_path / "net.xml", "cuda")


def test_weights_elsewhere_are_refused(tmp_path: Path, mean_net, as_openvino) -> None:
    path = as_openvino(mean_net())
    (tmp_path / "inner").mkdir()
    inner = tmp_path / "inner" / "net.xml"
    path.rename(inner)
    inner.with_suffix(".bin").symlink_to(path.with_suffix(".bin"))
    with pytest.raises(PivlError, match=r"net\.bin is a link to outside of its folder"):
        open_graph(inner)
