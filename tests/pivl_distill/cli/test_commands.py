"""Commands end to end on the tiny tier, and the errors of wrong input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from command_line import QUICK, refuse, succeed
from pivl_distill.cli import main
from pivl_distill.data.synthetic.cache import cached_dataset


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which teach, student and export have run."""
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        succeed("teach", *QUICK)
        succeed("student", *QUICK)
        succeed("export")
    return folder


@pytest.fixture(autouse=True)
def in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


def metrics(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def retrieval_of(path: Path) -> dict[str, float]:
    return json.loads((path / "run.json").read_text())["retrieval"]


def test_teach_student_and_export_write_complete_run_folders() -> None:
    files = {p.as_posix() for p in Path("runs").rglob("*") if p.is_file()}
    assert files == {
        "runs/teach-1/config.yaml",
        "runs/teach-1/metrics.jsonl",
        "runs/teach-1/prompt_bank.safetensors",
        "runs/teach-1/run.json",
        "runs/teach-1/teacher.safetensors",
        "runs/teach-1/teacher_embeddings.safetensors",
        "runs/student-1/config.yaml",
        "runs/student-1/metrics.jsonl",
        "runs/student-1/run.json",
        "runs/student-1/student.safetensors",
        "runs/export-1/config.yaml",
        "runs/export-1/golden.png",
        "runs/export-1/manifest.json",
        "runs/export-1/model.onnx",
        "runs/export-1/run.json",
    }
    assert [line["stage"] for line in metrics(Path("runs/teach-1"))] == ["prompts"] * 3 + ["reid"]
    assert {"identity", "triplet", "image_to_text", "align"} <= metrics(Path("runs/student-1"))[
        0
    ].keys()


def test_run_checkpoint_and_exported_file_score_the_same() -> None:
    outputs = [
        succeed("evaluate", target).split("mAP", 1)[1]
        for target in (
            "runs/student-1",
            "runs/student-1/student.safetensors",
            "runs/export-1",
            "runs/export-1/model.onnx",
        )
    ]
    assert len(set(outputs)) == 1
    assert outputs[0] == succeed("evaluate").split("mAP", 1)[1]


def test_teacher_can_be_evaluated_and_exported() -> None:
    assert "mAP" in succeed("evaluate", "runs/teach-1")
    output = succeed("export", "runs/teach-1", "--normalize", "-o", "teacher-export")
    assert "Verified" in output
    assert json.loads(Path("teacher-export/manifest.json").read_text())["output"]["l2_normalised"]


def test_baseline_sees_the_same_crops_and_has_no_text_losses() -> None:
    succeed("student", *QUICK, "--bank", "none", "-o", "baseline")
    assert not {"image_to_text", "align"} & metrics(Path("baseline"))[0].keys()
    taught = succeed("student", *QUICK, "--bank", "runs/teach-1", "-o", "taught")
    assert "mAP" in taught


@pytest.mark.parametrize("supervision", ["identity", "label", "permuted"])
def test_every_supervision_trains(supervision: str) -> None:
    out = f"arm-{supervision}"
    succeed("student", *QUICK, "--set", f"supervision={supervision}", "-o", out)
    assert ("align" in metrics(Path(out))[0]) == (supervision != "identity")


def test_the_same_seed_gives_the_same_student() -> None:
    succeed("student", *QUICK, "-o", "again")
    first, again = (
        Path(folder, "student.safetensors").read_bytes() for folder in ("runs/student-1", "again")
    )
    assert first == again


@pytest.mark.parametrize("arch", ["resnet18", "vit_tiny_patch16_224"])
def test_another_cnn_and_a_vit_can_be_students(arch: str) -> None:
    output = succeed("student", *QUICK, "--arch", arch, "--pretrained", "none", "-o", arch)
    assert "mAP" in output
    assert "Verified" in succeed("export", arch, "-o", f"{arch}-export")


def test_a_tiny_vit_can_teach() -> None:
    succeed(
        "teach", *QUICK, "--set", "clip.name=tiny_vit", "--set", "clip.weights=none", "-o", "vit"
    )
    assert "Verified" in succeed("export", "vit", "-o", "vit-export")


def test_market1501_tree_and_maps_by_path(tmp_path: Path) -> None:
    """A tree outside the cache, without synthetic.json, whose maps are in another folder."""
    tree, maps = tmp_path / "market", tmp_path / "maps"
    shutil.copytree(cached_dataset("tiny"), tree)
    shutil.move(tree / "parsing", maps)
    (tree / "synthetic.json").unlink()
    data = ("--data", f"market1501:{tree}", "--parsing", maps)
    succeed("teach", *QUICK, *data, "-o", tmp_path / "teach")
    taught = ("--bank", tmp_path / "teach", "--pretrained", "none")
    succeed("student", *QUICK, *data, *taught, "-o", tmp_path / "student")
    succeed("export", tmp_path / "student", "-o", tmp_path / "export")
    assert retrieval_of(tmp_path / "student")["valid_queries"] == 24


def test_crops_without_cameras_are_scored_without_the_camera_rule(tmp_path: Path) -> None:
    splits = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
    rows = [
        f"{path},{path.name.partition('_')[0]},{split}"
        for folder, split in splits.items()
        for path in sorted((cached_dataset("tiny") / folder).glob("*.jpg"))
    ]
    manifest = tmp_path / "crops.csv"
    manifest.write_text("\n".join(["path,pid,split", *rows]))
    data = ("--data", f"manifest:{manifest}?root={cached_dataset('tiny')}")
    baseline = ("--bank", "none", "--pretrained", "none")
    output = succeed("student", *QUICK, *data, *baseline, "-o", tmp_path / "student")
    assert "not the usual protocol" in output
    assert retrieval_of(tmp_path / "student")["camera_rule"] is False
    assert "not the usual protocol" in succeed("export", tmp_path / "student", "-o", "no-cameras")
    (artifact,) = json.loads(Path("no-cameras/manifest.json").read_text())["artifacts"]
    assert artifact["retrieval"]["camera_rule"] is False
    output = succeed("evaluate", tmp_path / "student", "--sheet", tmp_path / "sheet.png")
    assert "not the usual protocol" in output
    known = succeed("evaluate", tmp_path / "student", "--data", "synthetic:tiny")
    assert "not the usual protocol" not in known


def test_synth_writes_a_tree_and_a_sheet(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    output = succeed("synth", "--tier", "tiny", "-o", tmp_path / "people", "--sheet", sheet)
    assert "48 images, 8 identities" in output
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_unknown_settings_are_listed_with_the_nearest_name() -> None:
    output = refuse("student", "--set", "stage2.epoch=3", "--set", "archs=x", "--set", "seed=-1")
    assert "stage2.epoch: unknown setting; did you mean 'epochs'?" in output
    assert "archs: unknown setting; did you mean 'arch'?" in output
    assert "seed: Input should be greater than or equal to 0" in output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("student", *QUICK, "--bank", "nowhere"), "No prompt bank at nowhere"),
        (("student", *QUICK, "--bank", "runs/student-1/student.safetensors"), "is not a prompt"),
        (("student", *QUICK, "--arch", "mobilenetv2_25"), "did you mean 'mobilenetv2_025'?"),
        (("student", *QUICK, "-o", "runs/student-1"), "already contains a run"),
        (("teach", "--data", "market:/x"), "did you mean 'market1501'?"),
        (("teach", "--data", "market1501:/nowhere"), "/nowhere"),
        (("teach", "--config", "quik"), "did you mean 'quick'?"),
        (("teach", *QUICK, "--set", "clip.name=tiny_rm"), "did you mean 'tiny_rn'?"),
        (("teach", "--set", "seed"), "--set takes key=value"),
        (("export", "nowhere"), "No run folder at nowhere"),
        (("export", "--precision", "fp32,int4"), "Unknown precision 'int4'"),
        (("export", "--budget", "int8=1"), "Known: cosine, mAP, rank1"),
        (("export", "--budget", "fp16.mAP=none"), "looks like int8.mAP=2"),
        (("evaluate", "runs/teach-1/prompt_bank.safetensors"), "is not a student or teacher"),
        (("evaluate", "nowhere.onnx"), "There is no ONNX file or OpenVINO IR at nowhere.onnx"),
        (("synth", "--tier", "easy"), "Unknown synthetic tier 'easy'"),
    ],
)
def test_wrong_input_is_an_error(arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in refuse(*arguments)


def test_a_bank_of_other_identities_is_an_error(tmp_path: Path) -> None:
    tree = tmp_path / "market"
    shutil.copytree(cached_dataset("tiny"), tree)
    for path in sorted((tree / "bounding_box_train").glob("0001_*")):
        path.rename(path.with_name(path.name.replace("0001_", "0900_")))
    output = refuse("student", *QUICK, "--data", f"market1501:{tree}", "--bank", "runs/teach-1")
    assert "pid 900" in output


def test_without_runs_the_error_names_the_command_to_run_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "run `pivl-distill student` first" in refuse("export")
    assert "run `pivl-distill teach` first" in refuse("student")


def test_engine_batch_sizes_are_checked_before_exporting() -> None:
    assert "min ≤ opt ≤ max" in refuse("export", "--trt", "--batch", "64,8,1", "-o", "unread")
    assert not Path("unread").exists()


def test_trt_without_tensorrt_keeps_the_onnx_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    output = refuse("export", "--trt", "-o", "no-engine")
    assert "pivl-distill[trt]" in output
    assert Path("no-engine/model.onnx").is_file()


def test_evaluating_a_modified_exported_file_is_an_error() -> None:
    shutil.copytree("runs/export-1", "changed")
    onnx = Path("changed/model.onnx")
    data = bytearray(onnx.read_bytes())
    data[len(data) // 2] ^= 1
    onnx.write_bytes(data)
    assert "is not the file its manifest describes" in refuse("evaluate", "changed")


def test_help_loads_no_heavy_package() -> None:
    script = (
        "import sys; from pivl_distill.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'cv2', 'onnx'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("command", list(main.commands))
def test_every_help_has_examples(command: str) -> None:
    assert "Example" in succeed(command, "--help")


def test_a_student_never_loads_clip(tmp_path: Path) -> None:
    script = (
        "import sys; from pivl_distill.cli import main\n"
        f"main(['student', '--config', 'quick', '-o', {str(tmp_path / 'alone')!r}],"
        " standalone_mode=False)\n"
        "assert not {'open_clip', 'teachers', 'onnx', 'onnxruntime'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert np.isfinite(retrieval_of(tmp_path / "alone")["mAP"])
