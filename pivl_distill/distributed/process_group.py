"""Several processes at one run, one for each device, on one machine or many.

`torchrun` starts them and sets the rank of each by environment variables; `session` makes
them a group of torch.distributed. Without one, a single process is rank 0 of 1 and every function
here returns at once. Tensor collectives are in `collectives.py`. torch is imported only where a
group exists, so that importing this module is cheap.

Accelerate is left out on purpose: it wraps networks and loaders for losses that are means over
crops. Here losses compare the crops of all processes, which takes the collectives themselves; what
would be left for it is to start them.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, NoReturn

from pivl_distill.errors import PivlError

TIMEOUT = timedelta(minutes=60)
"""How long a process waits for the others: as long as one may build a cache on its own."""

FAILED = "pivl-distill/failed"
"""How many processes failed."""

ALL_FAILED = "pivl-distill/all failed"

REPORT_TIMEOUT = timedelta(seconds=5)
"""How long a process that lost another one waits for that to say why."""


class PeerProcessError(PivlError):
    """Another process of the group ended, or does not answer in time."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, and which of them this one is."""

    rank: int
    world_size: int
    local_rank: int
    """Counted on this machine; the number of the device to use."""
    store: Any
    """Texts by name, which every process reads and writes."""
    names: Iterator[str]
    """Of texts: every process asks for the same ones in the same order."""


_group: ProcessGroup | None = None


def rank() -> int:
    """The number of this process; process 0 alone talks and writes."""
    return 0 if _group is None else _group.rank


def world_size() -> int:
    """How many processes there are."""
    return 1 if _group is None else _group.world_size


def local_rank() -> int:
    """The number of this process on its machine."""
    return 0 if _group is None else _group.local_rank


def launched_world_size() -> int:
    """How many processes torchrun started; 1 without it."""
    known = "RANK" in os.environ and "MASTER_ADDR" in os.environ
    return int(os.environ.get("WORLD_SIZE", "1")) if known else 1


@contextmanager
def session() -> Iterator[None]:
    """Inside, the processes that torchrun started are a group and all but the first are silent.

    Each takes the CUDA device of its number on the machine. Tensors in main memory are sent by
    gloo, those on devices by NCCL.
    """
    if launched_world_size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    global _group
    with peer_errors():
        store, own, world_size = next(rendezvous("env://", timeout=TIMEOUT))
        local = int(os.environ.get("LOCAL_RANK", own))
        if local < torch.cuda.device_count():
            torch.cuda.set_device(local)
        cuda = torch.cuda.is_available() and dist.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(
            backend, store=store, rank=own, world_size=world_size, timeout=TIMEOUT
        )
    _group = ProcessGroup(own, world_size, local, store, map("pivl-distill/{}".format, count()))
    _silence(own > 0)
    yield
    barrier()  # where something failed there is nobody to wait for
    _group = None
    _silence(False)
    dist.destroy_process_group()


def exit_process(code: int) -> NoReturn:
    """End a process of a group at once, with this exit code.

    Threads of gloo may hold tensors for a moment longer than the group lives; where Python takes
    itself down meanwhile, a process whose work is done is aborted (once in thirty runs).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def peer_errors() -> Iterator[None]:
    """Around what all processes do at once: OtherProcessError where one of them is missing."""
    try:
        yield
    except RuntimeError as error:  # of every backend, for whatever reason
        raise PeerProcessError(
            f"Process {rank()} of {world_size()}: a peer process failed or timed out"
            f" ({TIMEOUT}); see its output above. Continue a training run with --resume."
        ) from error


def barrier() -> None:
    """Go on when all processes are here."""
    all_reduce_max(0)


def all_reduce_max(number: int) -> int:
    """The highest of every process's `number`."""
    if _group is None:
        return number
    import torch
    import torch.distributed as dist

    numbers = torch.tensor(number)
    with peer_errors():
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


def main_process_first() -> AbstractContextManager[None]:
    """Process 0 goes through the body, then the others: it makes what they find.

    Every process has to come here.
    """
    return _zero_first(rank())


def local_main_process_first() -> AbstractContextManager[None]:
    """The same for one process of each machine and the others there."""
    return _zero_first(local_rank())


@contextmanager
def _zero_first(number: int) -> Iterator[None]:
    if number:
        barrier()
    yield
    if not number:
        barrier()


def broadcast_object(say: Callable[[], str]) -> str:
    """What `say` returns in process 0, in all of them; the others do not call it."""
    if _group is None:
        return say()
    name = next(_group.names)
    if _group.rank == 0:
        text = say()
        _group.store.set(name, text)
        return text
    with peer_errors():
        told: bytes = _group.store.get(name)
    return told.decode()


def broadcast_object_on_node(say: Callable[[], str]) -> str:
    """What `say` returns in the first process of this machine; the others there do not call it."""
    if _group is None:
        return say()
    first_here = [platform.node(), 0]
    own = "" if _group.local_rank else say()
    told = all_gather_object(json.dumps([platform.node(), _group.local_rank, own]))
    return next(text for *process, text in map(json.loads, told) if process == first_here)


def all_gather_object(text: str) -> list[str]:
    """The `text` of each process, in all of them."""
    if _group is None:
        return [text]
    name = next(_group.names)
    _group.store.set(f"{name}/{_group.rank}", text)
    with peer_errors():
        texts = [_group.store.get(f"{name}/{other}").decode() for other in range(_group.world_size)]
    barrier()  # the texts go with process 0, which may end here
    return texts


def shard(items: int) -> slice:
    """The items that this process takes of so many: as many as the others, one after the other."""
    counts = shard_sizes(items)
    start = sum(counts[: rank()])
    return slice(start, start + counts[rank()])


def nonempty_shard(items: int) -> slice:
    """`shard`, or one item where that is none: to learn what results look like takes one."""
    own = shard(items)
    return own if own.start < own.stop else slice(0, 1)


def shard_sizes(items: int) -> list[int]:
    """How many items each process takes; the first take one more where they do not come out."""
    each, more = divmod(items, world_size())
    return [each + (number < more) for number in range(world_size())]


def register_failure(error: Exception) -> bool:
    """Whether this process tells the user about an error: the first that has one does."""
    if _group is None:
        return True
    try:
        if isinstance(error, PeerProcessError):
            with suppress(RuntimeError):  # nobody did
                _group.store.wait([FAILED], REPORT_TIMEOUT)
        failed: int = _group.store.add(FAILED, 1)
        if failed == _group.world_size:
            _group.store.set(ALL_FAILED, "")
    except RuntimeError:  # the store went with process 0
        return True
    return failed == 1


def wait_for_failing_peers() -> None:
    """Process 0, whose store says what was told already, stays while the others fail alike."""
    if _group is not None and _group.rank == 0:
        with suppress(RuntimeError):  # they do not
            _group.store.wait([ALL_FAILED], REPORT_TIMEOUT)


def _silence(silent: bool) -> None:
    from pivl_distill import console

    console.out.quiet = console.err.quiet = silent
