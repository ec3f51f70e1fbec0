"""The page of results: current, complete, and with the figures of the files."""

from __future__ import annotations

from pathlib import Path

import pytest

import benchmarks.results
from benchmarks.experiment import Arm, Experiment, Origin, ResultFile, Row
from benchmarks.results import PAGE, README, render_page, render_readme
from pivl_distill.errors import PivlError

ORIGIN = Origin(commit="abc1234", versions={"torch": "2.8"}, processor="a processor", threads=2)
EXPERIMENT = Experiment(
    name="Arms",
    question="Does the bank help?",
    command="make bench",
    data="synthetic:tiny",
    budget={"epochs": 3, "batch": "16×4"},
    arms={"plain": Arm(label="no bank"), "part": Arm(label="a|b"), "later": Arm(label="later")},
    baseline="plain",
    conclusion="The bank reaches {part}, {part - plain} more; {Eq. 3} stays.",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two seeds of two of three arms."""
    file = ResultFile.load_or_create(tmp_path / "arms.json", EXPERIMENT, ORIGIN)
    for arm, seed, score in [
        ("plain", 0, 0.70), ("plain", 1, 0.72), ("part", 0, 0.74), ("part", 1, 0.76),
    ]:  # fmt: skip
        extra = {"ms": 1.25} if arm == "part" else {}
        file.add(Row(arm=arm, seed=seed, mAP=score, rank1=0.9, seconds=90, extra=extra))
    return tmp_path


def test_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_page(), "run `python -m benchmarks.results`"


def test_tables_of_the_readme_are_current() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == render_readme(text), "run `python -m benchmarks.results`"


def test_a_marked_table_is_replaced(folder: Path) -> None:
    text = "before\n<!-- results: arms -->\nold\n<!-- end -->\nafter\n"
    rendered = render_readme(text, folder)
    assert "old" not in rendered
    assert "| no bank | 71.0 ± 1.4 |" in rendered
    assert rendered.startswith("before\n<!-- results: arms -->\n\n| arm")
    assert rendered.endswith("|\n\n<!-- end -->\nafter\n")
    assert render_readme(rendered, folder) == rendered


def test_table_has_a_row_for_every_measured_arm(folder: Path) -> None:
    lines = [line for line in render_page(folder).splitlines() if line.startswith("|")]
    interval = "+4.0 [-2.1, +10.1]"  # 2 degrees of freedom: 4.303 × √2 = 6.08
    assert lines == [
        "| arm | mAP | Rank-1 | train top-1 | difference in mAP | minutes | seeds | ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| no bank | 71.0 ± 1.4 | 90.0 ± 0.0 |  |  | 1.5 | 2 |  |",
        f"| a\\|b | 75.0 ± 1.4 | 90.0 ± 0.0 |  | {interval} | 1.5 | 2 | 1.25 |",
    ]


def test_page_has_question_conclusion_and_origin(folder: Path) -> None:
    page = render_page(folder)
    assert "## Arms\n\nDoes the bank help?\n\n| arm" in page
    text = "The bank reaches 75.0 ± 1.4, +4.0 [-2.1, +10.1] more; {Eq. 3} stays."
    assert f"{text}\n\n```sh\nmake bench\n```\n\n" in page
    assert (
        "Data `synthetic:tiny`; epochs 3, batch 16×4. 4 rows at commit abc1234 on a processor,"
        " 2 threads (torch 2.8)."
    ) in page


def test_experiments_without_rows_are_left_out(tmp_path: Path) -> None:
    ResultFile.load_or_create(tmp_path / "arms.json", EXPERIMENT, ORIGIN)
    assert "No experiment has been recorded yet." in render_page(tmp_path)


def test_baseline_that_is_not_measured_leaves_differences_empty(tmp_path: Path) -> None:
    plain = EXPERIMENT.model_copy(update={"conclusion": ""})
    file = ResultFile.load_or_create(tmp_path / "arms.json", plain, ORIGIN)
    file.add(Row(arm="part", seed=0, mAP=0.5, rank1=0.5, train_top1=0.9))
    assert "| 50.0 | 50.0 | 90.0 |  |  | 1 |" in render_page(tmp_path)


def test_conclusion_about_an_unknown_arm_is_an_error(folder: Path) -> None:
    file = folder / "arms.json"
    file.write_text(file.read_text().replace("{part}", "{parts}"))
    with pytest.raises(PivlError, match="Unknown arm 'parts'"):
        render_page(folder)


def test_command_writes_the_page_and_the_tables_of_the_readme(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, readme = folder / "page.md", folder / "README.md"
    readme.write_text("no table here\n")
    monkeypatch.setattr(benchmarks.results, "PAGE", page)
    monkeypatch.setattr(benchmarks.results, "README", readme)
    benchmarks.results.main()
    assert page.read_text(encoding="utf-8") == render_page()
    assert readme.read_text() == "no table here\n"


def test_command_ends_with_a_message_for_a_damaged_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> str:
        raise PivlError("'x.json' is not a result file")

    monkeypatch.setattr(benchmarks.results, "render_page", fail)
    with pytest.raises(SystemExit) as stopped:
        benchmarks.results.main()
    assert stopped.value.code == 2
    assert "is not a result file" in capsys.readouterr().err
