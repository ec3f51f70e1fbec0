"""Evaluation and re-ranking: `python benchmarks/retrieval.py`, about five minutes on two cores.

Market-1501-sized: 3,368 queries, 15,913 gallery crops, 1,280 dimensions. Compared with the bare
matrix product, which every exact evaluation needs, into preallocated memory, and with the reference
method: a distance matrix, argsort, and CMC and mAP row by row. Rows of 15,913 floats are not
aligned to 64 bytes, which costs some processors a third of the product's time; ours pads rows, so
the product with padded rows is shown as well. Features are those of people whom a light network
distinguishes moderately well, and random ones, whose matches have arbitrary ranks. MSMT17-sized:
11,659 and 82,161, resident memory of a separate process. Re-ranking: 500 and 5,000, against the
dense algorithm. With `--device cuda` ours, the product and the sorting run on the GPU, the dense
algorithm stays on the CPU, and resident memory is not measured.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import click
import numpy as np
import torch
from harness import (
    Row,
    bound,
    interleaved,
    on_device,
    on_gpu,
    overhead,
    report,
    resident_bytes,
    speedup,
)
from torch import Tensor

from pivl_distill.retrieval import evaluate, rerank
from pivl_distill.retrieval.similarity import empty_product
from pivl_distill.training.host_memory import keep_freed_memory

ROUNDS, MAX_RANK = 7, 50
DIM, CAMERAS = 1280, 6
MARKET, MSMT17, RERANKED = (3368, 15_913, 750), (11_659, 82_161, 3060), (500, 5000, 250)
RESIDENT_GB = 2


@dataclass(frozen=True)
class Task:
    """Features and labels of queries and gallery."""

    query: Tensor
    gallery: Tensor
    labels: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def random(cls, queries: int, gallery: int, identities: int, likeness: float) -> Task:
        """Unit vectors; those of one identity share a direction, weighted by `likeness`."""
        rng = np.random.default_rng(0)
        centres = likeness * rng.standard_normal((identities, DIM), dtype=np.float32)
        features, pids, camids = [], [], []
        for count in (queries, gallery):
            pid = rng.integers(0, identities, count)
            feature = rng.standard_normal((count, DIM), dtype=np.float32)
            for some in np.array_split(np.arange(count), 100):  # bounded memory
                feature[some] += centres[pid[some]]
                feature[some] /= np.linalg.norm(feature[some], axis=1, keepdims=True)
            features.append(feature)
            pids.append(pid)
            camids.append(rng.integers(0, CAMERAS, count))
        device = torch.get_default_device()
        tensors = (torch.from_numpy(feature).to(device) for feature in features)
        return cls(*tensors, (*pids, *camids))

    def evaluate(self) -> tuple[float, np.ndarray]:
        """mAP and CMC."""
        result = evaluate(self.query, self.gallery, *self.labels, max_rank=MAX_RANK)
        return result.mAP, result.cmc


def by_argsort(task: Task) -> tuple[float, np.ndarray]:
    """mAP and CMC as in CLIP-ReID's evaluator: argsort, then row by row."""
    query_pids, gallery_pids, query_camids, gallery_camids = task.labels
    order = sorted_distances(task)
    same = (gallery_pids[order] == query_pids[:, None]).astype(np.int32)
    precisions, curves = [], []
    for query, nearest in enumerate(order):
        junk = (same[query] == 1) & (gallery_camids[nearest] == query_camids[query])
        hits = same[query][~junk]
        if hits.any():
            found = hits.cumsum()
            curves.append(np.minimum(found[:MAX_RANK], 1))
            precisions.append((found / np.arange(1, len(hits) + 1) * hits).sum() / hits.sum())
    return float(np.mean(precisions)), np.mean(curves, axis=0)


def sorted_distances(task: Task) -> np.ndarray:
    """int64 [Q, G], nearest first, by squared Euclidean distances."""
    query, gallery = task.query, task.gallery
    lengths = (query**2).sum(dim=1)[:, None] + (gallery**2).sum(dim=1)
    distances = torch.addmm(lengths, query, gallery.T, alpha=-2)
    if on_gpu():
        return distances.argsort(dim=1).cpu().numpy()
    return np.argsort(distances.numpy(), axis=1)


def dense_reranking(
    query: np.ndarray, gallery: np.ndarray, k1: int = 20, k2: int = 6, share: float = 0.3
) -> np.ndarray:
    """k-reciprocal re-ranking with N × N matrices, as in the authors' code.

    In float32 throughout; theirs keeps encodings in float16, too coarse to compare distances with.
    """
    features = np.concatenate([query, gallery])
    count, queries = len(features), len(query)
    vectors = torch.from_numpy(features)
    original = (2 - 2 * vectors @ vectors.T).numpy()
    original = np.transpose(original / original.max(axis=0))
    nearest = np.argsort(original).astype(np.int32)

    def reciprocal(crop: int, k: int) -> np.ndarray:
        near = nearest[crop, : k + 1]
        return near[(nearest[near, : k + 1] == crop).any(axis=1)]

    encoding = np.zeros((count, count), np.float32)
    for crop in range(count):
        expanded = own = reciprocal(crop, k1)
        for other in own:
            theirs = reciprocal(other, round(k1 / 2))
            if len(np.intersect1d(theirs, own)) > 2 / 3 * len(theirs):
                expanded = np.append(expanded, theirs)
        expanded = np.unique(expanded)
        weight = np.exp(-original[crop, expanded])
        encoding[crop, expanded] = weight / weight.sum()
    averaged = np.empty_like(encoding)
    for crop in range(count):
        averaged[crop] = encoding[nearest[crop, :k2]].mean(axis=0)
    holders = [np.flatnonzero(averaged[:, crop]) for crop in range(count)]
    jaccard = np.empty((queries, count), np.float32)
    for crop in range(queries):
        common = np.zeros(count, np.float32)
        for other in np.flatnonzero(averaged[crop]):
            who = holders[other]
            common[who] += np.minimum(averaged[crop, other], averaged[who, other])
        jaccard[crop] = 1 - common / (2 - common)
    return (1 - share) * jaccard[:, queries:] + share * original[:queries, queries:]


def market_rows() -> Iterator[Row]:
    for name, likeness in (("people", 0.35), ("random features", 0.0)):
        task = Task.random(*MARKET, likeness)
        (mean, cmc), (by_argsort_mean, by_argsort_cmc) = task.evaluate(), by_argsort(task)
        print(f"{name}: mAP {mean:.6f}, by argsort {by_argsort_mean:.6f};", end=" ")
        print(f"CMC differs by {abs(cmc - by_argsort_cmc).max():.1g} at most")
        shape = len(task.query), len(task.gallery)
        plain, padded = torch.empty(shape), empty_product(*shape, task.query.device)
        ways = {
            "ours": task.evaluate,
            "product": partial(torch.mm, task.query, task.gallery.T, out=plain),
            "padded": partial(torch.mm, task.query, task.gallery.T, out=padded),
            "argsort": partial(by_argsort, task),
            "sorting": partial(sorted_distances, task),
        }
        seconds = interleaved(ways, ROUNDS)
        title = f"Market-1501-sized evaluation, {name}"
        yield overhead(
            f"{title}, against the bare product", seconds["ours"], seconds["product"], "s", 1.3
        )
        yield overhead(
            f"{title}, against it with padded rows", seconds["ours"], seconds["padded"], "s", None
        )
        yield speedup(
            f"{title}, against distance matrix and argsort",
            seconds["ours"],
            seconds["argsort"],
            "s",
            3,
        )
        yield speedup(
            f"{title}, against their sorting alone", seconds["ours"], seconds["sorting"], "s", None
        )


def resident_rows() -> Iterator[Row]:
    command = [sys.executable, __file__, "--resident"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    gigabytes, seconds = map(float, output.split())
    print(f"MSMT17-sized evaluation: {seconds:.1f} s")
    yield bound("MSMT17-sized evaluation, resident", gigabytes, "GB", RESIDENT_GB)


def reranking_rows() -> Iterator[Row]:
    task = Task.random(*RERANKED, likeness=0.35)

    def ours() -> np.ndarray:
        return rerank(task.query, task.gallery).cpu().numpy()

    dense = partial(dense_reranking, task.query.cpu().numpy(), task.gallery.cpu().numpy())
    difference = np.abs(ours() - dense()).max()
    seconds = interleaved({"ours": ours, "dense": dense}, rounds=3)
    title = "re-ranking, 500 × 5,000"
    yield speedup(
        f"{title}, against the dense algorithm", seconds["ours"], seconds["dense"], "s", 5
    )
    yield bound(f"{title}, largest difference of a distance", float(difference), "", 1e-5)


@click.command()
@click.option("--resident", is_flag=True, help="Only evaluate MSMT17's size; print GB and seconds.")
@on_device
def main(resident: bool) -> None:
    """Measure and print all rows."""
    if resident:
        task = Task.random(*MSMT17, likeness=0.35)
        start = time.perf_counter()
        task.evaluate()
        peak_bytes = resident_bytes("VmHWM")  # of this process only
        print(peak_bytes / 1e9, time.perf_counter() - start)
    else:
        keep_freed_memory(torch.get_default_device())  # as the commands do, and for the product
        resident = () if on_gpu() else resident_rows()
        report("Retrieval", itertools.chain(market_rows(), reranking_rows(), resident))


if __name__ == "__main__":
    main()
