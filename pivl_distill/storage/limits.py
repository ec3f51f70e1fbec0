"""Limits of what is read from files that others may have made, each with its reason.

A file beyond a limit is refused before its contents are in memory. Every limit is far above what
real files need, so that only damaged and hostile files reach it. This module imports nothing but
the standard library, so that the runtime can use it.
"""

from __future__ import annotations

import os

KIB, MIB, GIB = 2**10, 2**20, 2**30

MAX_JSON_BYTES = 16 * MIB
"""JSON files. The manifest of an export of a 2,048-dimensional network in every precision has
0.3 MB; a value of one byte takes up to 64 bytes in Python."""

MAX_JSON_DEPTH = 64
"""Lists and objects inside each other, in JSON. The deepest of ours, a saved optimizer, has 15."""

MAX_YAML_BYTES = 256 * KIB
"""YAML files. The largest preset has 3 kB; PyYAML parses 0.1 MB per second."""

MAX_YAML_VALUES = 20_000
"""Values of a YAML file with all aliases written out, which may be exponentially many."""

MAX_YAML_DEPTH = 32
"""Lists and mappings inside each other, in YAML. PyYAML recurses; settings have 4 levels."""

MAX_YAML_SCALAR = 2_048
"""Characters of one YAML value. A longer hexadecimal number could not be printed in decimal."""

MAX_TABLE_BYTES = 256 * MIB
"""Lists of images: CSV, JSON lines, text. 2.5 million rows of 100 bytes; MSMT17 needs 6 MB."""

MAX_TENSOR_FILE_BYTES = 32 * GIB
"""Banks, checkpoints, embeddings and weights. Embeddings of a million crops in 4 views of 1,280
dimensions have 10 GB. A file larger than the machine's memory is refused too."""

MAX_TENSOR_HEADER_BYTES = 16 * MIB
"""Header of a safetensors file. The training progress of a ViT-L has 0.3 MB; safetensors itself
allows 100 MB, which take ten times as much in memory."""

MAX_ARCHIVE_EXCESS = 64 * MIB
"""Bytes by which the entries of a .pth or .pt archive may exceed the archive. `torch.save` stores
tensors uncompressed; TorchScript compresses a few megabytes of code."""

MAX_SHARED_TENSORS = 4
"""Bytes of all tensors of a weights file by the bytes of the file. Tied weights share bytes; a
tensor of stride 0 may claim any size."""

MAX_ONNX_BYTES = 2 * GIB
"""ONNX files; protobuf's own limit."""

MAX_ONNX_DEPTH = 32
"""Messages inside each other in an ONNX file, of which a subgraph takes three; axes of a tensor."""

MAX_ONNX_FIELDS = 1_000_000
"""Fields of the graph of an ONNX file, weights not counted; 2,000 nodes have 30,000."""

MAX_INPUT_PIXELS = 2**22
"""Height times width of a network's input: 2048×2048. Sapiens, the largest parser, has 1024×768."""

MAX_INPUT_VALUES = 2**28
"""Values of one batch of fixed size: 1 GiB in float32."""

MAX_FEATURE_DIM = 2**16
"""Length of a feature; the largest networks have 8,192."""

MAX_CAMERAS = 2**16
"""Camera ids of a network."""

MAX_IMAGE_BYTES = 128 * MIB
"""Image files. An uncompressed frame of 8K video has 100 MB."""

MAX_IMAGE_PIXELS = 2**25
"""Pixels of an image; a frame of 8K video has 33.2 million. Decoded as RGB: 100 MB, in up to 8
threads at a time."""

MAX_IMAGE_SIDE = 2**15
"""Pixels along one side of an image. Resampling needs 16 bytes per pixel of a side."""

MAX_JPEG_SCANS = 50
"""Scans of a progressive JPEG, which usually has 10. Each one takes 0.2 s at the largest size and
as little as 50 bytes in the file."""


def memory_bytes() -> int | None:
    """Return the bytes of main memory of this machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows; other names
        return None
