"""Read event files as TensorBoard does."""

from __future__ import annotations

from pathlib import Path


def read_scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the points (step, value) of every curve of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
