"""Read YAML within limits: PyYAML itself recurses, and writes aliases out without end.

`a: &a [x, x]`, `b: &b [*a, *a]` and so on doubles with every line ("billion laughs"); merge keys
(`<<`) do the same. Here the values of a text are counted with all aliases written out, before any
of them is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from pivl_distill.errors import PivlError
from pivl_distill.storage.limits import (
    MAX_YAML_BYTES,
    MAX_YAML_DEPTH,
    MAX_YAML_SCALAR,
    MAX_YAML_VALUES,
)
from pivl_distill.storage.readers import read_bytes


def read_yaml(path: Path, content: str) -> dict[str, Any]:
    """Read a YAML mapping; raises PivlError if `path` is not one. It must contain `content`."""
    try:
        values = parse_yaml(read_bytes(path, MAX_YAML_BYTES).decode("utf-8-sig"))
    except ValueError as error:
        raise PivlError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(values, dict):
        raise PivlError(f"{path} must contain {content}.")
    return values


def parse_yaml(text: str) -> Any:
    """Return the value in a YAML text; raises ValueError if it is not YAML, or beyond a limit."""
    try:
        _check_limits(text)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(_reason(error)) from error  # PyYAML raises all of these about bad values


def _reason(error: Exception) -> str:
    """Return what PyYAML says about a text, in one line and with the place."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        said = ", ".join(filter(None, (error.context, error.problem)))
        return f"{said} (line {mark.line + 1}, column {mark.column + 1})"
    if isinstance(error, ReaderError):
        return f"{error.reason} (#x{error.character:04x} at position {error.position})"
    return str(error)


@dataclass
class _Node:
    """A list or mapping, its values so far, and its levels, with all aliases written out."""

    anchor: str | None
    values: int = 1
    levels: int = 1

    def add(self, child: _Node) -> None:
        """Count a finished child; raises ValueError beyond a limit."""
        self.values += child.values
        self.levels = max(self.levels, child.levels + 1)
        if self.values > MAX_YAML_VALUES:
            raise ValueError(
                f"it has more than {MAX_YAML_VALUES:,} values with its aliases written out"
            )
        if self.levels > MAX_YAML_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_YAML_DEPTH} levels")


def _check_limits(text: str) -> None:
    """Raise ValueError if a YAML text is nested too deeply or has too many or too long values."""
    anchors: dict[str, _Node] = {}
    nodes = [_Node(None, 0, 0)]  # the document, and the open nodes in it
    for event in yaml.parse(text, yaml.SafeLoader):
        node = None
        if isinstance(event, yaml.CollectionStartEvent):
            nodes.append(_Node(event.anchor))
            if len(nodes) > MAX_YAML_DEPTH + 1:
                raise ValueError(f"it is nested deeper than {MAX_YAML_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            node = nodes.pop()
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > MAX_YAML_SCALAR:
                raise ValueError(f"a value has more than {MAX_YAML_SCALAR:,} characters")
            node = _Node(event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise ValueError(f"the alias *{event.anchor} is unknown, or inside its own anchor")
            node = anchors[event.anchor]
        if node is not None:
            nodes[-1].add(node)
            if node.anchor is not None:
                anchors[node.anchor] = node
