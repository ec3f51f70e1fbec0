"""CPU memory: keep what a training step frees, for reuse by the next step.

By default glibc maps each large block separately and unmaps it when it is freed; the next block of
that size consists of new pages, which the kernel zeroes on first use. A training step allocates and
frees the same large tensors every time and spends a fifth of its time on this (`docs/speed.md`).
With freed memory kept, results are the same; the process holds its peak memory until it ends.
"""

from __future__ import annotations

import ctypes
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameter numbers of glibc's mallopt (malloc.h)."""

KEEP_FREED, GLIBC_DEFAULTS = (2**31 - 1, 0), (128 * 1024, 65_536)
"""Arguments of `set_malloc_options`: trim threshold in bytes, maximum of mapped blocks."""


def keep_freed_memory(device: torch.device) -> bool:
    """Keep freed memory for reuse if `device` is the CPU; return whether this took effect.

    Only glibc (Linux) supports it; other systems are left unchanged.
    """
    return device.type == "cpu" and set_malloc_options(*KEEP_FREED)


def set_malloc_options(trim_threshold_bytes: int, max_mapped_blocks: int) -> bool:
    """Set glibc's malloc options; return False where there is no glibc or it refuses.

    Free memory at the end of the heap beyond `trim_threshold_bytes` is returned to the system; at
    most `max_mapped_blocks` large blocks are mapped separately.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        mallopt(_M_TRIM_THRESHOLD, trim_threshold_bytes) and mallopt(_M_MMAP_MAX, max_mapped_blocks)
    )
