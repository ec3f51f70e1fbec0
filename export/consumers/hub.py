"""The Hugging Face hub: a repository with a model card, the ONNX files, and what timm loads.

The folder is an export itself, which `pivl-distill pull` brings to a device for the Extractor. The
ONNX files are also there under the names that transformers.js looks for. If plain timm builds the
same network from its architecture and these weights, `config.json` describes it for timm; a changed
last stride, or an architecture that only we have, cannot be described.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCardData

from export.accuracy import check_budget, compare_features
from export.consumer_schema import ConsumerRun
from export.consumers.base import Consumer, ExportFolder, Frame, NetworkFile, Runner, RunOptions
from export.consumers.web import FILES
from export.consumers.worker import SCRIPTS, run_worker
from export.manifest_schema import Manifest, write_manifest
from pivl_distill.data.images import read_pixels
from pivl_distill.errors import PivlError
from pivl_distill.runs.run import Run
from pivl_distill.runtime import Extractor
from pivl_distill.storage.filenames import FP32_FILE, RUN_FILE
from pivl_distill.storage.files import sha256, write_bytes, write_text
from pivl_distill.storage.tensors import is_foreign, load_tensors

CARD, TIMM_CONFIG, WEIGHTS = "README.md", "config.json", "model.safetensors"
STUDENT = "student"
"""Kind of the checkpoints that are bare timm networks."""
KINDS = (STUDENT, "teacher")


class Hub(Consumer):
    """Writes an export with a model card; `pivl-distill push` uploads it."""

    name, title = "hub", "the Hugging Face hub"

    def write(self, export: ExportFolder, folder: Path) -> tuple[NetworkFile, ...]:
        manifest, files = export.manifest, []
        (folder / "onnx").mkdir()
        kept = [a for a in manifest.artifacts if a.kind == "onnx" and a.status == "verified"]
        for name in (manifest.golden_crop.file, *(artifact.file for artifact in kept)):
            write_bytes(folder / name, (export.path / name).read_bytes())
        for precision, source in export.sources().items():
            write_bytes(folder / FILES[precision], source.read_bytes())
            files.append(NetworkFile(source.name, precision))
        own = manifest.model_copy(update={"artifacts": tuple(kept), "consumers": ()})
        write_manifest(folder, own)
        if _write_for_timm(export, folder):
            files.append(NetworkFile(WEIGHTS, "fp32"))
        return tuple(files)

    @contextmanager
    def open(
        self, export: ExportFolder, folder: Path, file: NetworkFile, options: RunOptions
    ) -> Iterator[Runner]:
        if file.path == WEIGHTS:
            with _open_in_timm(folder) as runner:
                yield replace(runner, our_crops=True)
            return
        extractor = Extractor(folder, precision=file.precision, device="cpu")

        def embed(frames: Sequence[Frame]) -> np.ndarray:
            return np.concatenate(
                [extractor.embed_boxes(frame.pixels, [frame.box]) for frame in frames]
            )

        yield Runner(embed, "Extractor", our_crops=True)

    def configure(self, export: ExportFolder, folder: Path, runs: Sequence[ConsumerRun]) -> None:
        in_timm = any(run.file == WEIGHTS for run in runs)
        write_text(folder / CARD, model_card(export.manifest, runs, in_timm=in_timm))


def _write_for_timm(export: ExportFolder, folder: Path) -> bool:
    """Write the weights of a student, and timm's description if timm then builds the same network.

    Returns whether it does. Raises PivlError if the checkpoint of the export is gone.
    """
    checkpoint = find_source(export)
    if is_foreign(checkpoint):
        return False
    kind, _, metadata = load_tensors(checkpoint, *KINDS)
    if kind != STUDENT:
        return False
    write_bytes(folder / WEIGHTS, checkpoint.read_bytes())
    described = _describe(str(metadata["arch"]))
    if not described["known"]:
        return False
    config = timm_config(export.manifest, str(metadata["arch"]), described["fixed_input_size"])
    write_text(folder / TIMM_CONFIG, json.dumps(config, indent=2) + "\n")
    if _same_in_timm(export, folder):
        return True
    (folder / TIMM_CONFIG).unlink()
    return False


def find_source(export: ExportFolder) -> Path:
    """Return the checkpoint of an export; raises PivlError if it is gone or another one."""
    summary = Run(export.path).metadata if (export.path / RUN_FILE).is_file() else {}
    path = Path(str(summary.get("source", "")))
    digest = export.manifest.source.get(path.name)
    if digest is None or not path.is_file() or sha256(path) != digest:
        raise PivlError(
            f"The checkpoint of {export.path} ({', '.join(export.manifest.source) or 'unknown'})"
            " is gone or was changed; the hub gets its weights. Put it back, or export again."
        )
    return path


def timm_config(manifest: Manifest, arch: str, fixed_size: bool) -> dict[str, Any]:
    """Return what timm reads to build and feed the network; `fixed_size`: for a grid of patches."""
    spec = manifest.input
    return {
        "architecture": arch,
        "num_classes": 0,
        "num_features": manifest.output.dim,
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [3, *spec.size_hw],
            "fixed_input_size": fixed_size,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
    }


def _describe(arch: str) -> dict[str, bool]:
    command = [sys.executable, str(SCRIPTS / "describe_timm.py"), arch]
    printed = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    described: dict[str, bool] = json.loads(printed.stdout)
    return described


def _open_in_timm(folder: Path) -> Any:
    return run_worker([sys.executable, SCRIPTS / "run_timm.py", folder], "timm")


def _same_in_timm(export: ExportFolder, folder: Path) -> bool:
    """Whether timm loads the folder and returns the golden vector within the budget of float32."""
    manifest = export.manifest
    crop = read_pixels(folder / manifest.golden_crop.file)
    height, width = manifest.input.size_hw
    golden = np.array([manifest.artifact(FP32_FILE).golden_vector], np.float32)
    try:
        with _open_in_timm(folder) as runner:
            vector = runner.embed([Frame(crop, (0, 0, width, height))])
        check_budget(compare_features(golden, vector), None, manifest.budgets["fp32"])
    except (PivlError, ValueError):
        return False
    return True


def model_card(manifest: Manifest, runs: Sequence[ConsumerRun], *, in_timm: bool) -> str:
    """Return README.md: metadata of the hub, measured results, and how the network is used."""
    data = ModelCardData(
        license="other",
        library_name="timm" if in_timm else "pivl-distill",
        pipeline_tag="image-feature-extraction",
        tags=["person-re-identification", "onnx", "transformers.js", manifest.name],
        model_name=manifest.name,
        eval_results=_eval_results(manifest, runs) or None,
    )
    sections = [_INTRODUCTION, _results(manifest, runs), _USE]
    if in_timm:
        sections.append(_USE_TIMM)
    sections.append(_RESPONSIBLE)
    size = "×".join(map(str, manifest.input.size_hw))
    body = "".join(sections).format(
        name=manifest.name, size=size, dim=manifest.output.dim, data=_data_name(manifest)
    )
    return f"---\n{data.to_yaml()}\n---\n{body}"


def _data_name(manifest: Manifest) -> str:
    return "unknown data" if manifest.data is None else manifest.data.name


def _eval_results(manifest: Manifest, runs: Sequence[ConsumerRun]) -> list[EvalResult]:
    """mAP and Rank-1 of the float32 file, if they were measured."""
    run = next((run for run in runs if run.file == FP32_FILE), None)
    if run is None or run.retrieval is None:
        return []
    values = {"mAP": run.retrieval.exported_mAP, "Rank-1": run.retrieval.exported_rank1}
    return [
        EvalResult(
            task_type="image-feature-extraction",
            task_name="Person re-identification",
            dataset_type=_data_name(manifest),
            dataset_name=_data_name(manifest),
            metric_type=metric,
            metric_value=round(100 * value, 2),
        )
        for metric, value in values.items()
    ]


def _results(manifest: Manifest, runs: Sequence[ConsumerRun]) -> str:
    rows = []
    for run in runs:
        cosine = f"{run.exact.min_cosine:.4f}" if run.exact else "–"
        scores = ["–", "–"]
        if run.retrieval is not None:
            values = (run.retrieval.exported_mAP, run.retrieval.exported_rank1)
            scores = [f"{100 * value:.2f} %" for value in values]
        cells = [f"`{run.file}`", run.precision, run.by or "not run", cosine, *scores]
        rows.append(f"| {' | '.join(cells)} |\n")
    return (
        "\n## Results\n\nMeasured on {data}. The cosine is the lowest to the float32 network.\n\n"
        "| file | precision | run by | cosine | mAP | Rank-1 |\n|---|---|---|---|---|---|\n"
        + "".join(rows)
    )


_INTRODUCTION = """
# {name}

A network for person re-identification, exported by `pivl-distill`. It maps RGB crops of people,
resized to {size} (height×width), to {dim} values; the cosine of two vectors says how similar the
people look.
"""

_USE = """
## Use

```sh
pivl-distill pull OWNER/NAME -o deploy/
```

```python
from pivl_distill.runtime import Extractor

extractor = Extractor("deploy/")
```

`manifest.json` has the preprocessing, the thresholds and the hashes of all files. The files in
`onnx/` are the same networks under the names of transformers.js.
"""

_USE_TIMM = """
```python
import timm

model = timm.create_model("hf-hub:OWNER/NAME", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```
"""

_RESPONSIBLE = """
## Responsible use

Re-identification tracks people. Use it only where the law and the people concerned allow it, and
not for decisions about people without human review. Thresholds hold for data similar to {data}.
"""
