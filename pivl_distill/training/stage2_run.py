"""One run of stage 2: the steps that `teach`, `student` and their dry runs share.

A run loads the data set's file list, chooses the device, opens the run folder, loads the crops,
trains (`stage2.train`), saves the trained model and evaluates it. What differs is passed in:
the network, the text features and how the model is saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pivl_distill.config import StudentConfig, TeachConfig, dump_config
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.sampling import epoch_rng, pk_batches
from pivl_distill.data.store import CropStore, load_training_crops
from pivl_distill.data.unused import check_unused, log_unused
from pivl_distill.data.validation import hold_out
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.device import pick_device
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.models.network import ReIDNetwork
from pivl_distill.retrieval import RetrievalResult
from pivl_distill.retrieval.evaluation import QueryGalleryCrops, evaluate_model
from pivl_distill.runs.provenance import run_provenance
from pivl_distill.runs.run import Run
from pivl_distill.training.host_memory import keep_freed_memory
from pivl_distill.training.stage2 import train
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.validation import Validation

NETWORK_NAMES = {"teach": "teacher", "student": "student"}


@dataclass(frozen=True)
class Stage2Run:
    """Settings, data set and device of one run of stage 2, real or dry."""

    kind: Literal["teach", "student"]
    config: TeachConfig | StudentConfig
    dataset: ReIDDataset
    """Without the held-out identities."""
    validation: ReIDDataset | None
    """The held-out identities as query and gallery, if there are any."""
    device: torch.device

    @classmethod
    def prepare(
        cls,
        kind: Literal["teach", "student"],
        config: TeachConfig | StudentConfig,
        *,
        dry_run: bool = False,
    ) -> Stage2Run:
        """Load the data set's file list, seed torch and choose the device.

        Only a dry run may use the device "meta". Memory freed on the CPU is kept for the next step.
        """
        validates = config.stage2.keep_best or config.stage2.evaluate_every
        if validates and not config.data.validation_identities:
            name, off = ("keep_best", "false") if config.stage2.keep_best else ("evaluate_every", 0)
            raise PivlError(
                f"stage2.{name} needs identities to validate on; set data.validation_identities, or"
                f" stage2.{name} to {off}."
            )
        dataset = load_dataset(config.data.spec, config.data.parsing)
        log_unused(check_unused(dataset), config.data.spec)
        dataset, validation = hold_out(dataset, config.data.validation_identities)
        meta = dry_run and config.device == "meta"
        device = torch.device("meta") if meta else pick_device(config.device)
        keep_freed_memory(device)
        torch.manual_seed(config.seed)
        return cls(kind, config, dataset, validation, device)

    @cached_property
    def pids(self) -> np.ndarray:
        """int64 [N], the identity of each training crop."""
        return np.array([record.pid for record in self.dataset.train])

    @contextmanager
    def session(self, out: Path | None, resume: Path | None, **inputs: Any) -> Iterator[Run]:
        """Create the run folder, or reopen the unfinished run `resume`; yield it.

        The folder is `out`, or the next free one in `runs/`. `inputs` are JSON values that identify
        what the run is trained from; a resumed run must have the same ones.
        """
        config_yaml = dump_config(self.config, self.kind)
        if resume is None:
            run = Run.create(self.kind, config_yaml, out)
        else:
            run = Run.open_unfinished(self.kind, resume)
        provenance = run_provenance(self.config, self.dataset, self.device)
        with run.progress.session(self.kind, config_yaml, **provenance, **inputs):
            yield run

    def load_crops(self, run: Run, vocabulary: Vocabulary | None) -> CropStore:
        """Load the training crops, with part maps if there is a vocabulary; pin their hashes."""
        store = load_training_crops(
            self.dataset.train,
            self.config.data,
            vocabulary,
            confidence=self.config.stage2.loss.align_confidence,
        )
        run.progress.contract.pin(contents=store.contents)
        return store

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
    ) -> RetrievalResult:
        """Train the network, save its embedding model and evaluate that on query and gallery.

        Args:
            run: folder that metrics and progress are written to.
            network: trained in place.
            store: the N training crops.
            supervision: targets of the losses.
            save: writes the trained model to the run folder.
        """
        settings, data = self.config.stage2, self.config.data
        validation = None
        if self.validation is not None:
            held_out = QueryGalleryCrops.load(self.validation, data.size_hw, data.crop_cache_gib)
            validation = Validation(held_out, settings)
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
        test = QueryGalleryCrops.load(self.dataset, data.size_hw, data.crop_cache_gib)
        return evaluate_model(model, test)
