"""Outputs of a CLIP for fixed inputs, by which tests compare two of them."""

from __future__ import annotations

import torch

from teachers.clip import Clip

SIZE_HW = (128, 64)


def random_images() -> torch.Tensor:
    """Return two normalised random images [2, 3, 128, 64], the same at every call."""
    return torch.randn(2, 3, *SIZE_HW, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def clip_outputs(clip: Clip) -> list[torch.Tensor]:
    """Return projected image features, joint tokens, and the features of two texts."""
    texts = clip.text.encode(["a photo of a person", "hat"])
    images = random_images()
    return [clip.image(images).projected, clip.image.joint_tokens(images), texts]
