"""pivl-distill: a text prompt bank made with CLIP teaches light person re-identification networks.

The functions below run the stages from Python; see docs/python-api.md. The package contains what
the three stages share; the stages are the top-level packages `teachers`, `students` and `export`.
Shapes use one set of letters throughout:

    B batch · N images · C identities · P parts · M learned tokens · L prompt tokens
    D joint (text) dimension · F feature dimension · H W pixels · h w feature grid
"""

__version__ = "0.1.0"

_LAZY = {
    "Callback": "pivl_distill.runs.callbacks",
    "Extractor": "pivl_distill.runtime",
    "PivlError": "pivl_distill.errors",
    "PromptBank": "pivl_distill.bank",
    "evaluate": "pivl_distill.api.scores",
    "export": "pivl_distill.api.deployment",
    "export_for": "pivl_distill.api.deployment",
    "teach": "pivl_distill.api.training",
    "train_student": "pivl_distill.api.training",
    "write_report": "pivl_distill.api.scores",
}
"""Public name → module that defines it, imported on first use; `__init__.pyi` has the types."""

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
