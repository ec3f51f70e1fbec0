"""IDF1 and HOTA of three trackers on rendered videos, with the features of an export and without:

    python -m benchmarks.tracking runs/export-1

`--record` writes the figures to `benchmarks/results/tracking/` and the table to docs/trackers.md.
The trackers and TrackEval are installed in `build/consumers/trackers`, for this benchmark alone:
BoxMOT is under the AGPL and no dependency of this project.
"""
