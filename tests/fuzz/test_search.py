"""A search finds what fails, reduces it, and keeps it as a file that gives the same case."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("hypothesis", reason="random cases need hypothesis: pip install hypothesis")

from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.experiment import Origin
from fuzz import __main__ as command
from fuzz import search
from fuzz.case import Case
from fuzz.mutation import damaged, edited, edited_safetensors, renamed
from fuzz.search import Tally, explore, keep
from fuzz.table import record, render_page
from fuzz.worker import Verdict


@pytest.fixture
def explored(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tally]:
    """`explored(judge)` explores cases of a few bytes, of which `judge` gives the signature."""

    def run(judge: Callable[[bytes], str], seed: int | None = 1) -> Tally:
        cases = st.binary(max_size=9).map(lambda data: Case({"a": data}))
        monkeypatch.setattr(search, "SORTS", {"bytes": SimpleNamespace(cases=lambda: cases)})

        def examine(sort: str, case: Case) -> Verdict:
            found = judge(case.files["a"])
            outcome = "failure" if found else "refusal" if len(case.files["a"]) > 4 else "result"
            return Verdict(outcome, found, found, cpu_s=0.25, peak_bytes=len(case.files["a"]))

        tally = Tally("bytes")
        for _ in range(3):
            explore(tally, SimpleNamespace(examine=examine), 100, seed)
        return tally

    return run


def test_all_cases_are_counted(explored: Callable[..., Tally]) -> None:
    tally = explored(lambda data: "", None)
    assert tally.failures == {}
    assert tally.inputs == tally.results + tally.refusals > 150
    assert tally.results
    assert (tally.slowest_s, tally.peak_bytes) == (0.25, 9)


def test_each_failure_is_reduced_and_found_once(explored: Callable[..., Tally]) -> None:
    tally = explored(lambda data: "long" if len(data) > 6 else "odd" if b"\xff" in data else "")
    smallest = {signature: case.files["a"] for signature, (case, _) in tally.failures.items()}
    assert smallest == {"long": bytes(7), "odd": b"\xff"}
    assert tally.failed > 2


def test_kept_cases_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "REGRESSIONS", tmp_path)
    case = Case({"a.txt": b"text\n", "caf\udce9.bin": b"\xff\0" * 500, "empty/": b""}, {"set": [1]})
    path = keep("images", case, Verdict("failure", "…", "KeyError in a.b"))
    assert path == tmp_path / "images" / f"{case.digest}.json"
    assert json.loads(path.read_text())["failure"] == "KeyError in a.b"
    assert Case.from_json(path.read_text()) == case
    case.write(tmp_path / "written")
    assert (tmp_path / "written" / "caf\udce9.bin").read_bytes() == b"\xff\0" * 500


@pytest.mark.parametrize("broken", [False, True])
def test_the_command_prints_a_table_and_keeps_what_fails(
    broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Judge:
        def __enter__(self) -> Judge:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def examine(self, sort: str, case: Case) -> Verdict:
            return Verdict("failure", "text", "KeyError in a.b") if broken else Verdict("result")

    monkeypatch.setattr(search, "REGRESSIONS", tmp_path)
    monkeypatch.setattr(command, "Worker", Judge)
    done = CliRunner().invoke(command.main, ["--inputs", "5", "--sort", "images", "--seed", "1"])
    assert done.exit_code == broken, done.output
    assert "| images | 5 |" in done.output
    assert len(list((tmp_path / "images").glob("*.json"))) == broken
    assert ("KeyError in a.b\ntext\nkept as" in done.output) == broken
    assert CliRunner().invoke(command.main, []).exit_code == 2


def test_the_page_gets_the_table_between_its_marks(tmp_path: Path) -> None:
    page, file = tmp_path / "page.md", tmp_path / "fuzz.json"
    page.write_text("before\n<!-- fuzz -->\nold\n<!-- end of fuzz -->\nafter\n")
    tally = Tally("data_sets", 1000, 600, 400, wall_s=90, slowest_s=0.251, peak_bytes=2**21)
    origin = Origin(commit="abc", versions={"torch": "2"}, processor="a processor", threads=1)
    record([Tally("data_sets", 3), Tally("images", 7)], origin, file, page)
    record([tally], origin.model_copy(update={"commit": "def"}), file, page)
    text = page.read_text()
    assert "| images | 7 | 0 |" in text
    assert "At commit abc on a processor, 1 thread (torch 2). At commit def on" in text
    assert "| data sets | 1,000 | 600 | 400 | 0 | 1.5 min | 0.25 s | 2 MiB |" in text
    assert text.startswith("before\n<!-- fuzz -->\n\n| sort |")
    assert text.endswith("\n<!-- end of fuzz -->\nafter\n")
    assert render_page(text, file) == text


@settings(max_examples=50, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_damage_leaves_its_source_alone(data: st.DataObject) -> None:
    tree = {"a": [1, {"b": None}], "c": "text"}
    data.draw(edited(tree))
    assert tree == {"a": [1, {"b": None}], "c": "text"}
    assert len(data.draw(damaged(bytes(2000), [b"x"]))) < 2**23
    names = data.draw(renamed({"x/1.jpg": b"1", "2.jpg": b"2"}))
    assert not {"", ".", ".."} & {part for name in names for part in name.rstrip("/").split("/")}


def test_edited_tensor_files_are_valid_and_damaged_ones() -> None:
    from safetensors.torch import save
    from torch import ones

    source, drawn = save({"a": ones(2)}, {"pivl-distill": "{}"}), set()

    @settings(max_examples=50, database=None, derandomize=True)
    @given(edited_safetensors(source))
    def draw(content: bytes) -> None:
        drawn.add(content)

    draw()
    assert len(drawn) > 20
    assert any(content.endswith(source[-8:]) for content in drawn)
