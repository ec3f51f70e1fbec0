"""pivl-distill: a text prompt bank made with CLIP teaches light person re-identification networks.

The package holds what the three stages share; the stages themselves are the top-level packages
`teachers`, `students` and `export`. Shapes are written everywhere with one set of letters:

    B batch · N images · C identities · P parts · M learned tokens · L prompt tokens
    D joint (text) dimension · F feature dimension · H W pixels · h w feature grid
"""

import logging

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())
