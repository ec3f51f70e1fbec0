"""`pivl-distill evaluate`: its tables and its JSON, with the robustness card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import refuse, succeed
from pivl_distill.data.corruptions import CORRUPTIONS, STRENGTHS

CHECKPOINT = "student.safetensors"


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """An untrained student of small crops."""
    import torch

    from pivl_distill.config import HeadSettings
    from students.backbones import create_backbone
    from students.student import Student, save_student

    torch.manual_seed(0)
    network = create_backbone("lcnet_050", image_size_hw=(32, 16))
    built = Student("lcnet_050", network, (32, 16), 4, None, False, HeadSettings())
    save_student(built.embedding_model(), tmp_path / CHECKPOINT, "auto")
    return tmp_path / CHECKPOINT


def test_the_card_is_printed_and_written(student: Path, tmp_path: Path) -> None:
    written = tmp_path / "scores.json"
    output = succeed(
        *("evaluate", student, "--data", "synthetic:tiny"),
        *("--corruptions", "--rerank", "--json", written),
    )
    scores = json.loads(written.read_text())
    card = scores["robustness"]
    assert (scores["path"], scores["data"]) == (str(student), "synthetic:tiny")
    assert card["clean"] == {name: scores["retrieval"][name] for name in ("mAP", "rank1")}
    assert len(card["conditions"]) == len(CORRUPTIONS) * len(STRENGTHS)
    assert "reranked" in scores
    assert "mAP with corrupted queries" in output
    for condition in card["conditions"]:
        assert f"{100 * condition['mAP']:.1f} %" in output
        assert condition["corruption"] in output
    pair = card["camera_pairs"][0]
    assert f"{pair['query_camera']} → {pair['gallery_camera']}" in output
    assert set(pair["corrupted"]) == set(CORRUPTIONS)


def test_what_is_corrupted_is_checked(student: Path) -> None:
    arguments = ("evaluate", student, "--data", "synthetic:tiny", "--corruptions")
    assert "'query', 'gallery', 'both'" in refuse(*arguments, "--corrupted", "all")
