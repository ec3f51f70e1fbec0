"""Every shipped configuration, built at full size on a small Market-1501 without weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from command_line import refuse, succeed
from pivl_distill.cli import main
from pivl_distill.config import CONFIGS_DIR, StudentConfig, TeachConfig, load_config

REAL = sorted(
    path.stem for path in CONFIGS_DIR.glob("*.yaml") if path.stem not in ("quick", "literal")
)
IDENTITIES, CAMERAS = 17, 6


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 17 people with two crops by each of six cameras, and their maps."""
    root = tmp_path_factory.mktemp("market")
    rng = np.random.default_rng(0)
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir()
    (root / "parsing" / "bounding_box_train").mkdir(parents=True)
    (root / "parsing" / "parsing.json").write_text(json.dumps({"vocabulary": "lip20"}))
    for pid in range(1, IDENTITIES + 1):
        for camera in range(1, CAMERAS + 1):
            for shot in (1, 2):
                name = f"{pid:04d}_c{camera}s1_{shot:06d}_00"
                pixels = rng.integers(0, 256, (32, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "bounding_box_train" / f"{name}.jpg")
                labels = rng.integers(0, 20, (32, 16), dtype=np.uint8)
                path = root / "parsing" / "bounding_box_train" / f"{name}.png"
                Image.fromarray(labels).save(path)
    for folder, camera in (("query", 1), ("bounding_box_test", 2)):
        Image.fromarray(pixels).save(root / folder / f"1001_c{camera}s1_000001_00.jpg")
    return root


def dry_run(command: str, preset: str, market: Path, device: str = "meta") -> dict[str, str]:
    """Return the table that `--dry-run` prints, as name → value."""
    common = ["--config", preset, "--data", f"market1501:{market}", "--dry-run"]
    result = CliRunner().invoke(main, [command, *common, "--set", f"device={device}"])
    assert result.exit_code == 0, result.output
    lines = (line.strip() for line in result.stdout.splitlines())
    return dict(line.split("  ", 1) for line in lines if "  " in line)


@pytest.mark.parametrize("preset", REAL)
def test_every_preset_can_teach(market: Path, tmp_path: Path, preset: str, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = dry_run("teach", preset, market)
    config = load_config(TeachConfig, "teach", preset, {})
    is_vit = config.clip.name == "ViT-B-16"
    grid = (21, 10) if config.clip.stride_px else (16, 8)
    dim = 512 if is_vit else 1024
    table = {name: value.strip() for name, value in rows.items()}
    assert table["stage 1: grid"] == f"{grid[0]}×{grid[1]} cells of {dim} dimensions"
    image = {"RN50": 38_316_896, "ViT-B-16": 86_192_640}[config.clip.name]
    counted = int(table["CLIP"].split()[1].replace(",", ""))
    positions = {(16, 8): 129, (21, 10): 211}[grid]
    if is_vit:
        image += (positions - 197) * 768 + CAMERAS * 768 * bool(config.clip.sie_coefficient)
    else:
        image += (positions - 50) * 2048
    assert counted == image
    epochs = config.tuning.identity_epochs + config.tuning.part_epochs
    assert f"of {epochs} epochs" in table["stage 1: steps"]
    assert f"of {config.stage2.epochs} epochs" in table["stage 2: steps"]
    assert ("stage 2: aligned map" in table) == (config.supervision != "identity")
    if config.supervision != "identity":
        assert table["stage 2: aligned map"] == "32×16 cells of 1024 dimensions"
        assert table["parsing maps"] == "204 of 204"
    else:
        assert table["parsing maps"] == "not needed"
    assert "activations of 64 crops" in table["stage 2: memory"]
    assert list(tmp_path.iterdir()) == []  # nothing is written


@pytest.mark.parametrize("preset", REAL)
def test_every_preset_can_train_a_student(
    market: Path, tmp_path: Path, preset: str, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    taught = load_config(TeachConfig, "teach", preset, {})
    config = load_config(StudentConfig, "student", preset, {})
    table = dry_run("student", preset, market)
    assert table["stage 2: parameters"].endswith(" 238,112 afterwards")
    assert f"of {60 if preset == 'photographs' else 120} epochs" in table["stage 2: steps"]
    aligned = config.supervision in ("part", "label")
    assert ("stage 2: aligned map" in table) == aligned
    dim = 512 if taught.clip.name == "ViT-B-16" else 1024
    bank = "none" if config.supervision == "none" else f"random texts, {dim} dimensions"
    assert table["prompt bank"].strip() == bank
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "preset", "stages"),
    [("student", "table5_pivl", (2,)), ("teach", "paper", (1, 2))],
)
def test_a_real_preset_runs_a_step_of_each_stage(
    market: Path, tmp_path: Path, monkeypatch, command: str, preset: str, stages: tuple[int, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = dry_run(command, preset, market, device="cpu")
    for stage in stages:
        assert table[f"stage {stage}: time"].endswith(" s a step on this cpu")
        assert table[f"stage {stage}: memory"].strip().startswith("at least ")
    if command == "teach":
        assert table["stage 1: activations"].strip().endswith(" of a batch of 64 crops")
        assert table["CLIP"].strip().startswith("RN50-quickgelu, ")  # OpenAI's, which stays away
    assert list(tmp_path.iterdir()) == []


def test_dry_run_reports_what_it_replaces_by_random_values(
    market: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ("--data", f"market1501:{market}", "--set", "device=meta", "--dry-run")
    output = succeed("teach", "--config", "clipreid_vit", *common)
    assert "does not download 'openai'; random weights replace them" in output
    output = succeed("student", "--config", "clipreid_vit", *common, "--arch", "resnet18")
    assert "random texts of 512 dimensions replace it" in output
    assert "does not download timm's published weights; random weights replace them" in output
    wrong = ("teach", "--config", "clipreid_vit", *common, "--set", "clip.weights=opanai")
    assert "Could not load ViT-B-16 with weights 'opanai'" in refuse(*wrong)
    assert "No prompt bank at elsewhere" in refuse(
        "student", "--config", "paper", *common, "--bank", "elsewhere"
    )


def test_meta_device_is_refused_without_dry_run(market: Path) -> None:
    common = ["teach", "--config", "quick", "--set", "device=meta"]
    result = CliRunner().invoke(main, common)
    assert result.exit_code == 2
    assert "use it with --dry-run only" in result.output


def test_incompatible_settings_are_an_error(market: Path) -> None:
    def refuse(*arguments: str) -> str:
        common = ["--config", "paper", "--data", f"market1501:{market}", "--dry-run"]
        meta = ["--set", "device=meta"]
        result = CliRunner().invoke(main, ["teach", *common, *meta, *arguments])
        assert result.exit_code == 2, result.output
        return " ".join(result.output.split())

    output = refuse("--set", "prompts.learned_tokens=80")
    assert "has 87 tokens but this CLIP reads at most 77" in output
    assert "identities_per_batch is 99, but the training split has 17 identities" in refuse(
        "--set", "stage2.identities_per_batch=99"
    )
    assert "align_dim 512 is less than the 1024" in refuse("--set", "stage2.head.align_dim=512")


def test_dry_run_on_a_real_device_runs_a_step_of_each_stage(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["teach", "--config", "quick", "--dry-run"])
    assert result.exit_code == 0, result.output
    for stage in ("stage 1: encoding", "stage 1: time", "stage 2: time"):
        assert stage in result.stdout
    assert list(tmp_path.iterdir()) == []
    result = CliRunner().invoke(
        main, ["student", "--config", "quick", "--dry-run", "--bank", "none"]
    )
    assert result.exit_code == 0, result.output
    assert "stage 2: time" in result.stdout
    assert list(tmp_path.iterdir()) == []
