"""Run folders: file names, progress, resume state, pinned values and signals."""
