"""One input: the files that a user passes, and the options that go with them."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """Contents of files by relative path, and options as JSON values."""

    files: Mapping[str, bytes]
    """A path that ends with `/` is an empty folder."""
    options: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the files below `folder`, except those whose names the file system cannot hold."""
        folder.mkdir()
        for name, content in self.files.items():
            path = folder / name
            with suppress(OSError):  # too long, or a file where another one needs a folder
                path.parent.mkdir(parents=True, exist_ok=True)
                if name.endswith("/"):
                    path.mkdir(exist_ok=True)
                else:
                    path.write_bytes(content)

    def to_json(self, failure: str) -> str:
        """Return the case as the text of a regression file; `failure` says what went wrong."""
        files = {name: _packed(content) for name, content in self.files.items()}
        value = {"failure": failure, "options": dict(self.options), "files": files}
        return json.dumps(value, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Case:
        """Return the case in a regression file."""
        value = json.loads(text)
        files = {name: _unpacked(content) for name, content in value["files"].items()}
        return cls(files, value["options"])

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits for the name of a regression file."""
        return hashlib.sha256(self.to_json("").encode()).hexdigest()[:8]


def _packed(content: bytes) -> str | dict[str, str]:
    """Printable ASCII as it is, anything else compressed and in base64."""
    if content.isascii() and all(char.isprintable() or char == "\n" for char in content.decode()):
        return content.decode()
    return {"zlib": base64.b64encode(zlib.compress(content, 9)).decode()}


def _unpacked(content: str | dict[str, str]) -> bytes:
    return (
        content.encode()
        if isinstance(content, str)
        else zlib.decompress(base64.b64decode(content["zlib"]))
    )
