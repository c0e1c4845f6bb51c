"""The grid of task weights is even and complete; random weights follow their distribution."""

from __future__ import annotations

import itertools
import pickle
from decimal import Decimal
from fractions import Fraction
from math import comb

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from scipy import stats
from sklearn.base import clone
from sklearn.model_selection import (
    GridSearchCV,
    ParameterGrid,
    ParameterSampler,
    RandomizedSearchCV,
)

from sk_mtl.estimators import MultiTaskRegressor
from sk_mtl.model_selection._weights import TaskWeightDistribution, task_weight_grid

NAMES = ["default", "churn"]


def draws(n, *args, seed=0, **kwargs):
    """Return an array of shape (n, n_tasks)."""
    return np.array(TaskWeightDistribution(*args, **kwargs).rvs(n, random_state=seed))


def round_by_hand(shares, n_units):
    """Largest remainders in exact fractions."""
    exact = [Fraction(float(s)) * n_units for s in shares]
    units = [int(e) for e in exact]
    while sum(units) < n_units:
        short = [e - u for e, u in zip(exact, units, strict=True)]
        units[short.index(max(short))] += 1
    return units


def numpy_dirichlet(concentration, n, seed=0):
    return np.random.default_rng(seed).dirichlet(concentration, n)


class TestGrid:
    def test_by_hand(self):
        assert task_weight_grid(2, 3) == [(0, 3), (1, 2), (2, 1), (3, 0)]
        assert task_weight_grid(3, 1) == [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
        assert task_weight_grid(3, 4, minimum=1) == [(1, 1, 2), (1, 2, 1), (2, 1, 1)]
        assert task_weight_grid(1, 4) == [(4,)]
        assert task_weight_grid(2, 4, minimum=2) == [(2, 2)]

    @pytest.mark.parametrize("minimum", [0, 1, 2])
    @pytest.mark.parametrize(("n_tasks", "resolution"), [(1, 5), (2, 7), (3, 6), (4, 9), (5, 10)])
    def test_is_every_tuple_of_that_sum_in_lexicographic_order(self, n_tasks, resolution, minimum):
        every = itertools.product(range(minimum, resolution + 1), repeat=n_tasks)
        expected = [point for point in every if sum(point) == resolution]
        points = task_weight_grid(n_tasks, resolution, minimum=minimum)
        assert points == expected == sorted(expected)
        assert len(points) == comb(resolution - n_tasks * minimum + n_tasks - 1, n_tasks - 1)

    def test_no_two_points_have_the_same_ratios(self):
        """Negative control: all tuples up to the same number have some twice."""
        points = task_weight_grid(3, 6)
        ratios = {tuple(Fraction(w, sum(p)) for w in p) for p in points}
        assert len(ratios) == len(points)
        box = [p for p in itertools.product(range(7), repeat=3) if any(p)]
        assert len({tuple(Fraction(w, sum(p)) for w in p) for p in box}) < len(box)

    def test_is_as_large_as_the_docstring_says(self):
        sizes = [len(task_weight_grid(n, 10)) for n in (2, 3, 4, 6, 8)]
        assert [f"{n:,}" for n in sizes] == ["11", "66", "286", "3,003", "19,448"]
        assert "11 66 286 3,003 19,448" in task_weight_grid.__doc__

    def test_a_minimum_of_one_trains_every_task(self):
        assert any(0 in point for point in task_weight_grid(3, 5))
        assert not any(0 in point for point in task_weight_grid(3, 5, minimum=1))

    def test_named_tasks_are_the_same_points_by_name(self):
        names = ["c", "a", "b"]
        points = task_weight_grid(names, 5, minimum=1)
        assert [tuple(p.values()) for p in points] == task_weight_grid(3, 5, minimum=1)
        assert all(list(p) == names for p in points)
        assert task_weight_grid(pd.Index(names), np.int64(5), minimum=np.int64(1)) == points

    def test_weights_are_plain_ints(self):
        for point in task_weight_grid(np.int64(3), np.int64(4), minimum=np.int64(1)):
            assert all(type(weight) is int for weight in point)

    @pytest.mark.parametrize(
        ("args", "minimum", "message"),
        [
            ((0, 4), 0, r"^Got tasks=0, expected a whole number of at least 1\. Pass an int\.$"),
            ((True, 4), 0, "^Got tasks=True, expected a whole number"),
            ((2.0, 4), 0, r"^Got tasks=2\.0, expected task names"),
            (("churn", 4), 0, "^Got tasks='churn', expected task names. Pass a list"),
            (([], 4), 0, r"^Got tasks=\[\], expected task names"),
            (([1, 2], 4), 0, r"^Got tasks=\[1, 2\], expected task names"),
            ((["a", ""], 4), 0, r"^Got tasks=\['a', ''\], expected task names"),
            (({"a", "b"}, 4), 0, "expected task names"),
            ((["a", "b", "a"], 4), 0, r"with \['a'\] more than once, expected distinct names"),
            ((2, 0), 0, "^Got resolution=0, expected a whole number of at least 1"),
            ((2, 2.5), 0, r"^Got resolution=2\.5, expected a whole number"),
            ((2, 4), -1, "^Got minimum=-1, expected a whole number of at least 0"),
            ((2, 4), 0.5, r"^Got minimum=0\.5, expected a whole number"),
            ((3, 5), 2, "^Got resolution=5 for 3 tasks with minimum=2, expected at least 6"),
            ((20, 20), 0, "which makes 68,923,264,410 points, expected at most 1,000,000"),
        ],
    )
    def test_bad_arguments_are_refused(self, args, minimum, message):
        with pytest.raises(ValueError, match=message):
            task_weight_grid(*args, minimum=minimum)


class TestDistribution:
    @pytest.mark.parametrize("concentration", [(1, 1), (1, 1, 1), (0.3, 0.3), (2, 0.5, 5, 1)])
    def test_each_weight_is_beta_distributed(self, concentration):
        """The marginals of a Dirichlet; negative control: another concentration is told apart."""
        got = draws(4000, len(concentration), concentration, decimals=12)
        for t, own in enumerate(concentration):
            rest = sum(concentration) - own
            assert stats.kstest(got[:, t], stats.beta(own, rest).cdf).pvalue > 1e-3
            assert stats.kstest(got[:, t], stats.beta(own * 1.5, rest).cdf).pvalue < 1e-6

    def test_weights_vary_together_as_numpys_do(self):
        """Independent reference: numpy.random.Generator.dirichlet."""
        concentration = (2.0, 0.5, 5.0)
        got, reference = draws(20_000, 3, concentration), numpy_dirichlet(concentration, 20_000)
        assert_allclose(got.mean(axis=0), reference.mean(axis=0), atol=0.01)
        assert_allclose(np.cov(got.T), np.cov(reference.T), atol=0.002)
        products = [np.mean(a[:, 0] * a[:, 1] * a[:, 2]) for a in (got, reference)]
        assert_allclose(*products, rtol=0.05)

    def test_the_mean_follows_the_concentration(self):
        got = draws(5000, 3, (2, 4, 2))
        assert_allclose(got.mean(axis=0), [0.25, 0.5, 0.25], atol=0.01)

    @pytest.mark.parametrize("concentration", [1e-6, 1e-3, 1e-2])
    def test_a_small_concentration_draws_corners(self, concentration):
        """Negative control: the draws of numpy's RandomState underflow to NaN."""
        got = draws(300, 3, concentration)
        assert np.isclose(got.max(axis=1), 1, atol=0.05).mean() > 0.9
        assert set(got.argmax(axis=1)) == {0, 1, 2}
        theirs = np.random.RandomState(0).dirichlet([1e-4] * 3, 300)
        assert np.isnan(theirs).any()
        assert not np.isnan(got).any()

    def test_a_large_concentration_draws_the_mean(self):
        assert_allclose(draws(50, 4, 1e6), 0.25, atol=0.003)

    @pytest.mark.parametrize("decimals", [1, 2, 3, 12])
    @pytest.mark.parametrize("n_tasks", [1, 2, 3, 7, 30])
    def test_printed_weights_sum_to_one(self, n_tasks, decimals):
        """Negative control: rounding each weight alone misses it."""
        for concentration in (0.01, 1, 100):
            got = draws(40, n_tasks, concentration, decimals=decimals)
            for weights in got.tolist():
                printed = [Decimal(repr(weight)) for weight in weights]
                assert sum(printed) == 1
                assert all(w >= 0 and -w.as_tuple().exponent <= decimals for w in printed)
        if n_tasks > 2 and decimals < 12:
            shares = numpy_dirichlet(np.ones(n_tasks), 40).round(decimals)
            assert (np.abs(shares.sum(axis=1) - 1) > 1e-9).any()

    @pytest.mark.parametrize("decimals", [1, 3, 6])
    def test_rounds_by_largest_remainders(self, decimals):
        rounded = draws(200, 5, 0.7, decimals=decimals)
        shares = draws(200, 5, 0.7, decimals=12)
        expected = [round_by_hand(row, 10**decimals) for row in shares]
        assert_array_equal(np.round(rounded * 10**decimals).astype(int), expected)

    def test_a_single_draw_is_a_candidate_and_more_are_a_list(self):
        by_name, by_number = TaskWeightDistribution(NAMES), TaskWeightDistribution(2)
        one = by_name.rvs(random_state=3)
        assert list(one) == NAMES
        assert all(type(weight) is float for weight in one.values())
        assert by_number.rvs(random_state=3) == tuple(one.values())
        assert by_name.rvs(1, random_state=3) == [one]
        assert by_name.rvs(size=0, random_state=3) == []

    def test_a_list_is_so_many_single_draws(self):
        weights = TaskWeightDistribution(3, (1, 2, 3))
        rng = np.random.RandomState(5)
        assert weights.rvs(4, 5) == [weights.rvs(random_state=rng) for _ in range(4)]
        assert weights.rvs(4, 5) != weights.rvs(4, 6)

    def test_without_a_seed_numpys_global_state_is_used_and_with_one_it_is_left_alone(self):
        weights = TaskWeightDistribution(2)
        before = np.random.get_state()  # noqa: NPY002
        try:
            np.random.seed(7)  # noqa: NPY002
            start = np.random.get_state()[1].copy()  # noqa: NPY002
            seeded = weights.rvs(random_state=7)
            assert_array_equal(np.random.get_state()[1], start)  # noqa: NPY002
            assert weights.rvs() == seeded
        finally:
            np.random.set_state(before)  # noqa: NPY002

    @pytest.mark.parametrize(
        ("weights", "text"),
        [
            (TaskWeightDistribution(NAMES), "TaskWeightDistribution(['default', 'churn'])"),
            (
                TaskWeightDistribution(NAMES, 2),
                "TaskWeightDistribution(['default', 'churn'], concentration=2.0)",
            ),
            (
                TaskWeightDistribution(NAMES, {"churn": 2}),
                "TaskWeightDistribution(['default', 'churn'], "
                "concentration={'default': 1.0, 'churn': 2.0})",
            ),
            (
                TaskWeightDistribution(2, [1, 2], decimals=2),
                "TaskWeightDistribution(2, concentration=(1.0, 2.0), decimals=2)",
            ),
        ],
    )
    def test_is_a_value(self, weights, text):
        assert repr(weights) == text
        for same in (eval(text), pickle.loads(pickle.dumps(weights)), clone(weights, safe=False)):
            assert same == weights
            assert hash(same) == hash(weights)
            assert same.rvs(3, 0) == weights.rvs(3, 0)

    def test_what_differs_is_not_equal(self):
        weights = TaskWeightDistribution(NAMES)
        assert weights == TaskWeightDistribution(tuple(NAMES), [1.0, 1.0])
        others = [
            TaskWeightDistribution(2),
            TaskWeightDistribution(NAMES[::-1]),
            TaskWeightDistribution(NAMES, 2),
            TaskWeightDistribution(NAMES, decimals=2),
            repr(weights),
        ]
        assert not any(weights == other for other in others)

    @pytest.mark.parametrize(
        ("args", "options", "message"),
        [
            ((0,), {}, "^Got tasks=0, expected a whole number of at least 1"),
            ((["a", "a"],), {}, "more than once, expected distinct names"),
            ((2, 0), {}, r"^Got concentration=0, expected numbers from 1e-06 to 1e\+06\. Pass"),
            ((2, -1.0), {}, r"^Got concentration=-1\.0, expected numbers"),
            ((2, np.nan), {}, "^Got concentration=nan, expected numbers"),
            ((2, [1, np.inf]), {}, r"^Got concentration=\[1, inf\], expected numbers"),
            ((2, "high"), {}, "^Got concentration='high', expected numbers"),
            ((2, None), {}, "^Got concentration=None, expected numbers"),
            ((2, [1, 2, 3]), {}, "^Got concentration of length 3, expected 2"),
            ((NAMES, {"chrun": 2}), {}, "^Got concentration for unknown .* Did you mean 'churn'"),
            ((2,), {"decimals": 0}, "^Got decimals=0, expected a whole number from 1 to 12"),
            ((2,), {"decimals": 13}, "^Got decimals=13, expected a whole number from 1 to 12"),
        ],
    )
    def test_bad_arguments_are_refused(self, args, options, message):
        with pytest.raises(ValueError, match=message):
            TaskWeightDistribution(*args, **options)

    @pytest.mark.parametrize("size", [-1, 2.0, (2, 3)])
    def test_a_bad_size_is_refused(self, size):
        with pytest.raises(ValueError, match="expected a whole number of at least 0"):
            TaskWeightDistribution(2).rvs(size)


class TestSearches:
    @pytest.mark.parametrize("tasks", [2, ["task0", "task1"]])
    def test_a_grid_search_tries_every_point(self, tasks):
        grid = task_weight_grid(tasks, 3, minimum=1)
        assert [p["w"] for p in ParameterGrid({"w": grid})] == grid
        search = self.fit(GridSearchCV, {"task_weights": grid})
        assert list(search.cv_results_["param_task_weights"]) == grid
        assert search.best_estimator_.task_weights == search.best_params_["task_weights"]

    @pytest.mark.parametrize("tasks", [2, ["task0", "task1"]])
    def test_a_random_search_draws_and_draws_again(self, tasks):
        weights = TaskWeightDistribution(tasks, concentration=3.0)
        space = {"task_weights": weights, "alpha": [0.0, 1.0]}
        first = list(ParameterSampler(space, n_iter=4, random_state=0))
        assert first == list(ParameterSampler(space, n_iter=4, random_state=0))
        assert len({str(p["task_weights"]) for p in first}) == 4
        search = self.fit(RandomizedSearchCV, space, n_iter=2, random_state=0)
        assert search.cv_results_["params"] == first[:2]

    def test_a_search_clones_and_prints(self):
        weights = TaskWeightDistribution(NAMES, concentration=2.0)
        search = RandomizedSearchCV(plain(MultiTaskRegressor), {"task_weights": weights})
        copy = clone(search)
        assert copy.param_distributions == search.param_distributions
        assert repr(weights) in " ".join(repr(copy).split())

    @staticmethod
    def fit(search, space, **options):
        rng = np.random.default_rng(0)
        X, Y = rng.normal(size=(40, 2)), rng.normal(size=(40, 2))
        model = plain(MultiTaskRegressor, max_iter=1, hidden_layer_sizes=(4,), random_state=0)
        with pytest.warns(UserWarning, match="[Cc]onverge"):
            return clone(search(model, space, cv=2, **options)).fit(X, Y)
