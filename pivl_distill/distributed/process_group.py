"""The process group of a run: one process per device, on one machine or several.

`torchrun` starts the processes and sets their ranks in environment variables; `session` makes them
a process group of torch.distributed. Without torchrun there is one process, of rank 0, and every
function here returns at once. Tensor collectives are in `collectives.py`. torch is imported only
where a process group exists, so that importing this module is cheap.

Accelerate is left out on purpose: it wraps networks and data loaders for losses that are means over
crops. The losses here compare crops across processes, which needs the collectives themselves.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

from pivl_distill.errors import PivlError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=60)
"""Maximum wait for the other processes; one of them may be building a cache meanwhile."""

FAILED = "pivl-distill/failed"
"""Store key: the number of processes that failed."""

ALL_FAILED = "pivl-distill/all failed"
"""Store key: set once every process has failed."""

REPORT_TIMEOUT = timedelta(seconds=5)
"""Maximum wait for a failed peer to report its error."""


class PeerProcessError(PivlError):
    """Another process of the group ended or timed out."""

    collectable = False


@dataclass(frozen=True)
class ProcessGroup:
    """This process's place in the process group."""

    rank: int
    world_size: int
    local_rank: int
    """Rank on this machine; the index of the CUDA device to use."""
    store: Any
    """Key-value store (`torch.distributed.Store`) shared by all processes."""


_group: ProcessGroup | None = None


def rank() -> int:
    """Return the rank of this process; only process 0 prints and writes."""
    return 0 if _group is None else _group.rank


def world_size() -> int:
    """Return the number of processes."""
    return 1 if _group is None else _group.world_size


def local_rank() -> int:
    """Return the rank of this process on its machine."""
    return 0 if _group is None else _group.local_rank


def launched_world_size() -> int:
    """Return the number of processes that torchrun started, 1 without torchrun."""
    launched = "RANK" in os.environ and "MASTER_ADDR" in os.environ
    return int(os.environ.get("WORLD_SIZE", "1")) if launched else 1


@contextmanager
def session() -> Iterator[None]:
    """Join the processes that torchrun started into a group; all but process 0 are silent.

    Each process uses the CUDA device of its local rank. CPU tensors are sent by gloo, CUDA tensors
    by NCCL.
    """
    if launched_world_size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    global _group
    with peer_errors():
        store, rank, world_size = next(rendezvous("env://", timeout=TIMEOUT))
        local = int(os.environ.get("LOCAL_RANK", rank))
        if local < torch.cuda.device_count():
            torch.cuda.set_device(local)
        cuda = torch.cuda.is_available() and dist.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT
        )
    _group = ProcessGroup(rank, world_size, local, store)
    _silence(rank > 0)
    yield
    barrier()  # not after an error: the other processes may be gone
    _group = None
    _silence(False)
    dist.destroy_process_group()


def exit_process(code: int) -> NoReturn:
    """End a process of a group at once, with this exit code.

    gloo's threads may hold tensors for a moment after the group is destroyed. If the interpreter
    shuts down meanwhile, the process aborts although its work is done (once in thirty runs).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def peer_errors() -> Iterator[None]:
    """Turn an error of a collective inside into a PeerProcessError."""
    try:
        yield
    except RuntimeError as error:  # the common base class of all backends' errors
        raise PeerProcessError(
            f"Process {rank()} of {world_size()}: a peer process failed or timed out"
            f" ({TIMEOUT}); see its output above. Continue a training run with --resume."
        ) from error


def barrier() -> None:
    """Wait until every process has reached this call."""
    all_reduce_max(0)


def all_reduce_max(number: int) -> int:
    """Return the maximum of `number` over all processes."""
    if _group is None:
        return number
    import torch
    import torch.distributed as dist

    numbers = torch.tensor(number)
    with peer_errors():
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


def main_process_first() -> AbstractContextManager[None]:
    """Run the body on process 0, then on the others, which find what process 0 created.

    Every process has to enter.
    """
    return _first_rank_first(rank())


def local_main_process_first() -> AbstractContextManager[None]:
    """As `main_process_first`, on each machine: its first process, then its others."""
    return _first_rank_first(local_rank())


@contextmanager
def _first_rank_first(number: int) -> Iterator[None]:
    if number:
        barrier()
    yield
    if not number:
        barrier()


def broadcast_object(make: Callable[[], T]) -> T:
    """Call `make` on process 0 and return its result on every process (pickled)."""
    if _group is None:
        return make()
    import torch
    import torch.distributed as dist

    objects: list[Any] = [make() if _group.rank == 0 else None]
    with peer_errors():
        dist.broadcast_object_list(objects, src=0, device=torch.device("cpu"))
    result: T = objects[0]
    return result


def broadcast_object_on_node(make: Callable[[], T]) -> T:
    """Call `make` on the first process of each machine and return its result on that machine."""
    if _group is None:
        return make()
    node = platform.node()
    value = make() if _group.local_rank == 0 else None
    gathered: list[Any] = all_gather_object((node, _group.local_rank, value))
    result: T = next(value for *process, value in gathered if process == [node, 0])
    return result


def all_gather_object(value: T) -> list[T]:
    """Return every process's `value`, in rank order, on every process (pickled)."""
    if _group is None:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * _group.world_size
    with peer_errors():
        dist.all_gather_object(values, value)  # sent by gloo: the group has a CPU backend
    return values


def shard(items: int) -> slice:
    """Return the slice of `items` that this process works on: contiguous, sizes differ by ≤ 1."""
    counts = shard_sizes(items)
    start = sum(counts[: rank()])
    return slice(start, start + counts[rank()])


def nonempty_shard(items: int) -> slice:
    """Return `shard(items)`, or the first item if it is empty.

    A process without items still has to compute one to know the shape of the results.
    """
    items_here = shard(items)
    return items_here if items_here.start < items_here.stop else slice(0, 1)


def shard_sizes(items: int) -> list[int]:
    """Return the number of items of each process; the first processes take the remainder."""
    quotient, remainder = divmod(items, world_size())
    return [quotient + (number < remainder) for number in range(world_size())]


def register_failure(error: Exception) -> bool:
    """Record that this process failed; return whether it is the first, which reports its error.

    After a PeerProcessError, the failed peer first gets `REPORT_TIMEOUT` to report its own error.
    """
    if _group is None:
        return True
    try:
        if isinstance(error, PeerProcessError):
            with suppress(RuntimeError):  # timeout: the peer was killed without a report
                _group.store.wait([FAILED], REPORT_TIMEOUT)
        failed: int = _group.store.add(FAILED, 1)
        if failed == _group.world_size:
            _group.store.set(ALL_FAILED, "")
    except RuntimeError:  # process 0, which holds the store, has ended
        return True
    return failed == 1


def wait_for_failing_peers() -> None:
    """Keep process 0, which holds the store, alive until every process has registered its failure.

    Waits at most `REPORT_TIMEOUT`.
    """
    if _group is not None and _group.rank == 0:
        with suppress(RuntimeError):  # timeout: some processes did not fail
            _group.store.wait([ALL_FAILED], REPORT_TIMEOUT)


def _silence(silent: bool) -> None:
    from pivl_distill import console

    console.out.quiet = console.err.quiet = silent
