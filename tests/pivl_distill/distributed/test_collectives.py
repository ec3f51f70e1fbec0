"""Losses, gradients and features of two and four processes equal those of one.

The processes run this file as a script.

Values are in double precision, so that the order of sums does not matter.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from pivl_distill.config import (
    AugmentSettings,
    DistillationSettings,
    LossSettings,
    PartClassificationSettings,
    Stage2Settings,
)
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.distributed import process_group
from pivl_distill.distributed.collectives import (
    all_gather,
    all_reduce_gradients,
    all_reduce_mean,
    apply_sharded,
    broadcast_parameters,
)
from pivl_distill.distributed.sync_batchnorm import sync_batch_norm
from pivl_distill.models.embedding import embed
from pivl_distill.retrieval.evaluation import QueryGalleryCrops, evaluate_model
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.distillation import TeacherTargets
from pivl_distill.training.part_classification import PartTexts
from pivl_distill.training.stage2 import make_sampler
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.teacher_embeddings import Classifier, TeacherEmbeddings
from pivl_distill.training.trainer import Stage2Trainer
from stubs import AllOutputsStub

PEOPLE, CROPS, DIM, PARTS, TEACHER_DIM = 6, 30, 8, len(LIP20), 11
SIZES = (2, 4)
TERMS = ("identity", "triplet", "image_to_text", "align", "parts")
TERMS += ("embedding", "anchors", "relation", "relaxed_contrastive", "logits")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def crop_store() -> CropStore:
    """Noise crops; the first person has no labels, so that shards of Eq. 11 differ in size."""
    rng = np.random.default_rng(0)
    maps = rng.integers(0, PARTS, (CROPS, 32, 16), dtype=np.uint8)
    maps[:5] = 255
    return CropStore(
        crops=rng.integers(0, 256, (CROPS, 32, 16, 3), dtype=np.uint8),
        maps=maps,
        pids=np.repeat(np.arange(PEOPLE), CROPS // PEOPLE),
        camids=np.arange(CROPS) % 2,
    )


def make_network() -> AllOutputsStub:
    """Return a small network with batch norms of torch and timm."""
    return AllOutputsStub(BatchNormAct2d, DIM, PEOPLE, teacher_dim=TEACHER_DIM, cap=0.1)


def supervision(store: CropStore) -> Supervision:
    """Return targets of every term: texts, part texts, and a teacher's embeddings in two views."""
    present = torch.ones(PEOPLE, PARTS, dtype=torch.bool)
    present[1, 3] = False
    texts = TextFeatures(
        random(PEOPLE, DIM), random(PEOPLE, PARTS, 2 * DIM, seed=1), present, LIP20
    )
    bank_settings = PartClassificationSettings(weight=2, gradient_cap=None)
    part = F.normalize(random(PARTS, PEOPLE, DIM, seed=2), dim=2)
    part_texts = PartTexts(part, present.T, LIP20, bank_settings)
    rng = np.random.default_rng(1)
    embeddings = TeacherEmbeddings(
        random(CROPS, 2, TEACHER_DIM, seed=4),
        rng.random((CROPS, 2)) < 0.5,
        rng.uniform(-0.1, 0.1, (CROPS, 2, 2)).astype(np.float32),
        DIM,
        Classifier(
            random(PEOPLE, TEACHER_DIM, seed=5), random(PEOPLE, seed=6), tuple(range(PEOPLE))
        ),
    )
    names = ("embedding", "anchors", "relation", "relaxed_contrastive", "logits")
    settings = DistillationSettings(**dict.fromkeys(names, 0.5), views=2)
    labels = torch.from_numpy(store.pids)
    teacher = TeacherTargets.prepare(embeddings, settings, labels, random(PEOPLE, DIM, seed=7))
    assert teacher.visual_anchors is not None
    teacher = replace(teacher, visual_anchors=teacher.visual_anchors.double())
    return Supervision(texts, part_texts, teacher)


def trained(distance: str) -> dict[str, Tensor]:
    """Return an epoch's loss terms, the first gradients, and the final weights and statistics."""
    settings = Stage2Settings(
        epochs=1,
        identities_per_batch=3,
        crops_per_identity=3,
        augment=AugmentSettings(pad_px=2, fill="noise"),
        loss=LossSettings(align_distance=distance),
    )
    store, network = crop_store(), make_network().train()
    stage, results = Stage2Trainer(network, store, supervision(store), settings), {}
    for step in make_sampler(store.pids, settings, seed=0):
        terms = stage.step(step.batch, step.rng, 0.5)
        results |= {f"{name} of step {step.number}": value for name, value in terms.items()}
        if step.number == 0:
            results |= {
                f"gradient of {n}": p.grad.clone()
                for n, p in network.named_parameters()
                if p.grad is not None
            }
    return results | network.state_dict()


def embedded(count: int) -> Tensor:
    crops = crop_store().crops[:count]
    return torch.from_numpy(embed(make_network().embedding_model(), crops, batch_size=4))


def scored() -> dict[str, Tensor]:
    store = crop_store()
    query, gallery = (
        CropStore(store.crops[rows], None, store.pids[rows], store.camids[rows])
        for rows in (slice(0, CROPS, 5), slice(0, CROPS))
    )
    result = evaluate_model(make_network().embedding_model(), QueryGalleryCrops(query, gallery))
    return {name: torch.tensor(value) for name, value in result.summary().items()}


def reduced() -> dict[str, Tensor]:
    """Return reductions over unequal shards, and over fewer rows than processes."""
    rows_of_rank = process_group.shard(7)
    weights = random(DIM, seed=3).requires_grad_()
    share = (random(7, DIM)[rows_of_rank] @ weights).sum() / max(
        rows_of_rank.stop - rows_of_rank.start, 1
    )
    loss = (
        all_reduce_mean(share, rows_of_rank.stop - rows_of_rank.start)
        + apply_sharded(lambda x: x * weights, random(3, DIM)).sum()
    )
    loss.backward()
    all_reduce_gradients([weights])
    return {
        "mean": loss,
        "its gradient": weights.grad,
        "none": all_reduce_mean(loss.detach() * 0, 0),
    }


def compute_results() -> dict[str, Tensor]:
    """Return all tensors that must not depend on the number of processes."""
    results = {
        "embedded": embedded(CROPS),
        "embedding of one crop": embedded(1),
        **reduced(),
        **scored(),
    }
    for distance in ("cosine", "contrastive"):
        results |= {f"{distance}: {name}": value for name, value in trained(distance).items()}
    return {name: value.detach().contiguous() for name, value in results.items()}


@pytest.fixture(scope="module", params=SIZES)
def several_processes(request, launch, tmp_path_factory) -> dict[str, Tensor]:
    """Return the results of `request.param` processes."""
    out = tmp_path_factory.mktemp("results") / "results.safetensors"
    processes = launch(request.param, __file__, out)
    assert [process.code for process in processes] == [0] * request.param, processes
    return load_file(out)


@pytest.fixture(scope="module")
def single_process() -> dict[str, Tensor]:
    return compute_results()


def test_results_equal_those_of_one_process(several_processes, single_process):
    assert several_processes.keys() == single_process.keys()
    for name, value in single_process.items():
        tolerance = 1e-6 if value.dtype == torch.float32 else 1e-9
        torch.testing.assert_close(
            several_processes[name],
            value,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_reference_losses_and_gradients_are_not_zero(single_process):
    for part in TERMS:
        assert all(
            single_process[f"{kind}: {part} of step 0"] > 0 for kind in ("cosine", "contrastive")
        )
    for name in (
        "encoder.0.weight",
        "encoder.1.weight",
        "neck.norm.weight",
        "to_teacher.weight",
        "part_project.weight",
    ):
        assert single_process[f"cosine: gradient of {name}"].abs().max() > 1e-6


def test_collectives_return_their_input_in_a_single_process():
    x = random(4, 3).requires_grad_()
    assert process_group.world_size() == 1
    assert all_gather(x, 4) is x
    assert all_reduce_mean(x, 2) is x
    assert apply_sharded(lambda rows: rows, x) is x
    assert process_group.shard(4) == slice(0, 4)
    with sync_batch_norm() as mode:
        assert mode is None


def main(out: Path) -> None:
    with process_group.session():
        network = make_network()
        if process_group.rank():
            nn.init.zeros_(network.project.weight)
        broadcast_parameters(network)
        assert torch.equal(network.project.weight, make_network().project.weight)
        results = compute_results()
        if not process_group.rank():
            save_file(results, out)
    process_group.exit_process(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
