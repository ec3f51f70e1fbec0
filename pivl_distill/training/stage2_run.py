"""One run of stage 2: the steps that `teach`, `student` and their dry runs share.

A run loads the data set's file list, chooses the device, checks everything that it needs later
(`preflight`), decodes all crops, opens the run folder, trains (`stage2.train`), saves the trained
model and evaluates it. What differs is passed in: the network, the text features and how the model
is saved. Bad input is refused before the run folder exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pivl_distill.config import StudentConfig, TeachConfig, dump_config
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.sampling import epoch_rng, pk_batches
from pivl_distill.data.store import CropStore, load_training_crops
from pivl_distill.data.unused import report_unused
from pivl_distill.data.validation import hold_out
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.device import pick_device
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError, Problems
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.models.network import ReIDNetwork
from pivl_distill.retrieval import RetrievalResult
from pivl_distill.retrieval.evaluation import QueryGalleryCrops, evaluate_model
from pivl_distill.runs.callbacks import Callback, Observers, RunStart
from pivl_distill.runs.provenance import run_provenance
from pivl_distill.runs.run import RUNS_DIR, Run, check_run_folder
from pivl_distill.storage.files import check_writable
from pivl_distill.training import preflight
from pivl_distill.training.disk_room import CacheEntry, check_room
from pivl_distill.training.host_memory import keep_freed_memory
from pivl_distill.training.stage2 import train
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.validation import Validation

NETWORK_NAMES = {"teach": "teacher", "student": "student"}


@dataclass(frozen=True)
class Stage2Run:
    """Settings, data set, device and folder of one run of stage 2, real or dry."""

    kind: Literal["teach", "student"]
    config: TeachConfig | StudentConfig
    dataset: ReIDDataset
    """Without the held-out identities."""
    validation: ReIDDataset | None
    """The held-out identities as query and gallery, if there are any."""
    device: torch.device
    out: Path | None
    """Folder of a new run; None: the next free one in `runs/`."""
    resume: Path | None
    """Unfinished run to continue; None starts a new one."""
    problems: Problems
    """Found so far; the stage adds its own, and refuses all of them."""
    callbacks: Sequence[Callback] = ()

    @classmethod
    def prepare(
        cls,
        kind: Literal["teach", "student"],
        config: TeachConfig | StudentConfig,
        out: Path | None = None,
        resume: Path | None = None,
        *,
        dry_run: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> Stage2Run:
        """Load the data set's file list, seed torch, choose the device; check data and batches.

        Args:
            kind: the command.
            config: its settings.
            out: folder of a new run; default: the next free one in `runs/`.
            resume: unfinished run to continue.
            dry_run: whether the device may be "meta".
            callbacks: called during the run.

        Raises: PivlError that lists all problems, if the data set cannot be listed or there is no
            such device. Otherwise they are in `problems`.
        """
        problems = Problems()
        problems.attempt(_check_validation, config)
        if resume is None:
            problems.attempt(check_run_folder, out)
        else:
            problems.attempt(check_writable, resume, folder=True)
        device = problems.attempt(_choose_device, config, dry_run=dry_run)
        dataset = problems.attempt(load_dataset, config.data.spec, config.data.parsing)
        if dataset is None or device is None:
            raise problems.error()
        report_unused(dataset, config.data.spec)
        held_out = problems.attempt(hold_out, dataset, config.data.validation_identities)
        dataset, validation = held_out or (dataset, None)
        keep_freed_memory(device)
        torch.manual_seed(config.seed)
        run = cls(kind, config, dataset, validation, device, out, resume, problems, callbacks)
        preflight.check_batches("stage2", config.stage2, run.pids, problems)
        problems.attempt(preflight.check_batch_size, config.stage2)
        preflight.check_data(dataset, validation, config, problems)
        return run

    @cached_property
    def pids(self) -> np.ndarray:
        """int64 [N], the identity of each training crop."""
        return np.array([record.pid for record in self.dataset.train])

    @contextmanager
    def session(self, store: CropStore, **inputs: Any) -> Iterator[Run]:
        """Create the run folder, or reopen the unfinished run; yield it.

        `inputs` are JSON values that identify what the run is trained from, in addition to the
        contents of `store`; a resumed run must have the same ones.
        """
        config_yaml = dump_config(self.config, self.kind)
        if self.resume is None:
            run = Run.create(self.kind, config_yaml, self.out)
        else:
            run = Run.open_unfinished(self.kind, self.resume)
        pinned = run_provenance(self.config, self.dataset, self.device) | inputs
        settings = self.config.model_dump(mode="json")
        start = RunStart(run.path, self.kind, settings, resumed=self.resume is not None)
        with run.progress.session(self.kind, config_yaml, **pinned, contents=store.contents):
            run.observers = Observers(() if process_group.rank() else self.callbacks)
            with run.observers.session(start):
                yield run

    def refuse_changes(self, **inputs: Any) -> None:
        """Raise PivlError if the run to resume was started with other settings or inputs.

        `session` does so too, but only after all crops were decoded.
        """
        if self.resume is not None:
            pinned = run_provenance(self.config, self.dataset, self.device) | inputs
            Run(self.resume).progress.contract.changed_optimisation(**pinned)

    def check_room(self, run_bytes: int, entries: Sequence[CacheEntry] = ()) -> None:
        """Add to `problems` if the disk has no room for the run.

        Args:
            run_bytes: size of all files of the run.
            entries: what goes to the cache besides the crops.
        """
        data, folder = self.config.data, self.resume or self.out or RUNS_DIR
        splits = [self.dataset.train, *([self.validation.gallery] if self.validation else [])]
        if data.evaluation:
            splits += [self.dataset.query, self.dataset.gallery]
        height, width = data.size_hw
        sizes = [3 * height * width * len(split) for split in splits]
        if self.config.uses_maps:
            sizes.append(height * width * len(self.dataset.train))
        limit = data.crop_cache_gib * 2**30
        crops = [CacheEntry("crops", size) for size in sizes if size <= limit]
        self.problems.attempt(check_room, folder, run_bytes, [*crops, *entries])

    def load_crops(self, vocabulary: Vocabulary | None) -> CropStore:
        """Load the training crops, with part maps if there is a vocabulary.

        The crops that the trained network is evaluated on are loaded too, so that an unreadable
        one is found before the first step.
        """
        store = load_training_crops(
            self.dataset.train,
            self.config.data,
            vocabulary,
            confidence=self.config.stage2.loss.align_confidence,
        )
        _ = self.validation_crops, self.test_crops
        return store

    def load_unlabeled(self, records: Sequence[Record]) -> CropStore | None:
        """Load crops without labels; None if there are none."""
        if not records:
            return None
        size_hw, cache_gib = self.config.data.size_hw, self.config.data.crop_cache_gib
        return CropStore.load(records, size_hw, what="unlabelled crops", cache_gib=cache_gib)

    @cached_property
    def validation_crops(self) -> QueryGalleryCrops | None:
        """The crops of the held-out identities; None without any."""
        return None if self.validation is None else self._load_test(self.validation)

    @cached_property
    def test_crops(self) -> QueryGalleryCrops | None:
        """Query and gallery; None if the network is not evaluated."""
        return self._load_test(self.dataset) if self.config.data.evaluation else None

    def _load_test(self, dataset: ReIDDataset) -> QueryGalleryCrops:
        data = self.config.data
        return QueryGalleryCrops.load(dataset, data.size_hw, data.crop_cache_gib)

    def load_first_batch(self, vocabulary: Vocabulary | None) -> tuple[CropStore, np.ndarray]:
        """Load the crops of the first batch only, and their indices int64 [B].

        Nothing is written to the cache folder.
        """
        settings = self.config.stage2
        batch = pk_batches(
            self.pids,
            settings.identities_per_batch,
            settings.crops_per_identity,
            epoch_rng(self.config.seed, 0),
        )[0]
        store = load_training_crops(
            [self.dataset.train[crop] for crop in batch],
            self.config.data.model_copy(update={"crop_cache_gib": 0}),
            vocabulary,
            confidence=settings.loss.align_confidence,
        )
        return store, batch

    def train_and_evaluate(
        self,
        run: Run,
        network: ReIDNetwork,
        store: CropStore,
        supervision: Supervision,
        save: Callable[[EmbeddingModel], None],
    ) -> RetrievalResult | None:
        """Train the network, save its embedding model and evaluate that on query and gallery.

        Return None if the settings leave out the evaluation.

        Args:
            run: folder that metrics and progress are written to.
            network: trained in place.
            store: the N training crops.
            supervision: targets of the losses.
            save: writes the trained model to the run folder.
        """
        settings, held_out = self.config.stage2, self.validation_crops
        validation = None if held_out is None else Validation(held_out, settings)
        model = train(
            network,
            store,
            supervision,
            settings,
            self.config.seed,
            run,
            f"Training the {NETWORK_NAMES[self.kind]}",
            validation,
        )
        save(model)
        run.progress.start_stage("evaluation")
        test = self.test_crops
        return None if test is None else evaluate_model(model, test)


def _choose_device(config: TeachConfig | StudentConfig, *, dry_run: bool) -> torch.device:
    """Return the device of the settings; only a dry run may use "meta"."""
    meta = dry_run and config.device == "meta"
    return torch.device("meta") if meta else pick_device(config.device)


def _check_validation(config: TeachConfig | StudentConfig) -> None:
    """Raise PivlError if the settings validate a network but hold out no identities."""
    validates = config.stage2.keep_best or config.stage2.evaluate_every
    if validates and not config.data.validation_identities:
        name, off = ("keep_best", "false") if config.stage2.keep_best else ("evaluate_every", 0)
        raise PivlError(
            f"stage2.{name} needs identities to validate on; set data.validation_identities, or"
            f" stage2.{name} to {off}."
        )
