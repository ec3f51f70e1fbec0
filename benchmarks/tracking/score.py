"""Score tracks with TrackEval, in the trackers' environment; prints one JSON row per sequence:

python -m benchmarks.tracking.score TRUTH TRACKS

TRUTH has MOTChallenge sequences, TRACKS a folder "TRACKER ARM" per run with `SEQUENCE.txt` files.
Scores are those of MOTChallenge: boxes that do not count in the ground truth are ignored, IDF1 at
an overlap of 0.5 (Ristani et al., 2016), HOTA as the mean over overlaps (Luiten et al., 2021).
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def rows(truth: Path, tracks: Path) -> Iterator[dict[str, str | float]]:
    """Yield the figures of every run on every sequence; shares are in 0..1."""
    import trackeval

    lengths = {folder.name: _length(folder) for folder in sorted(truth.iterdir())}
    runs = sorted(folder.name for folder in tracks.iterdir())
    dataset = trackeval.datasets.MotChallenge2DBox(
        {
            "GT_FOLDER": str(truth),
            "TRACKERS_FOLDER": str(tracks),
            "TRACKERS_TO_EVAL": runs,
            "TRACKER_SUB_FOLDER": "",
            "SEQ_INFO": lengths,
            "SKIP_SPLIT_FOL": True,
        }
    )
    for name in runs:
        tracker, arm = name.split(" ")
        for sequence in lengths:
            raw = dataset.get_raw_seq_data(name, sequence)
            data = dataset.get_preprocessed_seq_data(raw, "pedestrian")
            hota = trackeval.metrics.HOTA().eval_sequence(data)
            identity = trackeval.metrics.Identity().eval_sequence(data)
            clear = trackeval.metrics.CLEAR().eval_sequence(data)
            yield {
                "tracker": tracker,
                "arm": arm,
                "sequence": sequence,
                "IDF1": round(float(identity["IDF1"]), 5),
                **{key: round(float(hota[key].mean()), 5) for key in ("HOTA", "AssA", "DetA")},
                "switches": int(clear["IDSW"]),
            }


def _length(folder: Path) -> int:
    info = configparser.ConfigParser()
    info.read(folder / "seqinfo.ini")
    return int(info["Sequence"]["seqLength"])


if __name__ == "__main__":
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        found = list(rows(Path(sys.argv[1]), Path(sys.argv[2])))
    print(json.dumps(found))
