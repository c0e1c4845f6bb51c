"""A small reader of numpydoc docstrings, for test_docs."""

from __future__ import annotations

import inspect
import re
from typing import Any, NamedTuple


class Parameter(NamedTuple):
    """One entry of a section: ``alpha : float, default=0.1``."""

    name: str
    description: str

    @property
    def default(self) -> str | None:
        """Return the source text of the documented default."""
        found = re.search(r"default=(.+)$", self.description)
        return None if found is None else found.group(1).strip()


def sections(doc: str | None) -> dict[str, str]:
    """Return the text of every underlined section by its title."""
    parts = re.split(r"(?m)^(\w[\w ]*)\n-{3,}\n", inspect.cleandoc(doc or ""))
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(doc: str | None, section: str) -> list[Parameter]:
    """Return the entries of a section; ``X, y : array`` counts as two."""
    found = re.findall(r"(?m)^(\*{0,2}\w[\w, *]*?) : (.+)$", sections(doc).get(section, ""))
    return [
        Parameter(name.strip().lstrip("*"), description)
        for names, description in found
        for name in names.split(",")
    ]


def parameters(thing: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of a callable, without ``self``; a class has its constructor's."""
    found = inspect.signature(thing).parameters
    return {name: p for name, p in found.items() if name not in ("self", "cls")}
