"""What the pages and docstrings say is so: their code runs, their parameters and defaults exist."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from docstrings import entries, parameters, sections
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_validate
from torch import nn

import sk_mtl
from sk_mtl.losses import LOSSES
from sk_mtl.trunks import TRUNKS
from sk_mtl.weighting import WEIGHTINGS

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "docs/architecture.md"]
EXAMPLES = sorted((ROOT / "examples").glob("plot_*.py"))
MODULES = ["sk_mtl", *(m.name for m in pkgutil.walk_packages(sk_mtl.__path__, "sk_mtl."))]
ESTIMATORS = [getattr(sk_mtl, name) for name in sk_mtl.__all__ if name.startswith("MultiTask")]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def python_blocks(page: str) -> list[str]:
    """Return the page's Python blocks, also those inside of a list."""
    found = re.findall(r"(?ms)^( *)```python\n(.*?)^ *```$", read(page))
    return [inspect.cleandoc("\n" + block) for _, block in found]


def is_for_users(thing: object) -> bool:
    """Networks are described by their recipes; functions of plain modules serve other modules."""
    if inspect.isclass(thing):
        return not issubclass(thing, nn.Module)
    return inspect.isfunction(thing) and "._" in thing.__module__  # exported by a package


def public_things() -> dict[str, object]:
    """Return every public class and function by its full name, and the methods of estimators."""
    found: dict[str, object] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        if not any(part.startswith("_") for part in name.split(".")[1:]):
            exported = [getattr(module, a) for a in getattr(module, "__all__", ())]
            found |= {f"{t.__module__}.{t.__qualname__}": t for t in exported if is_for_users(t)}
    for cls in ESTIMATORS:
        for name, method in inspect.getmembers(cls, inspect.isfunction):
            if method.__module__.startswith("sk_mtl") and not name.startswith("_"):
                found[f"{cls.__name__}.{name}"] = method
    return found


THINGS = public_things()
WITH_EXAMPLES = [*ESTIMATORS, *TRUNKS.values(), *LOSSES.values(), *WEIGHTINGS.values()]


def shown(default: str) -> str:
    """Return how Python shows a default that a docstring spells out."""
    if "numpy." in default:
        return repr(eval(default, {"numpy": np}))
    return repr(ast.literal_eval(default))


def misdescribed_defaults(thing: object) -> dict[str, tuple[str | None, object]]:
    """Return what the docstring says and what the signature says, where they differ."""
    signature = parameters(thing)
    wrong = {}
    for entry in entries(thing.__doc__, "Parameters"):
        parameter = signature.get(entry.name)
        if parameter is None or parameter.kind is parameter.VAR_KEYWORD:
            continue
        if parameter.default is inspect.Parameter.empty:
            same = entry.default is None
        else:
            same = entry.default is not None and (shown(entry.default) == repr(parameter.default))
        if not same:
            wrong[entry.name] = (entry.default, parameter.default)
    return wrong


# Code runs --------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page):
    """In order and in one namespace, as a reader would paste them; warnings are errors."""
    namespace: dict[str, object] = {"__name__": page}
    for block in python_blocks(page):
        exec(compile(block, page, "exec"), namespace)
    plt.close("all")


def test_readme_has_blocks():
    assert len(python_blocks("README.md")) >= 4


def test_the_trunk_in_contributing_learns():
    namespace: dict[str, object] = {"__name__": "contributing"}
    exec("\n".join(python_blocks("CONTRIBUTING.md")), namespace)
    X = [[float(i), float(i % 3)] for i in range(30)]
    Y = [[a + b, a - b] for a, b in X]
    trunk = namespace["Summed"]()
    model = sk_mtl.MultiTaskRegressor(trunk, learning_rate_init=0.02, max_iter=1000)
    assert model.set_params(random_state=0).fit(X, Y).score(X, Y) > 0.99


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples_run(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.failed == 0


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, monkeypatch, tmp_path):
    monkeypatch.setenv("SK_MTL_EXAMPLES", "small")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    plt.close("all")
    (picture,) = (tmp_path / "outputs").iterdir()
    assert picture.stat().st_size > 10_000


# Docstrings -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", THINGS)
def test_every_parameter_is_described(name):
    """All of them, and none that is not there."""
    thing = THINGS[name]
    listed = [entry.name for entry in entries(thing.__doc__, "Parameters")]
    is_exception = inspect.isclass(thing) and issubclass(thing, Exception)
    expected = [] if is_exception else list(parameters(thing))
    if inspect.isclass(thing) and "Attributes" in sections(thing.__doc__) and not listed:
        listed = [entry.name for entry in entries(thing.__doc__, "Attributes")]  # dataclasses
    assert [n for n in expected if n not in listed] == []
    assert [n for n in listed if n not in expected] == [] or not expected


@pytest.mark.parametrize("name", THINGS)
def test_described_defaults_are_the_real_ones(name):
    assert misdescribed_defaults(THINGS[name]) == {}


def test_a_drifted_default_is_noticed():
    def drifted(alpha=0.1, *, beta=None):
        """Do.

        Parameters
        ----------
        alpha : float, default=0.2
            Documented wrongly.
        beta : str
            Not said to be optional.
        """

    assert misdescribed_defaults(drifted) == {"alpha": ("0.2", 0.1), "beta": (None, None)}


@pytest.mark.parametrize("name", [n for n, t in THINGS.items() if inspect.isfunction(t)])
def test_functions_say_what_they_return(name):
    assert "Returns" in sections(THINGS[name].__doc__)


@pytest.mark.parametrize("cls", WITH_EXAMPLES, ids=lambda cls: cls.__name__)
def test_what_users_construct_has_an_example(cls):
    assert ">>>" in sections(cls.__doc__).get("Examples", "")


@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
def test_no_placeholder_is_left_in_an_estimators_docstring(cls):
    assert re.findall(r"\{[a-z_]+\}", cls.__doc__) == []
    order = [s for s in sections(cls.__doc__) if s in ("Parameters", "Attributes", "Examples")]
    assert order == ["Parameters", "Attributes", "Examples"]


# Pages ------------------------------------------------------------------------------------


def known_names() -> set[str]:
    """Return the parameters of everything public here, and of what the pages use beside it."""
    others = (cross_validate, cross_val_predict, GridSearchCV, KFold, GaussianProcessRegressor)
    things = [*THINGS.values(), *others]
    names = {name for thing in things for name in parameters(thing)}
    return names | {"EXAMPLE", "PYTEST_ARGS", "SK_MTL_TEST_DEVICE"}


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_parameters_that_exist(page):
    prose = re.sub(r"(?ms)^ *```.*?^ *```$", "", read(page))
    named = re.findall(r"\b(\w+?)=", " ".join(re.findall(r"`([^`\n]+)`", prose)))
    assert {n.split("__")[-1] for n in named} - known_names() == set()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", read(page))
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_readme_names_the_two_commands_and_they_exist():
    makefile = read("Makefile")
    for target in ("demo", "test"):
        assert f"make {target}" in read("README.md")
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_changelog_is_kept():
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    text = read("CHANGELOG.md")
    releases = re.findall(r"(?m)^## (.+)$", text)
    dated = r"\[\d+\.\d+\.\d+\] - (Unreleased|\d{4}-\d\d-\d\d)"
    assert releases
    assert all(re.fullmatch(dated, release) for release in releases)
    assert releases[0].startswith(f"[{sk_mtl.__version__}]")
    assert set(re.findall(r"(?m)^### (.+)$", text)) <= kinds
