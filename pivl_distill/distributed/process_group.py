"""Several processes at one run, one for each device, on one machine or many.

`torchrun` starts them and says by environment variables which is which; `joined` makes them a group
of torch.distributed. Without one, a single process is rank 0 of 1 and nothing here does anything.
What is computed together is in `whole_batch.py`. Nothing is imported from torch before there is a
group, so that asking costs nothing.

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

TOLD = timedelta(seconds=5)
"""How long a process that lost another one waits for that to say why."""


class OtherProcessError(PivlError):
    """Another process of the group ended, or does not answer in time."""


@dataclass(frozen=True)
class Group:
    """The processes of a run, and which of them this one is."""

    rank: int
    size: int
    local_rank: int
    """Counted on this machine; the number of the device to use."""
    store: Any
    """Texts by name, which every process reads and writes."""
    names: Iterator[str]
    """Of texts: every process asks for the same ones in the same order."""


_group: Group | None = None


def rank() -> int:
    """The number of this process; process 0 alone talks and writes."""
    return 0 if _group is None else _group.rank


def size() -> int:
    """How many processes there are."""
    return 1 if _group is None else _group.size


def local_rank() -> int:
    """The number of this process on its machine."""
    return 0 if _group is None else _group.local_rank


def launched() -> int:
    """How many processes torchrun started; 1 without it."""
    known = "RANK" in os.environ and "MASTER_ADDR" in os.environ
    return int(os.environ.get("WORLD_SIZE", "1")) if known else 1


@contextmanager
def joined() -> Iterator[None]:
    """Inside, the processes that torchrun started are a group and all but the first are silent.

    Each takes the CUDA device of its number on the machine. Tensors in main memory are sent by
    gloo, those on devices by NCCL.
    """
    if launched() == 1:
        yield
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    global _group
    with together():
        store, own, size = next(rendezvous("env://", timeout=TIMEOUT))
        local = int(os.environ.get("LOCAL_RANK", own))
        if local < torch.cuda.device_count():
            torch.cuda.set_device(local)
        cuda = torch.cuda.is_available() and dist.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=own, world_size=size, timeout=TIMEOUT)
    _group = Group(own, size, local, store, map("pivl-distill/{}".format, count()))
    _silence(own > 0)
    yield
    wait()  # where something failed there is nobody to wait for
    _group = None
    _silence(False)
    dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End a process of a group at once, with this exit code.

    Threads of gloo may hold tensors for a moment longer than the group lives; where Python takes
    itself down meanwhile, a process whose work is done is aborted (once in thirty runs).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def together() -> Iterator[None]:
    """Around what all processes do at once: OtherProcessError where one of them is missing."""
    try:
        yield
    except RuntimeError as error:  # of every backend, for whatever reason
        raise OtherProcessError(
            f"Process {rank()} of {size()} lost another one, or waited {TIMEOUT} for it in vain;"
            " what that one said, if anything, stands above. A training goes on with --resume."
        ) from error


def wait() -> None:
    """Go on when all processes are here."""
    highest(0)


def highest(number: int) -> int:
    """The highest of every process's `number`."""
    if _group is None:
        return number
    import torch
    import torch.distributed as dist

    numbers = torch.tensor(number)
    with together():
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


def first() -> AbstractContextManager[None]:
    """Process 0 goes through the body, then the others: it makes what they find.

    Every process has to come here.
    """
    return _zero_first(rank())


def first_on_machine() -> AbstractContextManager[None]:
    """The same for one process of each machine and the others there."""
    return _zero_first(local_rank())


@contextmanager
def _zero_first(number: int) -> Iterator[None]:
    if number:
        wait()
    yield
    if not number:
        wait()


def first_says(say: Callable[[], str]) -> str:
    """What `say` returns in process 0, in all of them; the others do not call it."""
    if _group is None:
        return say()
    name = next(_group.names)
    if _group.rank == 0:
        text = say()
        _group.store.set(name, text)
        return text
    with together():
        told: bytes = _group.store.get(name)
    return told.decode()


def first_on_machine_says(say: Callable[[], str]) -> str:
    """What `say` returns in the first process of this machine; the others there do not call it."""
    if _group is None:
        return say()
    first_here = [platform.node(), 0]
    own = "" if _group.local_rank else say()
    told = everyone_says(json.dumps([platform.node(), _group.local_rank, own]))
    return next(text for *process, text in map(json.loads, told) if process == first_here)


def everyone_says(text: str) -> list[str]:
    """The `text` of each process, in all of them."""
    if _group is None:
        return [text]
    name = next(_group.names)
    _group.store.set(f"{name}/{_group.rank}", text)
    with together():
        texts = [_group.store.get(f"{name}/{other}").decode() for other in range(_group.size)]
    wait()  # the texts go with process 0, which may end here
    return texts


def share(items: int) -> slice:
    """The items that this process takes of so many: as many as the others, one after the other."""
    counts = shares(items)
    start = sum(counts[: rank()])
    return slice(start, start + counts[rank()])


def busy_share(items: int) -> slice:
    """`share`, or one item where that is none: to learn what results look like takes one."""
    own = share(items)
    return own if own.start < own.stop else slice(0, 1)


def shares(items: int) -> list[int]:
    """How many items each process takes; the first take one more where they do not come out."""
    each, more = divmod(items, size())
    return [each + (number < more) for number in range(size())]


def tells(error: Exception) -> bool:
    """Whether this process tells the user about an error: the first that has one does."""
    if _group is None:
        return True
    try:
        if isinstance(error, OtherProcessError):
            with suppress(RuntimeError):  # nobody did
                _group.store.wait([FAILED], TOLD)
        failed: int = _group.store.add(FAILED, 1)
        if failed == _group.size:
            _group.store.set(ALL_FAILED, "")
    except RuntimeError:  # the store went with process 0
        return True
    return failed == 1


def let_others_fail() -> None:
    """Process 0, whose store says what was told already, stays while the others fail alike."""
    if _group is not None and _group.rank == 0:
        with suppress(RuntimeError):  # they do not
            _group.store.wait([ALL_FAILED], TOLD)


def _silence(silent: bool) -> None:
    from pivl_distill import console

    console.out.quiet = console.err.quiet = silent
