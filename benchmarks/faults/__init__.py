"""Faults on purpose: killed processes, full and read-only disks, damaged caches, jumping clocks.

`python -m benchmarks.faults` runs commands of pivl-distill in forked processes, lets a fault happen
at an exactly given moment, repeats the command as a user would, and compares every file with those
of an uninterrupted run. Results are shown in docs/reliability.md.
"""
