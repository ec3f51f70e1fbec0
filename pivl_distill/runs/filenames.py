"""Names of the files and folders in run folders and export folders.

This module imports nothing, so that the runtime, which works without torch, can use it too.
"""

CONFIG_FILE = "config.yaml"
"""Resolved settings; written first, so its presence means that a run was started."""

METRICS_FILE = "metrics.jsonl"
"""One line per epoch."""

RUN_FILE = "run.json"
"""Summary of a run; written last, so its presence means that the run is complete."""

STATE_FOLDER = "state"
"""Resume state of an unfinished run; it holds the next three files."""

CONTRACT_FILE = "contract.json"
PROGRESS_FILE = "progress.safetensors"
LOCK_FILE = "lock"

BANK_FILE = "prompt_bank.safetensors"
TEACHER_FILE = "teacher.safetensors"
STUDENT_FILE = "student.safetensors"
CHECKPOINT_FILES = (STUDENT_FILE, TEACHER_FILE)

EMBEDDINGS_FILE = "teacher_embeddings.safetensors"
"""The teacher's embeddings of the training images."""

FP32_FILE = "model.onnx"
FP16_FILE = "model.fp16.onnx"

MANIFEST_FILE = "manifest.json"
"""Contents and verification results of an export folder."""
