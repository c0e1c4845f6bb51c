"""The file of results of benchmarks that are measured cell by cell, and by what a row is known.

It is written after every cell (table, fold, contender), and several runs may share it, also of
Pythons with other packages. Nothing here knows ``sk_mtl``.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from _harness import machine, versions


class File:
    """The file of results: several runs may write to it, every cell as soon as it is measured.

    Parameters
    ----------
    path : Path
        Where it is.
    head : mapping
        What it says besides rows: of the last run that wrote, but for the tables of all.
    """

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        self.path, self.head = path, dict(head)

    def read(self) -> dict[str, Any]:
        """Return what it has; empty lists where it is not there yet, or quick and we are not."""
        if self.path.exists():
            content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            if content["quick"] == self.head["quick"]:
                return content
        return {**self.head, "rows": [], "ratios": [], "skipped": []}

    def add(self, kind: str, entry: Mapping[str, Any]) -> None:
        """Put a row, or the reason why there is none, in the place of what was there."""
        with self._alone():
            content = self.read()
            for other in ("rows", "skipped"):
                content[other] = [old for old in content[other] if place(old) != place(entry)]
            content[kind].append(dict(entry))
            tables = content["settings"]["tables"] | self.head["settings"]["tables"]
            content |= self.head | {"settings": self.head["settings"] | {"tables": tables}}
            self._write(content)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)  # which also unlocks it

    def _write(self, content: Mapping[str, Any]) -> None:
        parts = []
        for key, value in content.items():
            if isinstance(value, list) and value:  # an entry a line: people read it too
                inside = ",\n".join(json.dumps(entry) for entry in value)
                parts.append(f"{json.dumps(key)}: [\n{inside}\n]")
            else:
                parts.append(f"{json.dumps(key)}: {json.dumps(value, indent=1)}")
        new = self.path.with_suffix(".new")
        new.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
        new.replace(self.path)  # whoever reads meanwhile sees the old or the new one


def head_of(
    name: str, quick: bool, threads: int, settings: Mapping[str, Any], tables: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the file of a benchmark says besides its rows.

    Parameters
    ----------
    name : str
        Of the benchmark.
    quick : bool
        Whether its numbers mean nothing.
    threads : int
        That every contender has.
    settings : mapping
        Of the benchmark.
    tables : mapping of str to Table
        Those that are measured now.
    """
    return {
        "benchmark": name,
        "quick": quick,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "threads": threads,
        "settings": {**settings, "tables": {name: t.facts() for name, t in tables.items()}},
    }


def place(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return where in the file an entry belongs."""
    return entry["case"], entry["fold"], entry["contender"], entry.get("protocol", "folds")


def is_same(row: Mapping[str, Any], key: Mapping[str, Any], renew: bool) -> bool:
    """Return whether a row was got in the same way; the code counts only if ``renew``."""
    return all(row.get(k) == value for k, value in key.items() if renew or k != "code")
