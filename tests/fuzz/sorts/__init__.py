"""The sorts of inputs, by name: modules with `cases`, a strategy, and `use`, which uses one case.

`use(given, out, options)` does with the files in `given` what the product does with them. It may
write below `out` only, asserts what must hold of a result, and lets a PivlError pass.
"""

from __future__ import annotations

from types import ModuleType

from fuzz.sorts import (
    banks,
    checkpoints,
    configs,
    data_sets,
    embeddings,
    exports,
    images,
    manifests,
    maps,
    runs,
)

SORTS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        configs, data_sets, manifests, images, maps, banks, checkpoints, embeddings, exports, runs
    )
}  # fmt: skip
