"""Run folders: progress, resume state, pinned values and signals."""
