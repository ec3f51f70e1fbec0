"""Write the metrics of a run for TensorBoard, into `tensorboard/` in its folder.

Scalars are named stage/metric, for example reid/triplet, and counted in epochs of their stage.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pivl_distill.errors import PivlError
from pivl_distill.runs.callbacks import Callback, RunStart
from pivl_distill.runs.metrics import read_metrics
from pivl_distill.storage.filenames import CONFIG_FILE, TENSORBOARD_FOLDER

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardCallback(Callback):
    """Writes an event file. A resumed run gets a new one, with the epochs before from its metrics.

    Raises PivlError if TensorBoard is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise PivlError(
                "TensorBoard is not installed: pip install 'pivl-distill[tensorboard]', or remove"
                " --tensorboard."
            )
        self._writer: SummaryWriter | None = None

    def on_start(self, start: RunStart) -> None:
        """Start the event file."""
        from torch.utils.tensorboard import SummaryWriter

        folder = start.folder / TENSORBOARD_FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        settings = (start.folder / CONFIG_FILE).read_text(encoding="utf-8")
        self._writer.add_text("settings", "".join(f"    {line}\n" for line in settings.split("\n")))
        for metrics in read_metrics(start.folder):
            self.on_epoch(metrics)

    def on_epoch(self, metrics: Mapping[str, Any]) -> None:
        """Add a point to each curve of the stage."""
        assert self._writer is not None
        stage, epoch = metrics["stage"], int(metrics["epoch"])
        for name, value in metrics.items():
            if name not in ("stage", "epoch"):
                self._writer.add_scalar(f"{stage}/{name}", value, epoch)
        self._writer.flush()

    def on_end(self, summary: Mapping[str, Any] | None) -> None:
        """Add the scores on query and gallery, and close the file."""
        assert self._writer is not None
        for name, value in ((summary or {}).get("retrieval") or {}).items():
            self._writer.add_scalar(f"retrieval/{name}", float(value), 0)
        self._writer.close()
