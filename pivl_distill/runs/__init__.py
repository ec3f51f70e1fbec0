"""Run folders: their files, progress, resume state and signals."""
