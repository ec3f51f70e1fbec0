"""State dictionaries as named tensors plus JSON, so that they are stored without pickle."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from pivl_distill.storage.limits import MAX_SHARED_TENSORS


class Stateful(Protocol):
    """An object whose state is saved and restored: a network, an optimizer, running totals."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


class TorchRngState:
    """torch's global random generators, which dropout draws from."""

    def state_dict(self) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["cpu"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])


class OptimizerState:
    """The moments of an optimizer; its hyperparameters are those of the present settings."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        own = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self._optimizer.param_groups
        ]
        self._optimizer.load_state_dict(state)
        for group, hyperparameters in zip(self._optimizer.param_groups, own, strict=True):
            group.update(hyperparameters)


def pack_state(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a state as a JSON value; its tensors are added to `tensors` under dotted names."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name, "stride": value.stride()}
    if isinstance(value, dict):  # keys of JSON objects are strings; an optimizer has integer keys
        items = [[key, pack_state(item, f"{name}.{key}", tensors)] for key, item in value.items()]
        return {"dict": items}
    if isinstance(value, list | tuple):
        return [pack_state(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
    return value


def unpack_state(packed: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the state that `pack_state` packed; tuples become lists."""
    if isinstance(packed, list):
        return [unpack_state(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if "dict" in packed:
        return {key: unpack_state(item, tensors) for key, item in packed["dict"]}
    # Restore the memory layout: fused optimizers need moments with the strides of their parameters.
    tensor, stride = tensors[packed["tensor"]], packed["stride"]
    axes = zip(tensor.shape, stride, strict=True)
    last = sum((size - 1) * step for size, step in axes)
    if tensor.numel() and not 0 <= last < MAX_SHARED_TENSORS * tensor.numel():
        raise ValueError(f"{packed['tensor']} has the strides {stride}")
    strided = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype)
    return strided.copy_(tensor)
