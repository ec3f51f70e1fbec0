"""Memory of the CPU: what a training step frees, the next step takes again.

glibc maps a large block when it is asked for and gives it back as soon as it is freed; the next
block of that size comes as new pages, which the system fills with zeros one by one. A training step
takes and frees the same large tensors every time, and spends a fifth of its time on that
(`docs/speed.md`). Results do not change; what was taken stays with the process until it ends.
"""

from __future__ import annotations

import ctypes
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt (malloc.h)."""

KEEP_FREED, GLIBC_DEFAULTS = (2**31 - 1, 0), (128 * 1024, 65_536)
"""Bytes and blocks for `set_malloc_options`."""


def keep_freed_memory(device: torch.device) -> bool:
    """Keep freed memory for the next tensor if `device` is the CPU; whether that is so now.

    Only glibc (Linux) is told; other systems keep their ways.
    """
    return device.type == "cpu" and set_malloc_options(*KEEP_FREED)


def set_malloc_options(trim_threshold_bytes: int, maps: int) -> bool:
    """How much free memory at the end of the heap is given back, and how many blocks are mapped.

    Whether there is a glibc that took it.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, trim_threshold_bytes) and mallopt(_M_MMAP_MAX, maps))
