"""Did sharing help: every task's score with it and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state, indexable

from sk_mtl.metrics._scorers import MultiTaskScorer
from sk_mtl.model_selection import MultiTaskStratifiedKFold
from sk_mtl.model_selection._jobs import Chunk
from sk_mtl.model_selection._scoring import Scoring
from sk_mtl.model_selection._stage import Data, last_step, stage_fold
from sk_mtl.relations._parts import check_shares, network_of
from sk_mtl.relations._result import MultiTaskGain
from sk_mtl.relations._runs import is_loss, resolve_scoring, train_and_score
from sk_mtl.relations._statistics import corrected_interval, mean_over_folds, unit_of
from sk_mtl.targets import Targets, read_targets

Folds = list[tuple[NDArray[np.intp], NDArray[np.intp]]]
N_SPLITS, N_REPEATS = 5, 5


def multi_task_gain(
    estimator: Any,
    X: Any,
    Y: Any,
    *,
    cv: Any = None,
    n_repeats: int | None = None,
    scoring: Any = None,
    confidence: float = 0.95,
    n_jobs: int | None = None,
    random_state: Any = None,
    params: Mapping[str, Any] | None = None,
) -> MultiTaskGain:
    """Compare every task's score with sharing to that of a network of its own.

    The estimator and its twin of ``trunk="single_task"`` (with constant weights, as each task's
    own fit would have, no ``penalty`` and no ``task_dependencies``) are trained on the same folds
    from the same seeds, and scored on the rows left out. Networks of all folds and repeats train
    side by side, as in the searches.

    Parameters
    ----------
    estimator : estimator
        A multi-task estimator whose tasks share something, a :class:`TaskGrouper` of one, or a
        pipeline that ends in either. It is cloned.
    X : array-like or frame of shape (n_samples, n_features)
        Rows.
    Y : array-like or frame of shape (n_samples, n_tasks)
        Labels; NaN, None and NA are missing.
    cv : int, splitter or iterable, default=None
        None is 5. A number stands for
        :class:`~sk_mtl.model_selection.MultiTaskStratifiedKFold`, shuffled anew in every repeat;
        the folds of a splitter are taken as they are, all of them.
    n_repeats : int, default=None
        How often a number of folds is drawn; None is 5. More of them narrow the intervals, but
        not beyond what the rows allow.
    scoring : str, callable, dict or multi-task scorer, default=None
        Metrics as for :func:`~sk_mtl.metrics.make_multi_task_scorer`. None is accuracy for
        classes and R2 for amounts.
    confidence : float, default=0.95
        Confidence level of each interval.
    n_jobs : int, default=None
        Number of stacks that joblib trains in parallel.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds; and of the networks, one a repeat, where the estimator has no
        ``random_state``. With one, all networks begin equal, and the intervals do not tell how
        much the initial values matter.
    params : dict, default=None
        Parameters of ``fit``; those with a value for every row are cut to the fold.

    Returns
    -------
    MultiTaskGain
        Scores, gains and intervals, task by task and as one number. Printed, it says in words
        where sharing helps and what to do where it does not.

    Raises
    ------
    ValueError
        If the tasks share nothing, there is but one, or an argument is not admissible.

    See Also
    --------
    task_affinity : Which tasks help which.
    TaskGrouper : Groups of tasks that help one another.

    Notes
    -----
    The interval is that of the corrected resampled t-test [1]_: the differences over J folds have
    the variance (1/J + n_test/n_train) S2, S2 being their sample variance, and J - 1 degrees of
    freedom. Each interval is for its task alone: of twenty tasks that gain nothing, one is
    expected to seem to at a confidence of 0.95.

    A task's relative gain is its gain over its score without sharing, losses with the sign that
    makes a lower one a gain; their mean over the tasks is the multi-task performance Delta_m
    [2]_. It is not defined, and NaN, where the score without sharing is zero or below (R2 may
    be). The interval of Delta_m takes the scores without sharing, in its denominators, for known.

    References
    ----------
    .. [1] C. Nadeau, Y. Bengio, "Inference for the Generalization Error", Machine Learning 52,
       2003, 239-281. :doi:`10.1023/A:1024068626366`
    .. [2] K.-K. Maninis, I. Radosavovic, I. Kokkinos, "Attentive Single-Tasking of Multiple
       Tasks", CVPR 2019, equation 4. :arxiv:`1904.08918`

    Examples
    --------
    >>> import numpy as np
    >>> from sk_mtl import MultiTaskRegressor
    >>> from sk_mtl.relations import multi_task_gain
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 40))
    >>> Y = X[:, :1] + rng.normal(size=(300, 8))  # eight noisy views of the first feature
    >>> model = MultiTaskRegressor(
    ...     n_members=1, embedding=None, input_scale_rate=0, hidden_layer_sizes=(8,),
    ...     max_iter=500, learning_rate_init=0.05, tol=0.003, n_iter_no_change=3, random_state=0,
    ... )
    >>> gain = multi_task_gain(model, X, Y, cv=4, n_repeats=2, random_state=0)
    >>> set(gain.verdicts)
    {'helps'}
    """
    _check(confidence, n_repeats, cv)
    X, Y = indexable(X, Y)
    targets = read_targets(Y)
    check_shares(_ungrouped(estimator), len(targets))
    random = check_random_state(random_state)
    folds, repeat_of = _folds(cv, n_repeats, X, Y, random)
    scorer = resolve_scoring(scoring)
    seeds = random.randint(2**31 - 1, size=repeat_of[-1] + 1)
    data = Data(X, Y, dict(params or {}), {})
    with_sharing, alone = (
        _fold_scores(each, data, folds, seeds[repeat_of], scorer, targets.task_names, n_jobs)
        for each in (estimator, without_sharing(estimator))
    )
    ratio = float(np.mean([len(test) / len(train) for train, test in folds]))
    losses = _losses(estimator, scorer, targets)
    return summarise(
        with_sharing, alone, ratio, confidence, losses, targets.task_names, _name(estimator)
    )


def summarise(
    with_sharing: NDArray[np.float64],
    alone: NDArray[np.float64],
    test_to_train: float,
    confidence: float,
    is_loss: NDArray[np.bool_],
    names: Sequence[str],
    described: str = "sharing",
) -> MultiTaskGain:
    """Return the result, given scores of shape (n_folds, n_tasks) with sharing and without."""
    differences = with_sharing - alone  # (fold, task)
    intervals = [corrected_interval(d, test_to_train, confidence) for d in differences.T]
    baseline = mean_over_folds(alone)
    unit = unit_of(baseline, is_loss)
    gain = mean_over_folds(differences)
    relative = gain / unit
    # Maninis et al. 2019, eq. 4; NaN, rather than the mean of the others, if a task has none
    of_folds = (differences / unit).mean(axis=1)
    low, high = corrected_interval(of_folds, test_to_train, confidence)
    return MultiTaskGain(
        task_names=list(names),
        scores=mean_over_folds(with_sharing),
        single_task_scores=baseline,
        gain=gain,
        gain_interval=np.array(intervals),
        relative_gain=relative,
        mean_relative_gain=float(relative.mean()),
        mean_relative_gain_interval=(low, high),
        fold_scores=with_sharing,
        single_task_fold_scores=alone,
        confidence=float(confidence),
        described=described,
    )


def _check(confidence: Any, n_repeats: Any, cv: Any) -> None:
    """Raise where an argument is not admissible."""
    if not isinstance(confidence, Real) or not 0 < float(confidence) < 1:
        raise ValueError(
            f"Got confidence={confidence!r}, expected a number between 0 and 1. Use 0.95."
        )
    if n_repeats is None:
        return
    if not isinstance(n_repeats, Integral) or isinstance(n_repeats, bool) or n_repeats < 1:
        raise ValueError(
            f"Got n_repeats={n_repeats!r}, expected a whole number of at least 1. Leave it out "
            f"for {N_REPEATS}."
        )
    if cv is not None and not isinstance(cv, Integral):
        raise ValueError(
            f"Got n_repeats={n_repeats} with cv={cv!r}, whose folds are taken as they are, "
            "expected a number of folds. Pass cv=5, or a splitter that repeats itself."
        )


def _folds(
    cv: Any, n_repeats: int | None, X: Any, Y: Any, random: np.random.RandomState
) -> tuple[Folds, NDArray[np.intp]]:
    """Return the folds of all repeats, and the repeat that each is of."""
    if cv is not None and not isinstance(cv, Integral):
        folds = list(check_cv(cv).split(X, Y))
        return folds, np.zeros(len(folds), dtype=np.intp)
    n_splits = N_SPLITS if cv is None else int(cv)
    repeats = N_REPEATS if n_repeats is None else int(n_repeats)
    drawn = [
        fold
        for seed in random.randint(2**31 - 1, size=repeats)
        for fold in MultiTaskStratifiedKFold(n_splits, random_state=int(seed)).split(X, Y)
    ]
    return drawn, np.repeat(np.arange(repeats), n_splits)


def _ungrouped(estimator: Any) -> Any:
    """Return an estimator without the grouping of its tasks."""
    if isinstance(estimator, Pipeline):
        name, final = estimator.steps[-1]
        return clone(estimator).set_params(**{name: _ungrouped(final)})
    if hasattr(estimator, "_groups_tasks"):
        return _ungrouped(estimator.estimator)
    return estimator


def without_sharing(estimator: Any) -> Any:
    """Return the estimator's twin whose tasks have networks of their own."""
    twin = clone(_ungrouped(estimator))
    prefix = network_of(twin)[1]
    own: dict[str, Any] = {"trunk": "single_task", "weighting": "static"}
    own |= dict.fromkeys(("task_weights", "penalty", "task_dependencies"))
    return twin.set_params(**{f"{prefix}{name}": value for name, value in own.items()})


def _fold_scores(
    estimator: Any,
    data: Data,
    folds: Folds,
    seeds: NDArray[Any],
    scorer: MultiTaskScorer,
    names: Sequence[str],
    n_jobs: int | None,
) -> NDArray[np.float64]:
    """Return the scores of shape (n_folds, n_tasks) of an estimator."""
    final, prefix = network_of(estimator)
    jobs = []
    for fold, seed in enumerate(seeds.tolist()):
        own = {f"{prefix}random_state": seed} if final.random_state is None else {}
        jobs.append((0, fold, own))
    chunk = Chunk(
        estimator, data, dict(enumerate(folds)), jobs, Scoring(scorer, False, "raise", 0), 1
    )
    if isinstance(estimator, Pipeline):  # here, as joblib's threads may not fit its steps
        chunk.stages = {
            (fold, ()): stage_fold(estimator, {}, data, *rows) for fold, rows in enumerate(folds)
        }
    outcomes = train_and_score(chunk, n_jobs)
    return np.array([[o.task_scores[name] for name in names] for o in outcomes])


def _losses(estimator: Any, scorer: MultiTaskScorer, targets: Targets) -> NDArray[np.bool_]:
    """Return of every task whether its score is a loss."""
    final, _ = network_of(estimator)
    kinds = final._kinds(targets, targets.task_names)
    pairs = zip(targets.task_names, kinds, strict=True)
    return np.array([is_loss(scorer, name, kind) for name, kind in pairs])


def _name(estimator: Any) -> str:
    """Return what shares, in words."""
    final, _ = network_of(estimator)
    grouped = hasattr(last_step(estimator), "_groups_tasks")
    return f"trunk={final.trunk!r}" + (" in groups" if grouped else "")
