"""What every layer leans on: parameter checks, seeds, devices, warnings.

scikit-learn's private helpers are imported here and nowhere else.
"""

from __future__ import annotations

import copy
import difflib
import functools
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import joblib
import numpy as np
import torch
from sklearn.base import BaseEstimator, _fit_context
from sklearn.metrics._scorer import _BaseScorer, _PassthroughScorer
from sklearn.model_selection._search import BaseSearchCV
from sklearn.model_selection._search_successive_halving import HalvingGridSearchCV
from sklearn.model_selection._validation import (
    _insert_error_scores,
    _score,
    _warn_or_raise_about_fit_failures,
)
from sklearn.utils import _safe_indexing
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.validation import _check_method_params

try:  # scikit-learn >= 1.9
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # older scikit-learn has no callbacks of its own

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stand-in: without scikit-learn's callbacks there is nothing to support."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method as it is."""
        return method


__all__ = [
    "BaseSearchCV",
    "CallbackSupportMixin",
    "HalvingGridSearchCV",
    "HasMethods",
    "InferredTaskTypesWarning",
    "Interval",
    "Recipe",
    "SingleClassWarning",
    "StrOptions",
    "Stream",
    "as_counts",
    "check_device",
    "check_method_params",
    "did_you_mean",
    "fingerprint",
    "fit_context",
    "has_callback_contexts",
    "has_sklearn_callbacks",
    "insert_error_scores",
    "is_sklearn_scorer",
    "keep_freed_memory",
    "open_callback_context",
    "passes_through",
    "report_failed_fits",
    "resolve_recipe",
    "safe_indexing",
    "safe_split",
    "score_fold",
    "spawn_seeds",
    "stack_recipes",
    "undo_on_error",
    "warn",
    "with_callbacks",
]

fit_context = _fit_context
safe_indexing = _safe_indexing
safe_split = _safe_split
check_method_params = _check_method_params
score_fold = _score
report_failed_fits = _warn_or_raise_about_fit_failures
insert_error_scores = _insert_error_scores


class InferredTaskTypesWarning(UserWarning):
    """``tasks="auto"`` had to guess whether whole numbers are classes or amounts.

    Name the types in ``tasks=`` to silence it.
    """


class SingleClassWarning(UserWarning):
    """A classification task has one class only among the training labels.

    The task then predicts that class for every row. Drop the task, or use folds that keep
    its classes together (:class:`sk_mtl.model_selection.MultiTaskStratifiedKFold`), to
    silence it.
    """


class Recipe(BaseEstimator):
    """Hyper-parameters of a pluggable part, and nothing else.

    A recipe is cloned, printed, compared and searched like any estimator
    (``trunk__n_experts``); what is trained is made by its ``build`` method.

    Attributes
    ----------
    stackable : tuple of str
        Numbers among the hyper-parameters that may differ between networks which train as one
        stack: there the recipe holds a tensor, one value a network, in place of the number.
    """

    stackable: ClassVar[tuple[str, ...]] = ()
    _parameter_constraints: dict[str, list[Any]] = {}

    def validate(self) -> None:
        """Raise ``ValueError`` where a hyper-parameter is not admissible."""
        self._validate_params()


RecipeT = TypeVar("RecipeT", bound=Recipe)


def fingerprint(value: Any) -> Any:
    """Return what is equal for equal parameters, and can be a key.

    What cannot be hashed by its contents (a function defined in place) is equal to itself only.
    """
    if isinstance(value, type):
        return value.__module__, value.__qualname__, id(value)
    if isinstance(value, Mapping):
        return tuple((k, fingerprint(v)) for k, v in sorted(value.items(), key=str))
    if isinstance(value, (list, tuple)):
        return tuple(fingerprint(v) for v in value)
    try:
        return joblib.hash(value)
    except Exception:  # whatever the object's own pickling raises
        return id(value)


def stack_recipes(
    recipes: Sequence[RecipeT], n_axes: int, dtype: torch.dtype, device: torch.device
) -> RecipeT:
    """Return one recipe for a stack of networks whose recipes differ in stackable numbers only.

    Parameters
    ----------
    recipes : sequence of Recipe
        One a network.
    n_axes : int
        How many axes of size 1 follow the stack axis in the tensors of numbers that differ.
    dtype, device : torch.dtype, torch.device
        Type and place of these tensors.
    """
    together = copy.copy(recipes[0])
    for name in together.stackable:
        values = [getattr(recipe, name) for recipe in recipes]
        if len(set(values)) > 1:
            numbers = torch.tensor(values, dtype=dtype, device=device)
            setattr(together, name, numbers.view(-1, *[1] * n_axes))
    return together


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's code, past our frames, scikit-learn's and joblib's."""
    level, frame = 1, sys._getframe()
    ours = ("sk_mtl", "sklearn", "joblib")
    while frame is not None and frame.f_globals["__name__"].startswith(ours):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(message, category, stacklevel=level)


def undo_on_error(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of an estimator that, where it fails, leaves it as it was before."""

    @functools.wraps(method)
    def undone_on_error(estimator: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(estimator))
        try:
            return method(estimator, *args, **kwargs)
        except BaseException:
            vars(estimator).clear()
            vars(estimator).update(before)
            raise

    return undone_on_error


def has_sklearn_callbacks(estimator: Any) -> bool:
    """Whether callbacks of scikit-learn's own were set on the estimator."""
    return bool(getattr(estimator, "_skl_callbacks", None))


def has_callback_contexts(estimator: Any) -> bool:
    """Whether this scikit-learn hands contexts of callbacks around, callbacks or none."""
    return hasattr(estimator, "_init_callback_context")


def open_callback_context(estimator: Any, max_subtasks: int) -> Any:
    """Return the context in which scikit-learn's callbacks follow a fit of so many epochs."""
    return estimator._init_callback_context(max_subtasks=max_subtasks)


def keep_freed_memory() -> None:
    """Let the C library keep what a step frees for the next step, where it is glibc.

    A block larger than any it has freed so far comes from the system, in pages that are faulted
    in one by one, and goes back there: for tensors of half a megabyte that costs as much as the
    arithmetic. To free a large block once, which is never touched, raises both thresholds
    (mallopt(3), M_MMAP_THRESHOLD), up to 32 MiB for a block.
    """
    del [torch.empty(31 * 2**20, dtype=torch.uint8)][:]


def passes_through(scorer: Any) -> bool:
    """Whether a scorer of scikit-learn calls the estimator's own ``score``."""
    return isinstance(scorer, _PassthroughScorer)


def is_sklearn_scorer(scorer: Any) -> bool:
    """Whether a scorer is one of scikit-learn's, which ask for predictions or ``score`` only."""
    return isinstance(scorer, (_BaseScorer, _PassthroughScorer))


def did_you_mean(name: str, known: list[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def resolve_recipe(value: Any, table: Mapping[str, type[RecipeT]], base: Any, what: str) -> RecipeT:
    """Return the recipe that a name or an object stands for, its parameters checked."""
    if isinstance(value, str):
        if value not in table:
            raise ValueError(
                f"Got {what}={value!r}, expected one of {sorted(table)} or a {base.__name__} "
                f"object.{did_you_mean(value, list(table))}"
            )
        return table[value]()
    if isinstance(value, type):
        raise TypeError(
            f"Got the class {value.__name__} as {what}, expected an object. "
            f"Write {what}={value.__name__}()."
        )
    if not isinstance(value, base):
        raise TypeError(
            f"Got {what}={value!r}, expected one of {sorted(table)} or a {base.__name__} object."
        )
    recipe: RecipeT = value
    recipe.validate()
    return recipe


def as_counts(weight: Any) -> Any:
    """Return weights of rows as numbers of rows; None where there are none.

    Whole numbers are repetitions as they are; any others are scaled to a mean of 1 over the rows
    that weigh something, since their unit means nothing.
    """
    if weight is None or bool((weight == np.floor(weight)).all()):
        return weight
    return np.asarray(weight / weight[weight > 0].mean())


def check_device(device: str | torch.device) -> torch.device:
    """Return the torch device meant by ``device``, as tensors made there name it, or raise."""
    if device == "auto":
        backends = {"cuda": torch.cuda, "mps": torch.backends.mps}
        device = next((name for name, b in backends.items() if b.is_available()), "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"Got device={device!r}, expected 'cpu', 'cuda', 'mps' or 'auto'."
        ) from error
    try:
        probe = torch.empty(1, device=resolved)
        probe.item()
    except (AssertionError, RuntimeError) as error:  # torch raises either
        raise ValueError(
            f"Got device={str(device)!r}, expected one that torch can compute on here. "
            "Use device='cpu' or device='auto'."
        ) from error
    return probe.device


def spawn_seeds(seed: int, n: int) -> list[int]:
    """Return ``n`` independent seeds derived from one."""
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(n, np.uint32)]


class Stream:
    """A stream of random numbers of our own, made on the device of its first use.

    Unlike a bare ``torch.Generator`` it can be pickled on one device and continued on a
    machine that lacks it (there it starts again from its seed), and it never touches
    torch's global state.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generator: torch.Generator | None = None
        self._saved: tuple[str, torch.Tensor] | None = None

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """Return the generator, on the given device."""
        device = torch.device(device)
        if self._generator is None or self._generator.device != device:
            saved = self.__getstate__()["saved"]
            self._generator = torch.Generator(device=device)
            self._generator.manual_seed(self.seed)
            if saved is not None and saved[0] == device.type:
                self._generator.set_state(saved[1])
        return self._generator

    def __getstate__(self) -> dict[str, Any]:
        saved = self._saved
        if self._generator is not None:
            saved = (self._generator.device.type, self._generator.get_state())
        return {"seed": self.seed, "saved": saved}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.seed = state["seed"]
        self._generator = None
        self._saved = state["saved"]
