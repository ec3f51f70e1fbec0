"""Loading a state dict into a network: everything fits, or one error names what does not.

A partly loaded network trains without complaint, so nothing is skipped silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from pivl_distill.errors import PivlError

BATCH_COUNTER = "num_batches_tracked"
"""Buffer of batch norms that older files lack; it affects no output."""

MAX_NAMED = 5
"""Mismatches named in an error message."""


def load_matching_state(
    network: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    target: str,
    remedy: str,
    *,
    ignored: tuple[str, ...] = (),
) -> None:
    """Load `state` into `network`; raise PivlError, before anything is loaded, unless it fits.

    Args:
        network: receives the tensors.
        state: tensors by name.
        source: where they come from, for the error message.
        target: what they should fit, for the error message.
        remedy: sentence for the error message that says what to do.
        ignored: prefixes of names in `state` that the network may lack.
    """
    require_matching_state(network.state_dict(), state, source, target, remedy, ignored=ignored)
    network.load_state_dict(state, strict=False)


def require_matching_state(
    expected: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    source: str | Path,
    target: str,
    remedy: str,
    *,
    ignored: tuple[str, ...] = (),
) -> None:
    """Raise PivlError unless names and shapes of `state` are the `expected` ones.

    Batch counters (`num_batches_tracked`) may be missing. The other parameters are as in
    `load_matching_state`.

    Args:
        expected: tensors by name, of which only the shapes matter.
        state: tensors by name.
        source: where they come from.
        target: what they should fit.
        remedy: sentence that says what to do.
        ignored: prefixes of names in `state` that need not be expected.
    """
    missing = expected.keys() - state.keys()
    wrong = [f"missing {name}" for name in missing if not name.endswith(BATCH_COUNTER)]
    unexpected = state.keys() - expected.keys()
    wrong += [f"unexpected {name}" for name in unexpected if not name.startswith(ignored)]
    wrong += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected.keys() & state.keys()
        if state[name].shape != expected[name].shape
    ]
    if wrong:
        count = "1 tensor differs" if len(wrong) == 1 else f"{len(wrong)} tensors differ"
        named = "; ".join(sorted(wrong)[:MAX_NAMED])
        remedy = _prefix(expected, state) + remedy
        raise PivlError(f"'{source}' does not fit {target}, {count}: {named}. {remedy}")


def _prefix(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Return a sentence about a common prefix without which most names would be expected."""
    prefix = next(iter(state), "").partition(".")[0] + "."
    if not all(name.startswith(prefix) for name in state):
        return ""
    fitting = {name.removeprefix(prefix) for name in state} & expected.keys()
    if 2 * len(fitting) < len(state):
        return ""
    return (
        f"All names begin with '{prefix}' and would fit without it; save the tensors as"
        f" {{name.removeprefix('{prefix}'): tensor for name, tensor in state.items()}}. "
    )
