"""`pivl-distill compare`: rows, labels, differences and formats."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from command_line import refuse, succeed
from export.cost import network_cost
from pivl_distill.app.comparison import compare_runs
from pivl_distill.app.comparison_table import as_text, choose_format
from pivl_distill.config import HeadSettings
from pivl_distill.errors import PivlError
from pivl_distill.runs.seed_differences import paired_difference, welch_difference
from students.backbones import create_backbone
from students.student import Student, save_student

PLAIN, PART = [0.50, 0.60, 0.58], [0.52, 0.61, 0.61]


@pytest.fixture
def make_run(tmp_path: Path) -> Any:
    """`make_run(name, seed, mAP, kind, settings, bank)` writes a finished run."""

    def write(
        name: str, seed: int = 0, score: float | None = 0.5, kind: str = "student",
        bank: dict[str, Any] | None = None, **settings: Any,
    ) -> Path:  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        config = {
            "data": {"spec": "synthetic:tiny", "parsing": None, "crop_cache_gib": float(seed)},
            "supervision": "none",
            "seed": seed,
            "device": "auto",
            **settings,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump({kind: config}))
        retrieval = None if score is None else {"mAP": score, "rank1": score + 0.25}
        metadata = {"kind": kind, "retrieval": retrieval, "bank": bank}
        (folder / "run.json").write_text(json.dumps(metadata))
        return folder

    return write


@pytest.fixture
def runs(make_run) -> list[Path]:
    """Two arms of three seeds; the arms' order differs from that of the seeds."""
    plain = [make_run(f"plain-{seed}", seed, score) for seed, score in enumerate(PLAIN)]
    bank = {"file": "somewhere", "clip": "tiny_rn", "seed": 7, "data": {"spec": "synthetic:tiny"}}
    part = [
        make_run(f"part-{s}", s, score, supervision="part", bank=bank | {"file": f"bank-{s}"})
        for s, score in enumerate(PART)
    ]
    return [plain[2], part[1], plain[0], part[0], part[2], plain[1]]


def test_runs_that_differ_in_the_seed_are_a_row(runs):
    found = compare_runs(runs)
    assert found.columns == ("supervision",)
    assert [row.labels for row in found.rows] == [("none",), ("part",)]
    assert [[run.seed for run in row.runs] for row in found.rows] == [[0, 1, 2]] * 2
    assert found.rows[1].values("mAP") == pytest.approx([52, 61, 61])
    assert found.rows[1].values("rank1") == pytest.approx([77, 86, 86])
    assert found.rows[0].mAP_difference is None


@pytest.mark.parametrize("paired", [False, True])
def test_differences_are_to_the_first_row(runs, paired):
    row = compare_runs(runs, paired=paired).rows[1]
    difference = paired_difference if paired else welch_difference
    expected = difference([100 * v for v in PART], [100 * v for v in PLAIN])
    for found in (row.mAP_difference, row.rank1_difference):
        assert (found.mean, found.low) == pytest.approx((expected.mean, expected.low))


def test_pairs_are_the_seeds_that_both_have(runs, make_run):
    extra = make_run("part-9", 9, 0.99, supervision="part", bank=None)
    named = [*runs, extra]
    with pytest.raises(PivlError, match="no seed in common"):
        compare_runs([runs[0], extra], paired=True)
    found = compare_runs(named, paired=True, ignore=["bank.clip", "bank.data.spec"])
    assert [run.seed for run in found.rows[1].runs] == [0, 1, 2, 9]
    assert found.rows[1].mAP_difference == compare_runs(runs, paired=True).rows[1].mAP_difference


def test_labels_are_short_where_they_can_be(make_run):
    runs = [
        make_run("a", stage2={"epochs": 3, "loss": {"weight": 1.0}}, distill={"weight": 0.0}),
        make_run("b", stage2={"epochs": 4, "loss": {"weight": 2.5}}, distill={"weight": 1.0}),
        make_run("t", kind="teach", clip={"name": "RN50"}),
    ]
    found = compare_runs(runs)
    assert found.columns == ("command", "distill.weight", "epochs", "stage2.loss.weight")
    assert [row.labels for row in found.rows] == [
        ("student", "0", "3", "1"),
        ("student", "1", "4", "2.5"),
        ("teach", "–", "–", "–"),
    ]


def test_table_3_ticks_the_components(make_run):
    levels = {"head": {"levels": [2, 3, 4]}}
    last = {"head": {"levels": [4]}}
    arms = [("identity", last), ("label", last), ("part", last), ("part", levels)]
    runs = [
        make_run(f"row-{n}", kind="teach", supervision=s, stage2=stage2)
        for n, (s, stage2) in enumerate(arms)
    ]
    found = compare_runs(runs, shape="3")
    assert found.columns == ("H", "P", "F")
    assert [row.labels for row in found.rows] == [
        ("", "", ""),
        ("✓", "", ""),
        ("", "✓", ""),
        ("", "✓", "✓"),
    ]


def test_table_4_names_the_parser(make_run, tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    description = {"vocabulary": "atr18", "parser": {"name": "schp_atr", "batch_size": 8}}
    (maps / "parsing.json").write_text(json.dumps(description))
    data = {"spec": "synthetic:tiny", "parsing": str(maps)}
    runs = [make_run("own"), make_run("parsed", data=data)]
    found = compare_runs(runs, shape="4")
    assert [row.labels for row in found.rows] == [
        ("maps of the data set", ""),
        ("schp_atr", "atr18"),
    ]


def test_table_5_has_the_cost_of_the_network(make_run):
    network = create_backbone("lcnet_050", image_size_hw=(32, 16))
    model = Student(
        "lcnet_050", network, (32, 16), 4, None, False, HeadSettings()
    ).embedding_model()
    runs = [make_run("plain"), make_run("taught", supervision="part", teacher="auto")]
    for run in runs:
        save_student(model, run / "student.safetensors", "auto")
    (runs[1] / "metrics.jsonl").write_text('{"epoch": 1, "embedding": 2.0}\n')
    cost = network_cost(model.network, (32, 16))
    counted = ("lcnet_050", f"{cost.parameters:,}", f"{cost.macs / 1e6:.1f} M")
    found = compare_runs(runs, shape="5")
    assert [row.labels for row in found.rows] == [
        (*counted, "labels"),
        (*counted, "labels, identity and part texts, teacher's embeddings"),
    ]


def test_csv_has_every_figure(runs):
    found = compare_runs(runs, paired=True)
    rows = list(csv.DictReader(io.StringIO(as_text(found, "csv"))))
    assert [row["supervision"] for row in rows] == ["none", "part"]
    assert rows[1]["seeds"] == "0 1 2"
    difference = found.rows[1].rank1_difference
    assert float(rows[1]["rank1_low"]) == difference.low
    assert float(rows[1]["mAP"]) == pytest.approx(58)
    assert rows[0]["mAP_difference"] == ""


def test_markdown_and_latex_have_the_printed_figures(runs):
    found = compare_runs(runs)
    difference = str(found.rows[1].mAP_difference)
    markdown, latex = as_text(found, "markdown"), as_text(found, "latex")
    assert "| supervision | mAP |" in markdown
    assert f"| part | 58.0 ± 5.2 | 83.0 ± 5.2 | {difference} |" in markdown
    assert r"part & 58.0 $\pm$ 5.2" in latex
    assert difference.replace("[", "{[}") in latex
    assert r"\begin{tabular}{lrrrrr}" in latex
    assert latex.count(r"\\") == 3


def test_special_characters_are_escaped(make_run):
    runs = [make_run("a", arch="mobilenetv2_025"), make_run("b", arch="50%|~x")]
    assert r"50\%|\textasciitilde{}x &" in as_text(compare_runs(runs), "latex")
    assert "50%\\|~x |" in as_text(compare_runs(runs), "markdown")


def test_formats_follow_the_suffix():
    assert choose_format(None, None) == "table"
    assert choose_format(None, Path("a.TEX")) == "latex"
    assert choose_format("csv", Path("a.txt")) == "csv"
    for given in (None, "table"):
        with pytest.raises(PivlError, match=r"\.csv, \.md or \.tex"):
            choose_format(given, Path("a.txt"))


def test_the_command_prints_and_writes(runs, tmp_path):
    assert "58.0 ± 5.2" in succeed("compare", *runs, "--paired")
    assert succeed("compare", *runs, "--format", "csv").startswith("supervision,seeds,mAP")
    out = tmp_path / "table.md"
    succeed("compare", *runs, "-o", out)
    assert out.read_text() == as_text(compare_runs(runs), "markdown")


def test_what_cannot_be_compared_is_refused(runs, make_run, tmp_path):
    same = make_run("again", 0, supervision="none")
    unscored = make_run("unscored", 5, None)
    other = make_run("other", data={"spec": "synthetic:hard"})
    exported = make_run("exported", kind="export")
    unfinished = make_run("unfinished")
    (unfinished / "run.json").unlink()
    assert "same settings and seed (0)" in refuse("compare", *runs, same)
    assert "--no-evaluation" in refuse("compare", runs[0], unscored)
    assert "synthetic:hard" in refuse("compare", runs[0], other)
    assert "name teach and student runs" in refuse("compare", exported)
    assert "no finished run" in refuse("compare", unfinished)
    assert "No run folder" in refuse("compare", tmp_path / "nothing")
