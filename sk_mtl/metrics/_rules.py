"""Which metric fits which task, and when the labels at hand define it.

scikit-learn's scorer objects are looked into here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, Literal

from numpy.typing import NDArray
from sklearn.metrics import get_scorer, get_scorer_names, make_scorer

from sk_mtl._support import did_you_mean

Metric = str | Callable[..., Any]
Undefined = Literal["nan", "raise"] | float

KINDS = ("classification", "regression")
DEFAULT_METRICS: dict[str, Metric] = {"classification": "accuracy", "regression": "r2"}

# scikit-learn's scorer names by what they score; the rest score classes.
REGRESSION_NAMES = frozenset(
    name
    for name in get_scorer_names()
    if "error" in name or "deviance" in name or name in {"r2", "explained_variance"}
)
TWO_CLASS_NAMES = {  # names that refuse a third class, and what to write instead
    "f1": "f1_macro",
    "jaccard": "jaccard_macro",
    "precision": "precision_macro",
    "recall": "recall_macro",
    "roc_auc": "roc_auc_ovr",
}

# What the labels must hold for a metric to mean something, by the name of the metric's function.
# Labels alone decide, never predictions: else a search could gain by predicting one class only.
NEEDS_EVERY_CLASS = frozenset({"average_precision_score", "roc_auc_score"})
NEEDS_TWO_CLASSES = frozenset(
    {
        "balanced_accuracy_score",
        "cohen_kappa_score",
        "d2_brier_score",
        "d2_log_loss_score",
        "matthews_corrcoef",
        "negative_likelihood_ratio",
        "positive_likelihood_ratio",
    }
)
NEEDS_POSITIVE = frozenset(
    {"f1_score", "fbeta_score", "jaccard_score", "precision_score", "recall_score"}
)
NEEDS_TWO_ROWS = frozenset(
    {
        "d2_absolute_error_score",
        "d2_pinball_score",
        "d2_tweedie_score",
        "explained_variance_score",
        "r2_score",
    }
)


def check_metric(metric: Any) -> None:
    """Raise where a metric cannot be one, before anything is fitted."""
    if metric is None or (callable(metric) and not isinstance(metric, type)):
        return
    if not isinstance(metric, str):
        raise TypeError(
            f"Got metric {metric!r}, expected a scorer name or a callable. Pass 'roc_auc' or "
            "make_scorer(roc_auc_score), for instance."
        )
    if metric not in get_scorer_names():
        raise ValueError(
            f"Got metric {metric!r}, expected one of sklearn.metrics.get_scorer_names() or a "
            "callable."
            + (did_you_mean(metric, get_scorer_names()) or " Pass another name or a function.")
        )


def check_undefined(undefined: Any) -> None:
    """Raise where ``undefined`` is neither of its two words nor a number."""
    is_number = isinstance(undefined, (int, float)) and not isinstance(undefined, bool)
    if undefined not in ("nan", "raise") and not is_number:
        raise ValueError(
            f"Got undefined={undefined!r}, expected 'nan', 'raise' or a number. Leave it out for "
            "'nan'."
        )


def choose_metric(metric: Metric | Mapping[str, Metric] | None, task: str, kind: str) -> Metric:
    """Return the metric of one task: its own entry of a dict, its kind's, or the default."""
    if isinstance(metric, Mapping):
        return metric.get(task, metric.get(kind, DEFAULT_METRICS[kind]))
    return DEFAULT_METRICS[kind] if metric is None else metric


def check_keys(metric: Mapping[str, Metric], names: list[str]) -> None:
    """Raise where a dict of metrics names something that is neither a task nor a kind."""
    unknown = [key for key in metric if key not in names and key not in KINDS]
    if unknown:
        raise ValueError(
            f"Got metrics for {unknown}, expected task names among {names} or kinds of task "
            f"among {list(KINDS)}."
            + (did_you_mean(str(unknown[0]), [*names, *KINDS]) or " Rename or remove them.")
        )


def as_scorer(metric: Metric) -> Any:
    """Return scikit-learn's scorer object for a name, a scorer or a plain metric function."""
    if isinstance(metric, str):
        return get_scorer(metric)
    return metric if hasattr(metric, "_score_func") else make_scorer(metric)


def knows_weights(metric: Metric) -> bool:
    """Whether a metric takes sample weights."""
    return bool(as_scorer(metric)._accept_sample_weight())


def scorer_of_task(metric: Metric, task: str, kind: str, classes: NDArray[Any] | None) -> Any:
    """Return the scorer, told about the task's classes; raise where it does not fit the task."""
    check_metric(metric)
    if isinstance(metric, str):
        wanted = KINDS[metric in REGRESSION_NAMES]
        if wanted != kind:
            raise ValueError(
                f"Got metric {metric!r} for the {kind} task {task!r}, expected a {kind} metric. "
                "Give metrics by kind of task, such as "
                "{'classification': 'accuracy', 'regression': 'r2'}, or by task name."
            )
        if metric in TWO_CLASS_NAMES and classes is not None and len(classes) > 2:
            raise ValueError(
                f"Got metric {metric!r} for task {task!r} with {len(classes)} classes, expected "
                f"one for more than two. Use {TWO_CLASS_NAMES[metric]!r}."
            )
    scorer = as_scorer(metric)
    return scorer if classes is None else _with_classes(scorer, classes)


def _with_classes(scorer: Any, classes: NDArray[Any]) -> Any:
    """Tell a metric of probabilities which classes there are: the rows at hand may lack some."""
    function = scorer._score_func
    if scorer._response_method == "predict" or not function.__module__.startswith("sklearn."):
        return scorer
    known = signature(function).parameters
    extra: dict[str, Any] = {}
    if "labels" in known:
        extra["labels"] = classes
    if len(classes) == 2 and "pos_label" in known and known["pos_label"].default is None:
        extra["pos_label"] = classes[1]  # scikit-learn's positive class wherever it chooses one
    return make_scorer(
        function,
        response_method=scorer._response_method,
        greater_is_better=scorer._sign > 0,
        **{**extra, **scorer._kwargs},
    )


def why_undefined(scorer: Any, labels: NDArray[Any], classes: NDArray[Any] | None) -> str | None:
    """Return why the labels do not define the metric, in words, or None where they do."""
    name = getattr(scorer._score_func, "__name__", "")
    if len(labels) == 0:
        return "no labelled row (of positive weight)"
    if name in NEEDS_TWO_ROWS and len(labels) < 2:
        return "a single labelled row"
    if classes is None:
        return None
    present, known = set(labels.tolist()), set(classes.tolist())
    if scorer._response_method != "predict" and not present <= known:
        return f"labels {sorted(present - known)[:5]}, which the estimator never saw,"
    if name in NEEDS_TWO_CLASSES and len(present) < 2:
        return f"labels of one class, {next(iter(present))!r},"
    absent = sorted(_needed_classes(scorer, name, known) - present)
    return f"no label of class {absent[0]!r}" if absent else None


def _needed_classes(scorer: Any, name: str, known: set[Any]) -> set[Any]:
    """Return the classes without which the metric means nothing."""
    if name in NEEDS_EVERY_CLASS:
        return known
    if name in NEEDS_POSITIVE and scorer._kwargs.get("average", "binary") == "binary":
        return {scorer._get_pos_label()} & known
    return set()
