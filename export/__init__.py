"""Stage three: a checkpoint leaves as verified ONNX files, optionally with TensorRT engines.

Nothing is imported here: onnx, onnxruntime and tensorrt are large, and the command line must start
at once.
"""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())
