"""Names of the files that this package writes into run folders, exports and data sets.

This module imports nothing, so that the runtime, which works without torch, can use it too.
"""

CONFIG_FILE = "config.yaml"
"""Resolved settings; written first, so its presence means that a run was started."""

METRICS_FILE = "metrics.jsonl"
"""One line per epoch."""

TENSORBOARD_FOLDER = "tensorboard"
"""Event file of a training run with --tensorboard."""

RUN_FILE = "run.json"
"""Summary of a run; written last, so its presence means that the run is complete."""

CRASH_FILE = "crash.log"
"""Reports of unexpected exceptions."""

STATE_FOLDER = "state"
"""Resume state of an unfinished run; it holds the next three files."""

CONTRACT_FILE = "contract.json"
PROGRESS_FILE = "progress.safetensors"
LOCK_FILE = "lock"

BANK_FILE = "prompt_bank.safetensors"
TEACHER_FILE = "teacher.safetensors"
STUDENT_FILE = "student.safetensors"
CHECKPOINT_FILES = (STUDENT_FILE, TEACHER_FILE)
"""Trained networks, in the order in which commands look for them."""

TEACHER_EMBEDDINGS_FILE = "teacher_embeddings.safetensors"
"""The teacher's embeddings of the training images."""

FP32_FILE = "model.onnx"
FP16_FILE = "model.fp16.onnx"
INT8_CPU_FILE = "model.int8.onnx"
INT8_TENSORRT_FILE = "model.int8.trt.onnx"
OPENVINO_FILE = "model.xml"
"""The float32 IR of a folder for OpenVINO."""

MANIFEST_FILE = "manifest.json"
"""Contents and verification results of an export folder."""

GOLDEN_CROP_FILE = "golden.png"
"""The image of an export folder on which every artifact is checked."""

VOCABULARY_FILE = "parsing.json"
"""Vocabulary and parser of a folder of part maps."""

QA_SHEET_FILE = "parsing.png"
"""Contact sheet of crops and their part maps."""

SYNTHETIC_FILE = "synthetic.json"
"""Description of a synthetic data set and its people."""


def utf8_name(name: str) -> str:
    """Return a file name for places that hold nothing but UTF-8: other bytes become escapes.

    >>> utf8_name("caf\\udce9.jpg")  # the bytes b"caf\\xe9.jpg", as Python holds them
    'caf\\\\udce9.jpg'
    """
    return name.encode(errors="backslashreplace").decode()
