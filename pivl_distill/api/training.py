"""Training from Python: `teach` and `train_student`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pivl_distill.api.arguments import (
    Device,
    Values,
    as_path,
    as_resume,
    as_text,
    explain_errors,
    overrides_of,
)
from pivl_distill.config import (
    CACHE_LIMITS,
    ClipSettings,
    CompatibilitySettings,
    DataSettings,
    DistillationSettings,
    PartClassificationSettings,
    PromptSettings,
    Stage2Settings,
    StudentConfig,
    TeachConfig,
    TuningSettings,
)

if TYPE_CHECKING:
    from pivl_distill.runs.callbacks import Callback
    from students.distill import StudentReport
    from teachers.teach import TeachReport


@explain_errors
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


@explain_errors
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
