"""Synthetic people: procedural pedestrians with exact part maps, so that everything runs offline.

`person` and `camera` sample from seeds, `render` draws a person as seen by a camera, `phrases` and
`caption` describe it in words; `cached_dataset` returns a dataset in Market-1501's layout.
"""

from pivl_distill.data.synthetic.cache import cached_dataset
from pivl_distill.data.synthetic.cameras import Camera, camera
from pivl_distill.data.synthetic.people import (
    COLOURS,
    Person,
    attributes,
    caption,
    person,
    phrases,
)
from pivl_distill.data.synthetic.render import Rendering, render
from pivl_distill.data.synthetic.tiers import TIERS, Tier

__all__ = [
    "COLOURS", "TIERS", "Camera", "Person", "Rendering", "Tier", "attributes", "cached_dataset",
    "camera", "caption", "person", "phrases", "render",
]  # fmt: skip
