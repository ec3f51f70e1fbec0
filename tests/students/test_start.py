"""The choice of initial weights before training."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import timm
import torch

from pivl_distill.config import StudentConfig
from pivl_distill.errors import PivlError
from student_data import dataset_of
from students import start as start_module
from students.start import build_network, resolve_pretrained

MOBILENET = "mobilenetv2_025"


@pytest.fixture
def embedded(tmp_path, monkeypatch) -> str:
    """Make a folder of embedded weights with one file, for the small MobileNet; return it."""
    path = tmp_path / f"{MOBILENET}.safetensors"
    path.touch()
    monkeypatch.setattr(start_module, "WEIGHTS_DIR", tmp_path)
    return str(path)


@pytest.mark.parametrize(
    ("arch", "pretrained", "synthetic", "start"),
    [
        (MOBILENET, "auto", True, "embedded"),
        (MOBILENET, "embedded", True, "embedded"),
        (MOBILENET, "embedded", False, "embedded"),
        (MOBILENET, "auto", False, "timm"),
        (MOBILENET, "timm", True, "timm"),
        (MOBILENET, "none", True, "none"),
        (MOBILENET, "my/weights.pth", True, "my/weights.pth"),
        ("resnet18", "auto", False, "timm"),
    ],
)
def test_pretrained_is_resolved(embedded, caplog, arch, pretrained, synthetic, start):
    resolved = resolve_pretrained(arch, pretrained, dataset_of(synthetic=synthetic))
    assert resolved == (embedded if start == "embedded" else start)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("arch", "synthetic"), [("resnet18", True), ("efficientnet_cc_b0_4e", False)]
)
def test_random_weights_by_default_log_a_warning(embedded, caplog, arch, synthetic):
    assert resolve_pretrained(arch, "auto", dataset_of(synthetic=synthetic)) == "none"
    assert caplog.messages[0].startswith(f"{arch} starts from random weights")


@pytest.fixture
def offline(embedded, monkeypatch) -> None:
    """Downloads of published weights fail."""
    create_model = timm.create_model

    def unreachable(*args, pretrained: bool = False, **settings):
        if pretrained:
            raise OSError("no network")
        return create_model(*args, **settings)

    monkeypatch.setattr(timm, "create_model", unreachable)


def test_auto_falls_back_to_random_weights_offline(offline, caplog):
    config = StudentConfig(arch="mobilenetv2_050", data={"size_hw": (64, 32)})
    network, start = build_network(config, dataset_of())
    assert start == "none"
    assert network(torch.zeros(1, 3, 64, 32)).shape == (1, 1280)
    assert "no network" in caplog.text
    assert caplog.messages[-1].endswith("Training starts from random weights.")


def test_auto_falls_back_to_embedded_weights_offline(offline, embedded, caplog):
    config = StudentConfig(data={"size_hw": (64, 32)})
    shutil.copy(
        Path(start_module.__file__).parent / "weights" / f"{MOBILENET}.safetensors", embedded
    )
    network, start = build_network(config, dataset_of())
    assert start == embedded
    expected, _ = build_network(config, dataset_of(synthetic=True))
    assert torch.equal(network.conv_stem.weight, expected.conv_stem.weight)
    assert caplog.messages[-1].endswith("Training starts from weights made of synthetic people.")


def test_explicit_weights_raise_offline(offline):
    config = StudentConfig(pretrained="timm", data={"size_hw": (64, 32)})
    with pytest.raises(PivlError, match=r"No published weights of mobilenetv2_025 .*no network"):
        build_network(config, dataset_of())


def test_missing_embedded_weights_raise(embedded):
    with pytest.raises(PivlError, match="no embedded weights for resnet18; set pretrained to"):
        resolve_pretrained("resnet18", "embedded", dataset_of(synthetic=True))
