"""The published configurations run from end to end, with real CLIP architectures made tiny."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from click.testing import CliRunner

from pivl_distill.bank import PromptBank
from pivl_distill.cli import main
from pivl_distill.storage.tensors import load_tensors

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VISION = {
    "small-rn": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
    "small-vit": {
        "image_size": 64,
        "layers": 3,
        "width": 32,
        "patch_size": 16,
        "head_width": 16,
    },
}
DIM = 32
ONCE = (
    "data.spec=synthetic:tiny",
    "data.size_hw=[128, 64]",
    "stage2.epochs=1",
    "stage2.identities_per_batch=4",
    "stage2.crops_per_identity=2",
)
TAUGHT_ONCE = (
    "clip.weights=none",
    "tuning.identity_epochs=1",
    "tuning.identities_per_batch=4",
    "tuning.crops_per_identity=2",
)


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two more architectures for open_clip to build, and a folder to work in."""
    monkeypatch.chdir(tmp_path)
    for name, vision in VISION.items():
        config = {"embed_dim": DIM, "vision_cfg": vision, "text_cfg": TEXT}
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)


def run(command: str, *arguments: str, changes: tuple[str, ...] = ()) -> str:
    """Run a command that must succeed, with `changes` as its --set."""
    settings = [text for change in changes for text in ("--set", change)]
    result = CliRunner().invoke(main, [command, *arguments, *settings])
    assert result.exit_code == 0, result.output
    return result.output


def last_metrics(folder: str) -> dict[str, float]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    metrics: dict[str, float] = json.loads(lines[-1])
    return metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "model", "changes"),
    [
        ("paper", "small-rn", ()),
        ("paper_vit", "small-vit", ("stage2.head.align_dim=40",)),
        ("paper_vit", "small-vit", ("stage2.head.vit=blocks", "stage2.head.align_dim=null")),
    ],
)
def test_bank_student_and_export_of_the_paper(
    preset: str, model: str, changes: tuple[str, ...]
) -> None:
    chosen = (*ONCE, *TAUGHT_ONCE, f"clip.name={model}", "tuning.part_epochs=1", *changes)
    run("teach", "--config", preset, changes=chosen)
    bank = PromptBank.load(Path("runs/teach-1/prompt_bank.safetensors"))
    assert bank.part.shape == (8, 20, DIM)
    assert bank.present.any()
    assert not bank.part[~bank.present].any()
    terms = {"identity", "triplet", "image_to_text", "align"}
    assert terms <= last_metrics("runs/teach-1").keys()
    _, weights, metadata = load_tensors(Path("runs/teach-1/teacher.safetensors"), "teacher")
    if preset == "paper_vit":
        assert metadata["vit"]["stride"] == 12
        assert weights["image_encoder.camera"].shape == (3, 32)

    student = (*ONCE, "pretrained=none")
    run("student", "--config", preset, "--bank", "runs/teach-1", changes=student)
    assert terms <= last_metrics("runs/student-1").keys()
    assert "Verified" in run("export", "runs/student-1")
    camera = () if preset == "paper" else ("--camera", "mean")
    assert "Verified" in run("export", "runs/teach-1", *camera)


def test_clip_reid_needs_no_maps_and_its_bank_teaches_identities(tmp_path: Path) -> None:
    chosen = (*ONCE, *TAUGHT_ONCE, "clip.name=small-vit", "bank_precision=float16")
    run("teach", "--config", "clipreid_vit_sie_olp", changes=chosen)
    bank = PromptBank.load(Path("runs/teach-1/prompt_bank.safetensors"))
    assert not bank.present.any()
    assert bank.identity.abs().sum(1).all()
    metrics = last_metrics("runs/teach-1")
    assert {"identity", "triplet", "image_to_text"} <= metrics.keys()
    assert "align" not in metrics
    student = (*ONCE, "pretrained=none")
    run("student", "--config", "table5_clipreid", "--bank", "runs/teach-1", changes=student)
    assert "align" not in last_metrics("runs/student-1")
    refused = CliRunner().invoke(
        main, ["student", "--config", "quick", "--bank", "runs/teach-1", "-o", "refused"]
    )
    assert refused.exit_code == 2
    assert "The bank holds no part texts" in " ".join(refused.output.split())


@pytest.mark.parametrize("row", ["table3_b", "table3_b_h", "table3_b_p", "table3_b_p_f"])
def test_rows_of_table_3_differ_in_what_is_aligned(row: str) -> None:
    chosen = (*ONCE, *TAUGHT_ONCE, "clip.name=small-rn")
    if row.startswith("table3_b_p"):
        chosen += ("tuning.part_epochs=1",)
    run("teach", "--config", row, changes=chosen)
    assert ("align" in last_metrics("runs/teach-1")) == (row != "table3_b")
    stages = Path("runs/teach-1/metrics.jsonl").read_text()
    assert ('"epoch": 2' in stages) == row.startswith("table3_b_p")


@pytest.mark.parametrize("bank", ["none", "runs/teach-1"])
def test_a_student_imitates_the_teachers_embeddings_with_a_bank_or_without(bank: str) -> None:
    chosen = (*ONCE, *TAUGHT_ONCE, "clip.name=small-rn", "embedding_views=2")
    run("teach", "--config", "clipreid_rn50", changes=chosen)
    file = "runs/teach-1/teacher_embeddings.safetensors"
    _, tensors, _ = load_tensors(Path(file), "teacher embeddings")
    assert tensors["embeddings"].shape == (48, 2, 256 + DIM)
    assert tensors["embeddings"].dtype == torch.float16
    student = (*ONCE, "pretrained=none", "distill.embedding=1", f"teacher={file}")
    run("student", "--config", "clipreid_rn50", "--bank", bank, changes=student)
    assert 0 < last_metrics("runs/student-1")["embedding"] < 4
