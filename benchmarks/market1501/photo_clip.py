"""A small CLIP of photographs, trained on Market-1501's training split: `photo-clip`.

It has the architecture of the embedded tiny CLIP and is trained with the same losses, on part maps
that `part-maps` draws and on the phrases of `captions`. Its token table has the words of these
phrases. Every tenth training identity is held out: it is measured on them, and never sees a test
identity. Training writes a checkpoint after every pass; the same command continues after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.market1501.captions import (
    UNCAPTIONED,
    Person,
    part_phrases,
    read_people,
    traits,
    vocabulary_texts,
)
from benchmarks.market1501.files import SIZE_HW, Files, root_option
from benchmarks.market1501.photo_probe import probe_photo_clip
from pivl_distill.console import summary
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import PASCAL7
from pivl_distill.errors import PivlError
from pivl_distill.runs.state import pack_state, unpack_state
from pivl_distill.storage.tensors import load_tensors, save_tensors
from pivl_distill.training.pretraining import Recipe, pass_batches, pretrain
from teachers.clip import Clip, encoders_of
from teachers.clip_loading import load_clip
from teachers.pretrain import clip_parameters, make_clip_optimizer
from teachers.pretraining_loss import DescribedCrops, PretrainingLoss
from teachers.text_encoder import used_token_ids
from teachers.tiny_clip import build_tiny_clip, save_tiny_clip

ARCHITECTURE = "tiny_rn"
"""`clip.name` of `teach` for these weights."""

HELD_OUT_EVERY = 10
"""One in so many training identities, in ascending order, is for measuring only."""

PROGRESS_KIND = "photo CLIP progress"

RECIPE = Recipe(
    seed=7_100_003,
    crops=0,  # all training crops
    cameras=6,
    passes=8,
    batch_size=96,
    learning_rate=2e-3,
    weight_decay=0.02,
    warmup_steps=60,
)


def load_crops(files: Files, people: Mapping[int, Person]) -> tuple[CropStore, CropStore]:
    """Return training crops and crops of held-out identities, with part maps.

    Raises PivlError if `people` lacks one of the identities.
    """
    dataset = files.load_dataset(with_maps=True)
    unknown = sorted(set(dataset.train_pids) - people.keys())
    if unknown:
        raise PivlError(
            f"{files.attributes} lacks {len(unknown)} training identities, such as"
            f" {unknown[0]:04d}. Fetch it again."
        )
    held_out = frozenset(dataset.train_pids[::HELD_OUT_EVERY])
    training = [record for record in dataset.train if record.pid not in held_out]
    measured = [record for record in dataset.train if record.pid in held_out]
    return (
        CropStore.load(training, SIZE_HW, PASCAL7, "training crops"),
        CropStore.load(measured, SIZE_HW, PASCAL7, "held-out crops"),
    )


def described(store: CropStore, people: Mapping[int, Person]) -> DescribedCrops:
    """Return crops with the phrases and traits of their identities."""
    assert store.maps is not None
    shown = [people[int(pid)] for pid in store.pids]
    return DescribedCrops(
        images=store.crops,
        maps=store.maps,
        vocabulary=PASCAL7,
        phrases=[part_phrases(who) for who in shown],
        traits=[traits(who) for who in shown],
        uncaptioned=UNCAPTIONED,
    )


def train(crops: DescribedCrops, token_ids: list[int], recipe: Recipe, checkpoint: Path) -> Clip:
    """Return a trained CLIP, frozen; continue from `checkpoint` if it exists.

    The random choices of a pass depend on the seed and on its number only, so an interrupted
    training gives the same weights.
    """
    torch.manual_seed(recipe.seed)
    clip = build_tiny_clip(ARCHITECTURE, token_ids)
    clip.image.to(memory_format=torch.channels_last)  # more than twice as fast on a CPU
    optimizer = make_clip_optimizer(clip, recipe)
    batches = pass_batches(recipe, np.random.default_rng(recipe.seed))
    per_pass = recipe.crops // recipe.batch_size
    progress = TrainingProgress(checkpoint, clip, optimizer, recipe)
    for number in range(progress.load(), int(recipe.passes)):
        losses = PretrainingLoss(clip, crops, np.random.default_rng([recipe.seed, number]))
        pretrain(
            f"Pass {number + 1} of {int(recipe.passes)}",
            losses.terms,
            batches,
            optimizer,
            recipe,
            clipped=clip_parameters(clip),
            log_every=50,
            only=range(number * per_pass, (number + 1) * per_pass),
        )
        progress.save(number + 1)
    return clip.freeze()


class TrainingProgress:
    """The checkpoint of a training: weights, optimizer and the number of finished passes."""

    def __init__(
        self, path: Path, clip: Clip, optimizer: torch.optim.Optimizer, recipe: Recipe
    ) -> None:
        self.path = path
        self.clip = clip
        self.optimizer = optimizer
        self.recipe: dict[str, Any] = asdict(recipe)

    def load(self) -> int:
        """Restore the checkpoint, if it exists; return the number of finished passes.

        Raises PivlError if it was made with another recipe.
        """
        if not self.path.is_file():
            return 0
        _, tensors, metadata = load_tensors(self.path, PROGRESS_KIND)
        if metadata["recipe"] != self.recipe:
            raise PivlError(
                f"{self.path} was made with other settings: {metadata['recipe']}, not"
                f" {self.recipe}. Use those, or remove the file to start again."
            )
        state = unpack_state(metadata["state"], tensors)
        encoders_of(self.clip).load_state_dict(state["clip"])
        self.optimizer.load_state_dict(state["optimizer"])
        return int(metadata["passes"])

    def save(self, passes: int) -> None:
        """Write the checkpoint atomically."""
        tensors: dict[str, torch.Tensor] = {}
        state = {
            "clip": dict(encoders_of(self.clip).state_dict()),
            "optimizer": self.optimizer.state_dict(),
        }
        packed = pack_state(state, "state", tensors)
        metadata = {"recipe": self.recipe, "passes": passes, "state": packed}
        save_tensors(self.path, PROGRESS_KIND, tensors, metadata)


@click.command("photo-clip")
@root_option
@click.option("--passes", default=int(RECIPE.passes), show_default=True, help="Passes over crops.")
@click.option("--batch", default=RECIPE.batch_size, show_default=True, help="Crops per step.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
def main(root: Path, passes: int, batch: int, threads: int) -> None:
    """Train a small CLIP of photographs and measure it on held-out training identities.

    Weights go to ROOT/photo_clip.safetensors. If they exist, they are only measured.
    """
    torch.set_num_threads(threads)
    files = Files(root)
    people = read_people(files.attributes)
    training, measured = load_crops(files, people)
    if files.photo_clip.is_file():
        clip = load_clip(ARCHITECTURE, str(files.photo_clip), SIZE_HW).freeze()
        probe = probe_photo_clip(clip, measured, people)
    else:
        recipe = replace(RECIPE, passes=passes, batch_size=batch, crops=len(training))
        token_ids = used_token_ids(vocabulary_texts(people))
        checkpoint = files.photo_clip.with_suffix(".progress.safetensors")
        clip = train(described(training, people), token_ids, recipe, checkpoint)
        probe = probe_photo_clip(clip, measured, people)
        metadata = recipe.metadata(held_out_identities=asdict(probe))
        save_tiny_clip(clip, files.photo_clip, token_ids, metadata)
        checkpoint.unlink(missing_ok=True)
    summary("Photo CLIP on held-out identities", {**asdict(probe), "weights": files.photo_clip})
