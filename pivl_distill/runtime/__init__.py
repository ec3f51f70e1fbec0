"""Deployment without torch: ONNX Runtime sessions, for exports and for parsers alike."""
