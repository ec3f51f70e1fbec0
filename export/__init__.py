"""Stage three: export a checkpoint as verified ONNX files and, optionally, TensorRT engines.

Start reading at `exporter.py`. This file imports nothing: onnx, onnxruntime and tensorrt are large,
and the command line must start quickly.
"""
