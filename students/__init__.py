"""Students: light timm backbones taught by a prompt bank. Only this package imports timm.

`create_backbone` makes the bare network; start reading at `distill.py`.
"""

from students.backbones import create_backbone

__all__ = ["create_backbone"]
