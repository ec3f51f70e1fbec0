"""TensorRT and TensorRT-RTX engines: built from an exported ONNX file, described, and run."""
