"""Deployment: an export folder turns crops of people into vectors, without torch.

    from pivl_distill.runtime import Extractor

Only numpy, Pillow and onnxruntime are imported here and below.
"""

from pivl_distill.runtime.extractor import Extractor

__all__ = ["Extractor"]
