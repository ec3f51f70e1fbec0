"""Build TensorRT and TensorRT-RTX engines from exported ONNX files, describe them, and run them."""
