"""Table 5 of the paper on photographs: what supervises a student of MobileNetV2: `students`.

The bank is that of the photo CLIP, or with `--clip openai` that of OpenAI's RN50 at 256×128, as in
the paper; teachers are the network trained with it, and Intel's 0277.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch

from benchmarks.arms import ARMS, BASELINE, OURS, arm
from benchmarks.experiment import RESULTS, Experiment, ResultFile
from benchmarks.harness import THREADS
from benchmarks.market1501.files import Files, root_option
from benchmarks.market1501.photo_clip import ARCHITECTURE
from benchmarks.student_arms import measure_arms, teach_once
from pivl_distill.config import StudentConfig, load_config
from pivl_distill.storage.filenames import TEACHER_EMBEDDINGS_FILE
from pivl_distill.storage.output_path import OutputPath
from pivl_distill.training.teacher_embeddings import save_embeddings
from students.supervision import embed_by_network

IDENTITIES = 751
"""Of Market-1501's training split."""
LEARNING_RATE = 3e-3
"""On 451 held-out training identities, mAP after ten epochs: 17.6 at 6e-3, the default on synthetic
people, 31.1 at 3e-3, and 30.1 at 2e-3."""
INTEL = "intel_0277"
PHOTO_ARMS = {
    name: ours for name, ours in ARMS.items() if "data.unlabeled" not in ours.settings
} | {
    "intel": arm("embeddings and relations of Intel 0277", "none", INTEL),
    "part_intel": arm("part bank, embeddings and relations of Intel 0277", "part", INTEL),
}
CLIPS: dict[str, tuple[tuple[int, int], str | None]] = {
    "photo": ((128, 64), None),
    "openai": ((256, 128), "paper"),
}
"""CLIP → crop size in pixels, and the preset of `teach` that names it."""
WEIGHTS = {"mobilenetv2_025": "selected channels", "mobilenetv2_100": "all channels"}
"""Network → what it takes of MobileNetV2 ×1.0's ImageNet weights."""


@click.command("students")
@root_option
@click.option("--arch", type=click.Choice([*WEIGHTS]), default="mobilenetv2_025", show_default=True)
@click.option("--clip", type=click.Choice([*CLIPS]), default="photo", show_default=True)
@click.option("--arms", "names", help="Arms, separated by commas; default: all.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--epochs", default=12, show_default=True)
@click.option("--identities", default=IDENTITIES, show_default=True, help="To train on.")
@click.option("--out", type=OutputPath(), help="Result file.")
def main(
    root: Path,
    arch: str,
    clip: str,
    names: str | None,
    seeds: int,
    epochs: int,
    identities: int,
    out: Path | None,
) -> None:
    """Train students on Market-1501; print their scores. A row is kept per arm and seed.

    Bank and teachers are of all 751 training identities, the students of some.
    """
    files = Files(root)
    size_hw, preset = CLIPS[clip]
    data = {
        "data.spec": files.spec,
        "data.parsing": str(files.part_maps),
        "data.size_hw": size_hw,
    }
    weights = {"clip.name": ARCHITECTURE, "clip.weights": str(files.photo_clip)}
    settings = {
        **data,
        "data.validation_identities": IDENTITIES - identities,
        "arch": arch,
        "pretrained": str(files.imagenet_start),
        "stage2.epochs": epochs,
        "stage2.learning_rate": LEARNING_RATE,
        "stage2.compile": True,
    }
    bank = teach_once(
        files.root / "runs" / f"teach_{clip}", data if preset else data | weights, preset
    )
    torch.set_num_threads(THREADS)
    teachers = {OURS: bank.parent, INTEL: intel_embeddings(files)}
    suffix = "" if clip == "photo" else f"_{clip}"
    default = RESULTS / f"market1501_{arch}_{identities}{suffix}.json"
    file = ResultFile.load_or_create(out or default, header(arch, clip, epochs, identities))
    measure_arms(file, names, range(seeds), settings, bank=bank, teachers=teachers)


def header(arch: str, clip: str, epochs: int, identities: int) -> Experiment:
    """Return the description of the experiment."""
    stage2, (size_hw, _) = StudentConfig().stage2, CLIPS[clip]
    return Experiment(
        name=f"{arch} on {identities} identities of Market-1501, bank of the {clip} CLIP",
        question="Do the texts and the embeddings of a teacher improve a student of photographs?",
        command=f"python -m benchmarks.market1501 students --root ROOT --arch {arch} --clip {clip}"
        f" --identities {identities} --epochs {epochs}",
        data=f"market1501, {size_hw[0]}×{size_hw[1]}",
        budget={
            "arch": arch,
            "start": f"ImageNet, {WEIGHTS[arch]}",
            "identities": identities,
            "epochs": epochs,
            "batch": stage2.identities_per_batch * stage2.crops_per_identity,
            "learning rate": LEARNING_RATE,
        },
        arms=PHOTO_ARMS,
        baseline=BASELINE,
    )


def intel_embeddings(files: Files) -> Path:
    """Return the file with Intel 0277's embeddings of the training crops, computed once."""
    path = files.root / "runs" / INTEL / TEACHER_EMBEDDINGS_FILE
    if not path.is_file():
        settings = {"data.spec": files.spec, "teacher_preset": "intel-retail"}
        config = load_config(StudentConfig, "student", None, settings)
        records = list(files.load_dataset().train)
        embeddings = embed_by_network(config, files.rival(INTEL), records)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_embeddings(path, embeddings, records, INTEL)
    return path
