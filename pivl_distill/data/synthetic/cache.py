"""Synthetic datasets, rendered on first use and stored in the user's cache folder."""

from __future__ import annotations

from pathlib import Path

from pivl_distill.data.synthetic.dataset import GENERATOR_VERSION, write_dataset
from pivl_distill.data.synthetic.tiers import get_tier
from pivl_distill.distributed import process_group
from pivl_distill.storage.cache_dir import CacheError, cache_dir


def cached_dataset(tier_name: str, seed: int = 0) -> Path:
    """Return the root of a tier's dataset in Market-1501's layout; render it on first use.

    Raises PivlError if there is no such tier, or if the cache folder cannot be written.
    """
    tier = get_tier(tier_name)
    root = cache_dir() / "synthetic" / f"{tier.name}-seed{seed}-v{GENERATOR_VERSION}"
    with process_group.local_main_process_first():
        if root.exists():
            return root
        try:
            write_dataset(root, tier, seed)
        except OSError as error:
            if not root.exists():  # otherwise another process finished the same dataset first
                raise CacheError.from_os_error(root.parent, error) from error
    return root
