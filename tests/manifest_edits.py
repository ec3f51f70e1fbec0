"""Edit the manifest.json of an export, to test how damaged exports are handled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def change_artifact(folder: Path, **fields: object) -> Path:
    """Change fields of the artifact that the CPU runs; return the folder."""
    return change_manifest(folder, lambda manifest: manifest["artifacts"][0].update(fields))


def change_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """Apply `edit` to the JSON of the manifest; return the folder."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
    return folder
