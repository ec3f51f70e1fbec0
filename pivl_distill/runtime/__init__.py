"""Deployment without torch: load an export folder and extract person features.

    from pivl_distill.runtime import Extractor

extractor        `Extractor`: crops, boxes, files or folders in, unit features out
manifest_reader  the fields of `manifest.json` that inference needs
feature_graph    one forward pass: normalise, feed, check
onnx_session     ONNX Runtime sessions that never fall back silently
golden_check     the recorded feature that the export must reproduce
frame_crops      input checks, and boxes cut out of frames
trackers         features in the form that BoxMOT, deep-sort-realtime and norfair take

This package imports only the standard library, numpy, Pillow and onnxruntime, and pivl_distill's
own modules that need no more.
"""

from pivl_distill.runtime.extractor import Extractor

__all__ = ["Extractor"]
