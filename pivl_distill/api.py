"""The Python API: what the commands do, as functions that return the same reports.

    import pivl_distill

    taught = pivl_distill.teach(config="quick")

Defaults are those of the commands. Arguments named after a setting take its value, or for a group
of settings a mapping or settings object with the values that differ from the default. Every error
that a user can correct is a `PivlError`. Importing `pivl_distill` loads none of this.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from pivl_distill.app.api_arguments import (
    as_cameras,
    as_path,
    as_preprocessing,
    as_resume,
    as_text,
    latest_student,
    overrides_of,
)
from pivl_distill.config import (
    CACHE_LIMITS,
    ClipSettings,
    CompatibilitySettings,
    DataSettings,
    DistillationSettings,
    PartClassificationSettings,
    Preprocessing,
    PromptSettings,
    Stage2Settings,
    StudentConfig,
    TeachConfig,
    TuningSettings,
)
from pivl_distill.errors import explain_os_error, unknown_name

if TYPE_CHECKING:
    from export.exporter import ExportReport
    from pivl_distill.app.targets import Evaluation
    from pivl_distill.runs.callbacks import Callback
    from students.distill import StudentReport
    from teachers.teach import TeachReport

P = ParamSpec("P")
R = TypeVar("R")
Values = Mapping[str, Any]
"""Settings by name; groups of settings are mappings, or have dotted names."""
Device = Literal["auto", "cpu", "cuda"]


def _explain_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Raise PivlError instead of TypeError for an argument's name, and of OSError for a file."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise unknown_name(f"argument of {function.__name__}", name, known)
        try:
            return function(*args, **kwargs)
        except OSError as error:
            if (explained := explain_os_error(error)) is None:
                raise
            raise explained from error

    return checked


@_explain_errors
def teach(
    *,
    data: str | Values | DataSettings | None = None,
    clip: Values | ClipSettings | None = None,
    prompts: Values | PromptSettings | None = None,
    tuning: Values | TuningSettings | None = None,
    supervision: str | None = None,
    stage2: Values | Stage2Settings | None = None,
    bank_precision: str | None = None,
    embedding_views: int | None = None,
    device: Device | None = None,
    seed: int | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | bool = False,
    cache: bool = True,
    callbacks: Sequence[Callback] = (),
) -> TeachReport:
    """Tune prompts with CLIP, write the prompt bank, train the teacher: `pivl-distill teach`.

    Args:
        data: data set, such as "market1501:/data/market", or data settings.
        clip: CLIP and its weights.
        prompts: text of the prompts and number of learned tokens.
        tuning: stage 1, the tuning of the prompts.
        supervision: text features of stage 2: "identity", "label" or "part".
        stage2: stage 2, the training of the teacher.
        bank_precision: "float32" or "float16", of the bank file.
        embedding_views: views of each training crop whose teacher embeddings are written; 0: none.
        device: where to compute; default: a GPU if there is one.
        seed: of tokens, data order and augmentation.
        config: YAML file, or the name of one in `configs/`; arguments above take precedence.
        out: run folder; default: the next in `runs/`.
        resume: unfinished run to continue; True: the latest, or `out` if it exists.
        cache: whether to read and write the cache of decoded crops and CLIP features.
        callbacks: called during the run, for trackers.
    """
    overrides = overrides_of(TeachConfig, locals(), CACHE_LIMITS["teach"])
    from pivl_distill.app.training_plan import plan_teach
    from teachers.teach import teach as run_teach

    plan = plan_teach(as_text(config), overrides, as_path(out), as_resume(resume))
    return run_teach(plan.config, plan.location.out, plan.location.resume, callbacks)


@_explain_errors
def train_student(
    *,
    bank: str | Path | None = None,
    data: str | Values | DataSettings | None = None,
    arch: str | None = None,
    pretrained: str | Path | None = None,
    last_stride: Literal["auto", 1, 2] | None = None,
    supervision: str | None = None,
    teacher: str | Path | None = None,
    teacher_preset: str | Path | None = None,
    distill: Values | DistillationSettings | None = None,
    part_classification: Values | PartClassificationSettings | None = None,
    compatible: Values | CompatibilitySettings | None = None,
    stage2: Values | Stage2Settings | None = None,
    trust_pids: bool | None = None,
    device: Device | None = None,
    seed: int | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | bool = False,
    cache: bool = True,
    callbacks: Sequence[Callback] = (),
) -> StudentReport:
    """Train a light network with the text features of a prompt bank: `pivl-distill student`.

    Args:
        bank: teach run, bank file or "none"; default: the latest teach run.
        data: data set or data settings; default: those of the bank's run, setting by setting.
        arch: "mobilenetv2_025" or any timm model with feature stages.
        pretrained: "auto", "embedded", "timm", "none" or a file.
        last_stride: stride of the last CNN stage.
        supervision: "part", "identity", "label", "permuted" or "none".
        teacher: embeddings to distil: "auto", "none", a run, a file or a network.
        teacher_preset: preprocessing of a teacher network.
        distill: terms that compare embeddings with the teacher's.
        part_classification: part texts as classifiers of the final map.
        compatible: the network whose gallery is kept, and the terms that make it work.
        stage2: the training loop: epochs, batch, losses, augmentation.
        trust_pids: whether to accept a bank made from other images of these identities.
        device: where to compute; default: a GPU if there is one.
        seed: of new layers, data order and augmentation.
        config: YAML file, or the name of one in `configs/`; arguments above take precedence.
        out: run folder; default: the next in `runs/`.
        resume: unfinished run to continue; True: the latest, or `out` if it exists.
        cache: whether to read and write the cache of decoded crops.
        callbacks: called during the run, for trackers.
    """
    overrides = overrides_of(StudentConfig, locals(), CACHE_LIMITS["student"])
    return _run_student(overrides, config, bank, out, resume, callbacks)


def _run_student(
    overrides: dict[str, Any],
    config: str | Path | None,
    bank: str | Path | None,
    out: str | Path | None,
    resume: str | Path | bool,
    callbacks: Sequence[Callback],
) -> StudentReport:
    from pivl_distill.app.training_plan import plan_student
    from students.distill import train_student as train

    place = as_path(out), as_resume(resume)
    plan = plan_student(as_text(config), overrides, *place, bank=as_text(bank))
    folders, gallery = plan.location.folders, plan.gallery
    return train(plan.config, plan.bank_file, *folders, callbacks, gallery)


@_explain_errors
def export(
    source: str | Path | None = None,
    *,
    data: str | None = None,
    precision: str | Sequence[str] = (),
    budget: Mapping[str, float] | None = None,
    normalize: bool = False,
    bake_preprocessing: bool = False,
    camera: int | str | None = None,
    sie_coefficient: float = 1.0,
    corrupted: Literal["query", "gallery", "both"] | None = None,
    preprocessing: str | Path | Values | Preprocessing | None = None,
    device: Device = "cpu",
    out: str | Path | None = None,
    cache: bool = True,
) -> ExportReport:
    """Write a network as verified ONNX files: `pivl-distill export`. The command builds engines.

    Args:
        source: run folder, checkpoint or ONNX file of others; default: the latest student run.
        data: data set to calibrate and verify on; default: that of the run.
        precision: "fp16", "int8" or both, in addition to fp32.
        budget: allowed losses, such as {"int8.mAP": 2}, in points of mAP.
        normalize: whether to put L2 normalisation into the graph.
        bake_preprocessing: whether the graph takes uint8 RGB crops [N, H, W, 3].
        camera: how camera embeddings (SIE) are used: "input", "mean" or a camera id from 0.
        sie_coefficient: coefficient of the camera embeddings in training.
        corrupted: what is corrupted to measure the robustness of each file; None: not measured.
        preprocessing: of an ONNX file of others: a preset, a YAML file or settings.
        device: where the checkpoint runs, as the reference; ONNX files run on the CPU.
        out: run folder; default: the next in `runs/`.
        cache: whether to read and write the cache of decoded crops.

    Raises: ExportError, with the report as `report`, if a file fails its verification.
    """
    from export.accuracy import parse_budgets, parse_precision
    from pivl_distill.app.export_run import ExportOptions, export_checkpoint

    names = precision.split(",") if isinstance(precision, str) else precision
    precisions = [parse_precision(name) for name in names]
    budgets = parse_budgets(f"{key}={value}" for key, value in (budget or {}).items())
    options = ExportOptions(precisions, budgets, normalize, bake_preprocessing, corrupted)
    checkpoint = as_path(source) or latest_student()
    cameras = as_cameras(camera, sie_coefficient)
    declared = as_preprocessing(preprocessing)
    run = functools.partial(export_checkpoint, checkpoint, data, as_path(out), cameras, options)
    return run(preprocessing=declared, cached=cache, device=device)


@_explain_errors
def evaluate(
    target: str | Path | None = None,
    *,
    data: str | None = None,
    camera: int | str | None = None,
    sie_coefficient: float = 1.0,
    preprocessing: str | Path | Values | Preprocessing | None = None,
    device: Device = "auto",
    cache: bool = True,
) -> Evaluation:
    """Score a network on query and gallery: `pivl-distill evaluate`.

    The report has a `result` (mAP, CMC, mINP), and computes more: `rerank()`, `robustness()`.

    Args:
        target: run folder, checkpoint, ONNX file, engine or a network of others (ONNX file or
            OpenVINO IR); default: the latest student run.
        data: data set; default: that of the run.
        camera: how camera embeddings (SIE) are used: "input", "mean" or a camera id from 0.
        sie_coefficient: coefficient of the camera embeddings in training.
        preprocessing: of a network of others: a preset, a YAML file or settings.
        device: where to compute; "auto": a GPU if there is one, the CPU for ONNX files.
        cache: whether to read and write the cache of decoded crops.
    """
    from pivl_distill.app.targets import evaluate_target

    path = as_path(target) or latest_student()
    cameras = as_cameras(camera, sie_coefficient)
    declared = as_preprocessing(preprocessing)
    return evaluate_target(path, data, cameras, declared, cached=cache, device=device)
