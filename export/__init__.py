"""Stage three: a checkpoint leaves as one verified ONNX file, optionally with a TensorRT engine.

Nothing is imported here: onnx, onnxruntime and tensorrt are large, and the command line must start
at once.
"""
