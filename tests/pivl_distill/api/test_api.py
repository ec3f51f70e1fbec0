"""The Python API: lazy names, the settings' names as keyword arguments, the commands' results."""

from __future__ import annotations

import ast
import errno
import inspect
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pivl_distill
from pivl_distill import PivlError
from pivl_distill.api.arguments import overrides_of
from pivl_distill.config import ClipSettings, StudentConfig, TeachConfig
from pivl_distill.console import show_progress

ROOT = Path(__file__).parents[3]
STUB = ROOT / "pivl_distill" / "__init__.pyi"


UNREAD = {"export": {"source": "unread"}, "train_student": {"bank": "none"}}


def test_importing_the_package_imports_nothing_heavy():
    script = (
        "import sys, pivl_distill\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'click', 'onnxruntime'}\n"
        "assert not heavy & set(sys.modules)\n"
        "pivl_distill.PivlError\n"
        "assert not 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_public_name_is_there_and_typed():
    stub = ast.parse(STUB.read_text())
    typed = {
        alias.asname
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed | {"__version__"} == set(pivl_distill.__all__) <= set(dir(pivl_distill))
    for name in pivl_distill.__all__:
        assert getattr(pivl_distill, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'student'"):
        _ = pivl_distill.student


@pytest.mark.parametrize(
    ("name", "model"), [("teach", TeachConfig), ("train_student", StudentConfig)]
)
def test_every_top_level_setting_is_a_documented_argument(name, model):
    parameters = inspect.signature(getattr(pivl_distill, name)).parameters
    assert model.model_fields.keys() <= parameters.keys()


FUNCTIONS = ["teach", "train_student", "export", "export_for", "evaluate", "write_report"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_documented(name):
    function = getattr(pivl_distill, name)
    documented = re.findall(r"^    +(\w+): ", inspect.getdoc(function) or "", flags=re.M)
    assert documented == list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("teach", {"sed": 1}, "Unknown argument of teach 'sed'; did you mean 'seed'?"),
        ("train_student", {"archs": "x"}, "did you mean 'arch'?"),
        ("export", {"normalise": True}, "did you mean 'normalize'?"),
        ("evaluate", {"dat": "x"}, "did you mean 'data'?"),
        ("teach", {"clip": {"nam": "x"}}, "clip.nam: unknown setting; did you mean 'name'?"),
        ("teach", {"config": "quik"}, "did you mean 'quick'?"),
        ("train_student", {"bank": "nowhere"}, "No prompt bank at nowhere"),
        ("export", {"source": "nowhere"}, "No run folder at nowhere"),
        ("export_for", {"folder": ".", "consumers": "boxmott"}, "did you mean 'boxmot'?"),
        ("export_for", {"folder": ".", "consumers": "web", "python": "x"}, "'pythons'?"),
        ("write_report", {"crop": False}, "did you mean 'crops'?"),
        ("export", {"precision": "int4"}, "Unknown precision 'int4'"),
        (
            "evaluate",
            {"target": "nowhere.onnx"},
            "There is no ONNX file or OpenVINO IR at nowhere.onnx",
        ),
    ],
)
def test_wrong_arguments_are_pivl_errors(name, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PivlError, match=re.escape(message)):
        getattr(pivl_distill, name)(**arguments)


def overrides(**given: object) -> dict[str, object]:
    arguments = dict.fromkeys(TeachConfig.model_fields) | {"cache": True} | given
    return overrides_of(TeachConfig, arguments, ("data.crop_cache_gib",))


def test_errors_of_the_system_are_pivl_errors(tmp_path, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device", "a.bin")

    monkeypatch.setattr("pivl_distill.app.training_plan.plan_teach", full)
    with pytest.raises(PivlError, match=r"'a\.bin': No space left on device"):
        pivl_distill.teach()


@pytest.mark.parametrize("name", ["teach", "train_student", "export"])
def test_unwritable_folder_is_refused_before_the_work(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(PivlError, match=r"Cannot write to '.*file/run'"):
        getattr(pivl_distill, name)(out=tmp_path / "file" / "run", **UNREAD.get(name, {}))


def test_arguments_become_settings():
    assert overrides() == {}
    assert overrides(data="market1501:/x", seed=0) == {"data.spec": "market1501:/x", "seed": 0}
    assert overrides(data={"size_hw": (256, 128)}) == {"data.size_hw": (256, 128)}
    assert overrides(stage2={"epochs": 3, "loss": {"align": 1}, "loss.triplet": 0}) == {
        "stage2.epochs": 3,
        "stage2.loss.align": 1,
        "stage2.loss.triplet": 0,
    }
    assert overrides(clip=ClipSettings(name="tiny_vit")) == {"clip.name": "tiny_vit"}
    assert overrides(cache=False) == {"data.crop_cache_gib": 0}


def snippets() -> list[str]:
    page = (ROOT / "docs" / "python-api.md").read_text()
    return re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)


@pytest.fixture
def restored_logging():
    """The page changes how the process logs and shows progress."""
    logger = logging.getLogger("pivl_distill")
    level = logger.level
    yield
    logger.setLevel(level)
    show_progress(True)


@pytest.mark.usefixtures("restored_logging")
def test_the_snippets_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in snippets():
        exec(compile(snippet, "docs/python-api.md", "exec"), names)
    assert len(snippets()) >= 4
    assert Path("runs/teach-1/run.json").is_file()
    assert Path("runs/student-1/run.json").is_file()
    assert Path("runs/export-1/model.onnx").is_file()
    assert Path("runs/export-1/triton").is_dir()
    assert Path("report.html").is_file()
