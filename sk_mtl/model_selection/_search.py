"""Grid and random search whose candidates and folds train as few stacked networks."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV

from sk_mtl._support import HalvingGridSearchCV, Interval, StrOptions
from sk_mtl.model_selection._engine import StackedSearch

_STACKING: dict[str, list[Any]] = {
    "max_stack": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")]
}


class VectorizedGridSearchCV(GridSearchCV, StackedSearch):
    """Grid search whose candidates and folds train as few stacked networks.

    To its user it is scikit-learn's ``GridSearchCV``: the same arguments, attributes and methods,
    and the same scores, since every network starts from the same weights and sees the same
    batches and dropout masks as it would alone. Candidates that differ in task weights,
    learning rate, ``alpha``, ``dropout``, ``random_state``, numbers of a loss (``loss__gamma``)
    or rules of stopping train side by side as one network, with their folds. Others train group
    by group; what cannot be stacked is fitted one by one, and ``search_report_`` says so.

    Parameters
    ----------
    estimator : estimator
        A multi-task estimator, or a :class:`~sklearn.pipeline.Pipeline` that ends in one. The
        steps before it are fitted once a fold, not once a candidate. Any other estimator is
        searched one fit after the other.
    param_grid : dict or list of dict
        Names of parameters and the values to try, as in ``GridSearchCV``.
        :func:`task_weight_grid` lists task weights worth trying.
    scoring : str, callable, list, tuple or dict, default=None
        As in ``GridSearchCV``. :func:`sk_mtl.metrics.make_multi_task_scorer` scores every task.
    n_jobs : int, default=None
        Number of stacks that joblib trains in parallel; None is 1, -1 all processors. With 1, a
        stack uses torch's threads.
    refit : bool, str or callable, default=True
        As in ``GridSearchCV``. A callable is given ``cv_results_`` and, beside it, the scores of
        the tasks as ``mean_test_<task>``: ``refit=Knee()`` takes the knee of the front.
    cv : int, splitter or iterable, default=None
        As in ``GridSearchCV``. Where labels are missing, which scikit-learn refuses to split or
        splits at random, a number stands for the folds of :class:`MultiTaskStratifiedKFold` (for
        regressors of ``KFold``).
    verbose : int, default=0
        Above 0 the number of fits is printed, above 1 a line for every fit.
    pre_dispatch : int or str, default="2*n_jobs"
        Number of stacks handed to joblib at a time.
    error_score : "raise" or number, default=numpy.nan
        Score of a fit that fails, such as one that diverges. Others in its stack are unharmed.
    return_train_score : bool, default=False
        Whether training rows are scored too.
    max_stack : "auto" or int, default="auto"
        Most networks in a stack. "auto" measures what one takes and stacks as many as the
        processor's cache serves well; at least 8, but no more than 64 MiB hold, unless one alone
        takes more. On a GPU as many as fit half its free memory. Each of ``n_jobs`` has a stack.

    Attributes
    ----------
    cv_results_ : dict of arrays
        As of ``GridSearchCV``. A fit's time is its share of its stack's.
    best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, refit_time_, \
multimetric_, classes_, n_features_in_, feature_names_in_
        As of ``GridSearchCV``.
    task_names_ : list of str
        The tasks.
    task_scores_ : ndarray of shape (n_candidates, n_tasks)
        Mean score of every task on the rows left out: of ``scoring`` if it names the tasks,
        otherwise accuracy or R2. A fold that defines no score of a task does not count there;
        NaN where a fit failed.
    pareto_front_ : ndarray of int
        The candidates that no other surpasses: none is as good in every task and better in one.
    search_report_ : dict of lists
        For every candidate whether it was trained ``"stacked"`` or ``"alone"``, the size of its
        stacks, the bytes that one network takes in its stack at most (tensors; what the C library
        and torch keep beside them comes on top), and the reason if it was alone.

    See Also
    --------
    VectorizedRandomizedSearchCV : Candidates drawn at random.
    task_weight_grid : Task weights that are spread evenly.
    Knee : The knee of the front as ``refit=``.

    Notes
    -----
    Early stopping, best weights and the clipping of gradients (by skorch's
    ``GradientNormClipping`` in ``callbacks``) are each network's own; one that is done leaves
    the stack. Other callbacks, weightings that need gradients, and ``verbose`` of the estimator
    follow one fit, so such estimators are fitted one by one.

    An interrupt (Ctrl-C) ends the search with what was scored so far: means, ranks and the front
    are over the folds that all candidates have, which is told. scikit-learn's own callbacks hear of
    the search's beginning and end.

    Scores equal those of ``GridSearchCV`` to the rounding of the numbers: in double precision
    about 1e-12, in single precision, where training amplifies rounding, about 1e-3 after many
    epochs. They are not those of ``GridSearchCV`` with ``random_state=None``.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_mtl import MultiTaskRegressor, VectorizedGridSearchCV
    >>> from sk_mtl.model_selection import task_weight_grid
    >>> X = np.linspace(-1, 1, 80).reshape(-1, 1)
    >>> Y = np.hstack([np.sin(3 * X), X**2])
    >>> model = MultiTaskRegressor(
    ...     n_members=1, hidden_layer_sizes=(8,), max_iter=1000, tol=0.01, random_state=0
    ... )
    >>> grid = {"task_weights": task_weight_grid(2, 3), "learning_rate_init": [0.01, 0.1]}
    >>> search = VectorizedGridSearchCV(model, grid, cv=4)
    >>> search = search.fit(X, Y)  # 8 candidates, 4 folds: one stack of 32 networks
    >>> search.search_report_["stack_size"]
    [32, 32, 32, 32, 32, 32, 32, 32]
    >>> search.best_params_["learning_rate_init"]
    0.01
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **GridSearchCV._parameter_constraints,
        **_STACKING,
    }

    def __init__(
        self,
        estimator: Any,
        param_grid: Any,
        *,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: int | str = "2*n_jobs",
        error_score: Any = np.nan,
        return_train_score: bool = False,
        max_stack: int | str = "auto",
    ) -> None:
        super().__init__(
            estimator,
            param_grid,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.max_stack = max_stack


class VectorizedRandomizedSearchCV(RandomizedSearchCV, StackedSearch):
    """Random search whose candidates and folds train as few stacked networks.

    To its user it is scikit-learn's ``RandomizedSearchCV``; otherwise as
    :class:`VectorizedGridSearchCV`, which says more.

    Parameters
    ----------
    estimator : estimator
        A multi-task estimator, or a pipeline that ends in one.
    param_distributions : dict or list of dict
        Names of parameters, and values or distributions with a method ``rvs``, as in
        ``RandomizedSearchCV``. :class:`TaskWeightDistribution` draws task weights.
    n_iter : int, default=10
        Number of candidates.
    scoring : str, callable, list, tuple or dict, default=None
        As in :class:`VectorizedGridSearchCV`.
    n_jobs : int, default=None
        Number of stacks that joblib trains in parallel.
    refit : bool, str or callable, default=True
        As in :class:`VectorizedGridSearchCV`.
    cv : int, splitter or iterable, default=None
        As in :class:`VectorizedGridSearchCV`.
    verbose : int, default=0
        Above 0 the number of fits is printed, above 1 a line for every fit.
    pre_dispatch : int or str, default="2*n_jobs"
        Number of stacks handed to joblib at a time.
    random_state : int, RandomState instance or None, default=None
        For the draws of candidates; an estimator's own ``random_state`` is for its training.
    error_score : "raise" or number, default=numpy.nan
        Score of a fit that fails.
    return_train_score : bool, default=False
        Whether training rows are scored too.
    max_stack : "auto" or int, default="auto"
        Most networks in a stack; see :class:`VectorizedGridSearchCV`.

    Attributes
    ----------
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, \
refit_time_, multimetric_, classes_, n_features_in_, feature_names_in_
        As of ``RandomizedSearchCV``.
    task_names_, task_scores_, pareto_front_, search_report_
        As of :class:`VectorizedGridSearchCV`.

    See Also
    --------
    VectorizedGridSearchCV : Every combination of values.
    TaskWeightDistribution : Random task weights.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.stats import loguniform
    >>> from sk_mtl import MultiTaskRegressor, VectorizedRandomizedSearchCV
    >>> from sk_mtl.model_selection import TaskWeightDistribution
    >>> X = np.linspace(-1, 1, 80).reshape(-1, 1)
    >>> Y = np.hstack([np.sin(3 * X), X**2])
    >>> model = MultiTaskRegressor(
    ...     n_members=1, hidden_layer_sizes=(8,), max_iter=1000, tol=0.01, random_state=0
    ... )
    >>> draws = {"task_weights": TaskWeightDistribution(2), "alpha": loguniform(1e-5, 1)}
    >>> search = VectorizedRandomizedSearchCV(model, draws, n_iter=6, cv=4, random_state=0)
    >>> search.fit(X, Y).search_report_["trained"]
    ['stacked', 'stacked', 'stacked', 'stacked', 'stacked', 'stacked']
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **RandomizedSearchCV._parameter_constraints,
        **_STACKING,
    }

    def __init__(
        self,
        estimator: Any,
        param_distributions: Any,
        *,
        n_iter: int = 10,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: int | str = "2*n_jobs",
        random_state: Any = None,
        error_score: Any = np.nan,
        return_train_score: bool = False,
        max_stack: int | str = "auto",
    ) -> None:
        super().__init__(
            estimator,
            param_distributions,
            n_iter=n_iter,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            random_state=random_state,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.max_stack = max_stack


class VectorizedHalvingGridSearchCV(HalvingGridSearchCV, StackedSearch):
    """Successive halving whose candidates and folds train as few stacked networks.

    To its user it is scikit-learn's ``HalvingGridSearchCV``: all candidates are trained on few
    resources, the best share of them on more, and so on. Every round is trained as
    :class:`VectorizedGridSearchCV` trains a grid, from the beginning.

    Parameters
    ----------
    estimator : estimator
        A multi-task estimator, or a pipeline that ends in one.
    param_grid : dict or list of dict
        Names of parameters and the values to try.
    factor : int or float, default=3
        One in so many candidates goes on to the next round.
    resource : str, default="n_samples"
        What grows from round to round; ``"max_iter"`` (in a pipeline ``"mtl__max_iter"``) is the
        number of epochs.
    max_resources : "auto" or int, default="auto"
        Resources of the last round; to be given unless the resource is ``"n_samples"``.
    min_resources : "exhaust", "smallest" or int, default="exhaust"
        Resources of the first round. With several tasks scikit-learn cannot find those of
        ``resource="n_samples"`` for a classifier: give a number.
    aggressive_elimination : bool, default=False
        Whether the first rounds are repeated until few enough candidates are left.
    cv : int, splitter or iterable, default=5
        As in :class:`VectorizedGridSearchCV`; the folds of all rounds have to be the same.
    scoring : str or callable, default=None
        As in :class:`VectorizedGridSearchCV`, but it has to give one number.
    refit : bool or callable, default=True
        Whether the best candidate of the last round is fitted on all rows.
    error_score : "raise" or number, default=numpy.nan
        Score of a fit that fails.
    return_train_score : bool, default=True
        Whether training rows are scored too.
    random_state : int, RandomState instance or None, default=None
        For the rows of a round where ``resource="n_samples"``.
    n_jobs : int, default=None
        Number of stacks that joblib trains in parallel.
    verbose : int, default=0
        Above 0 each round is reported.
    max_stack : "auto" or int, default="auto"
        Most networks in a stack; see :class:`VectorizedGridSearchCV`.

    Attributes
    ----------
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, \
refit_time_, classes_, n_features_in_, feature_names_in_, n_resources_, n_candidates_, \
n_remaining_candidates_, max_resources_, min_resources_, n_iterations_, n_possible_iterations_, \
n_required_iterations_
        As of ``HalvingGridSearchCV``.
    task_names_, task_scores_, pareto_front_, search_report_
        As of :class:`VectorizedGridSearchCV`, over the candidates of all rounds.

    See Also
    --------
    VectorizedGridSearchCV : All candidates to the end.

    Notes
    -----
    Networks do not go on where the last round left them, but begin again, as in scikit-learn, so
    that scores equal its. Stacks are as large as the cache serves, so most searches train
    several, one after the other; to go on, all of them would have to be kept.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_mtl import MultiTaskRegressor
    >>> from sk_mtl.model_selection import VectorizedHalvingGridSearchCV
    >>> X = np.linspace(-1, 1, 80).reshape(-1, 1)
    >>> Y = np.hstack([np.sin(3 * X), X**2])
    >>> model = MultiTaskRegressor(
    ...     n_members=1, hidden_layer_sizes=(8,), n_iter_no_change=1, tol=1, random_state=0
    ... )
    >>> grid = {"learning_rate_init": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]}
    >>> search = VectorizedHalvingGridSearchCV(
    ...     model, grid, resource="max_iter", max_resources=9, cv=4
    ... ).fit(X, Y)
    >>> search.n_candidates_, search.n_resources_
    ([6, 2], [3, 9])
    """

    _one_score = True
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **HalvingGridSearchCV._parameter_constraints,
        **_STACKING,
    }

    def __init__(
        self,
        estimator: Any,
        param_grid: Any,
        *,
        factor: float = 3,
        resource: str = "n_samples",
        max_resources: int | str = "auto",
        min_resources: int | str = "exhaust",
        aggressive_elimination: bool = False,
        cv: Any = 5,
        scoring: Any = None,
        refit: Any = True,
        error_score: Any = np.nan,
        return_train_score: bool = True,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        max_stack: int | str = "auto",
    ) -> None:
        super().__init__(
            estimator,
            param_grid,
            factor=factor,
            resource=resource,
            max_resources=max_resources,
            min_resources=min_resources,
            aggressive_elimination=aggressive_elimination,
            cv=cv,
            scoring=scoring,
            refit=refit,
            error_score=error_score,
            return_train_score=return_train_score,
            random_state=random_state,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.max_stack = max_stack
