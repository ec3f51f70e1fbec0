"""Image formation of a camera: colour response, exposure, haze, resolution, blur, noise, JPEG."""

from __future__ import annotations

import cv2
import numpy as np

from pivl_distill.data.synthetic.cameras import Camera

_HAZE_LEVEL = 0.62
REFERENCE_HEIGHT = 128
"""Crop height in pixels to which a camera's pixel lengths refer."""


def photograph(scene: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Return `scene` uint8 RGB [H, W, 3] as this camera records it."""
    height, width = scene.shape[:2]
    image = cv2.transform(scene, np.array(camera.colour) * camera.gain)
    image = cv2.LUT(image, _tone_curve(camera, rng))
    if camera.resolution < 1:
        share = camera.resolution * rng.uniform(0.85, 1)
        small = (max(8, round(width * share)), max(16, round(height * share)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    if camera.blur_px > 0:
        image = cv2.GaussianBlur(image, (0, 0), camera.blur_px * height / REFERENCE_HEIGHT)
    if camera.noise > 0:
        gray = rng.standard_normal((height, width, 1), np.float32) * camera.noise
        image = np.clip(image + gray, 0, 255).astype(np.uint8)
    return _compressed(image, camera.jpeg_quality)


def _tone_curve(camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 [256]: gamma, random exposure of this crop, haze."""
    gain, gamma = np.exp(camera.exposure_jitter * rng.standard_normal(2))
    level = np.clip(np.linspace(0, 1, 256) * gain, 0, 1) ** (camera.gamma * gamma)
    return np.rint(255 * (level + camera.haze * (_HAZE_LEVEL - level))).astype(np.uint8)


def _compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """Compress with JPEG at `quality`; 100 skips compression, which would change the image."""
    if quality >= 100:
        return image
    _, data = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded[..., ::-1])
