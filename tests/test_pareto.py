"""The front, its volume and the points chosen from it, against slow and obvious versions."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from fakes import LinearTasks
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sk_mtl.metrics import make_multi_task_scorer
from sk_mtl.model_selection._pareto import (
    Knee,
    closest_to_preference,
    hypervolume,
    knee_index,
    non_dominated,
)

SHAPES = [(1, 1), (7, 1), (30, 2), (30, 3), (40, 5), (25, 8)]


def draw(n, n_tasks, seed=0, levels=4):
    """Return scores with many ties: whole numbers."""
    return np.random.default_rng(seed).integers(0, levels, (n, n_tasks)).astype(float)


def draw_front(n, n_tasks, seed=0):
    """Return points of a sphere: none beats another."""
    points = np.abs(np.random.default_rng(seed).normal(size=(n, n_tasks)))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def slow_front(scores):
    """The definition, pair by pair."""
    return [
        not any((other >= one).all() and (other > one).any() for other in scores) for one in scores
    ]


def volume_by_inclusion_exclusion(points, reference):
    """What boxes cover together, from what each subset of them has in common."""
    boxes = [np.maximum(np.subtract(p, reference), 0) for p in points]
    total = 0.0
    for size in range(1, len(boxes) + 1):
        for subset in itertools.combinations(boxes, size):
            total -= (-1) ** size * np.min(subset, axis=0).prod()
    return total


def volume_by_cells(points, reference):
    """Cut space at every coordinate and add up the cells that a point dominates."""
    edges = [np.unique([r, *points[points[:, t] > r, t]]) for t, r in enumerate(reference)]
    tops = np.stack(np.meshgrid(*[e[1:] for e in edges], indexing="ij"), axis=-1)
    sizes = np.stack(np.meshgrid(*[np.diff(e) for e in edges], indexing="ij"), axis=-1)
    covered = (points[:, None] >= tops.reshape(1, -1, len(reference))).all(axis=-1).any(axis=0)
    return sizes.reshape(-1, len(reference)).prod(axis=1)[covered].sum()


class TestNonDominated:
    @pytest.mark.parametrize(("n", "n_tasks"), SHAPES)
    @pytest.mark.parametrize("levels", [2, 4, 1000])
    def test_is_the_definition(self, n, n_tasks, levels):
        for seed in range(5):
            scores = draw(n, n_tasks, seed, levels)
            assert non_dominated(scores).tolist() == slow_front(scores)

    def test_by_hand(self):
        scores = [[3, 1], [1, 3], [2, 2], [2, 2], [2, 1], [1, 1], [3, 0]]
        assert non_dominated(scores).tolist() == [True, True, True, True, False, False, False]

    def test_all_of_a_sphere_is_front_and_its_centre_is_not(self):
        scores = np.vstack([draw_front(2000, 8), np.zeros(8)])
        assert non_dominated(scores).tolist() == [True] * 2000 + [False]

    def test_rows_with_nan_are_out_and_beat_nothing(self):
        scores = draw(30, 3)
        failed = np.full((2, 3), np.nan)
        failed[1, :2] = 100.0
        front = non_dominated(np.vstack([failed, scores]))
        assert front.tolist() == [False, False, *slow_front(scores)]

    def test_infinite_scores_are_compared_like_others(self):
        scores = [[np.inf, 0], [0, 1], [-np.inf, 2], [-np.inf, 1]]
        assert non_dominated(scores).tolist() == [True, True, True, False]

    def test_order_of_rows_and_tasks_does_not_matter(self):
        scores, rng = draw(60, 4), np.random.default_rng(1)
        rows, tasks = rng.permutation(60), rng.permutation(4)
        assert_array_equal(non_dominated(scores[rows][:, tasks]), non_dominated(scores)[rows])

    def test_no_points(self):
        assert non_dominated(np.empty((0, 3))).tolist() == []
        assert non_dominated(np.full((2, 3), np.nan)).tolist() == [False, False]

    @pytest.mark.parametrize("scores", [[1, 2], 3.0, np.empty((2, 0)), np.zeros((2, 2, 2))])
    def test_what_is_no_table_is_refused(self, scores):
        with pytest.raises(ValueError, match=r"^Got scores of shape .*, expected \(n_points"):
            non_dominated(scores)

    def test_words_are_refused(self):
        with pytest.raises(ValueError, match=r"^Got scores=.*, expected numbers\. Pass an array"):
            non_dominated([["good", "bad"]])


class TestHypervolume:
    @pytest.mark.parametrize(
        ("points", "reference", "volume"),
        [
            ([[3.0]], [1.0], 2.0),
            ([[3, 1], [2, 2], [1, 3]], [0, 0], 6.0),
            ([[3, 1], [2, 2], [1, 3]], [1, 1], 1.0),  # the ends no longer rise above it
            ([[2, 1, 1], [1, 2, 1], [1, 1, 2]], [0, 0, 0], 4.0),  # a cube and three on its sides
            ([[2, 2, 1], [1, 1, 3]], [0, 0, 0], 4 + 3 - 1),
            ([[1, 1, 1, 2], [2, 2, 2, 1]], [0, 0, 0, 0], 2 + 8 - 1),
        ],
    )
    def test_by_hand(self, points, reference, volume):
        assert hypervolume(points, reference) == volume

    @pytest.mark.parametrize("n_tasks", [1, 2, 3, 4, 5, 6])
    @pytest.mark.parametrize("n", [1, 2, 6])
    def test_is_inclusion_and_exclusion(self, n, n_tasks):
        for seed in range(5):
            points = np.random.default_rng(seed).normal(size=(n, n_tasks)) + 1
            reference = np.linspace(-0.5, 0.5, n_tasks)
            expected = volume_by_inclusion_exclusion(points, reference)
            assert_allclose(hypervolume(points, reference), expected, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize(("n", "n_tasks"), [(40, 2), (25, 3), (12, 4), (7, 5)])
    def test_is_the_sum_of_dominated_cells(self, n, n_tasks):
        """More points than inclusion and exclusion can take; all on the front, and with ties."""
        for seed in range(3):
            for points in (draw_front(n, n_tasks, seed), draw(n, n_tasks, seed, levels=6)):
                expected = volume_by_cells(points, np.zeros(n_tasks))
                assert_allclose(hypervolume(points, np.zeros(n_tasks)), expected, rtol=1e-10)

    def test_is_the_share_of_random_points_that_are_dominated(self):
        points = draw_front(40, 6)
        probes = np.random.default_rng(1).uniform(size=(50_000, 6))
        share = (points[:, None] >= probes).all(axis=-1).any(axis=0).mean()
        sigma = np.sqrt(share * (1 - share) / 50_000)
        assert abs(hypervolume(points, np.zeros(6)) - share) < 4 * sigma

    @pytest.mark.parametrize("n_tasks", [1, 2, 3, 5])
    def test_only_the_front_counts_and_its_order_does_not(self, n_tasks):
        points, rng = draw_front(15, n_tasks), np.random.default_rng(0)
        reference = np.full(n_tasks, 0.01)
        volume = hypervolume(points, reference)
        beaten = points * rng.uniform(0.1, 0.9, size=points.shape)
        failed = np.full((1, n_tasks), np.nan)
        more = rng.permutation(np.vstack([points, points[:3], beaten, failed]))
        assert hypervolume(more, reference) == volume
        better = np.vstack([points, points[:1] + 0.01])
        assert hypervolume(better, reference) > volume  # negative control

    def test_order_of_tasks_does_not_matter(self):
        points = draw_front(15, 4)
        for tasks in itertools.permutations(range(4)):
            moved = hypervolume(points[:, tasks], np.zeros(4))
            assert_allclose(moved, hypervolume(points, np.zeros(4)), rtol=1e-12)

    def test_points_not_above_the_reference_add_nothing(self):
        points = [[2.0, 2.0], [9.0, 1.0], [9.0, 0.5], [-np.inf, 9.0], [np.inf, 1.0]]
        assert hypervolume(points, [1, 1]) == 1.0
        assert hypervolume(points[1:], [1, 1]) == 0.0
        assert hypervolume(np.empty((0, 2)), [1, 1]) == 0.0

    def test_an_infinite_score_above_the_reference_covers_everything(self):
        points = [[np.inf, 2.0, 1.0], [1.0, 3.0, np.inf], [2.0, 2.0, 2.0]]
        assert hypervolume(points, [0, 0, 0]) == np.inf

    @pytest.mark.parametrize(
        ("reference", "message"),
        [
            ([0.0], r"^Got reference of shape \(1,\), expected \(2,\)\. Pass one number a task\.$"),
            (0.0, r"^Got reference of shape \(\), expected \(2,\)"),
            ([0.0, np.nan], r"^Got reference=.*, expected finite numbers\. Pass a score"),
            (["a", "b"], r"^Got reference=\['a', 'b'\], expected numbers"),
        ],
    )
    def test_a_bad_reference_is_refused(self, reference, message):
        with pytest.raises(ValueError, match=message):
            hypervolume([[1.0, 2.0]], reference)


class TestKneeIndex:
    def test_by_hand(self):
        """Scaled: (1, 0), (0.9, 0.9), (0, 1); distances 1, 0.141 and 1. The last is beaten."""
        assert knee_index([[10, 0], [9, 45], [0, 50], [8, 44]]) == 1

    def test_is_the_definition(self):
        for seed in range(30):
            scores = draw(20, 3, seed, levels=50)
            front = [i for i, on_front in enumerate(slow_front(scores)) if on_front]
            best, worst = scores[front].max(axis=0), scores[front].min(axis=0)
            distance = [
                sum(
                    ((b - s) / (b - w)) ** 2 for s, b, w in zip(scores[i], best, worst, strict=True)
                )
                for i in front
            ]
            assert knee_index(scores) == front[int(np.argmin(distance))]

    def test_a_front_bent_inwards_keeps_its_middle(self):
        """Negative control: the largest sum of scaled scores is at an end."""
        scores = np.array([[1.0, 0.0], [0.45, 0.45], [0.0, 1.0]])
        assert knee_index(scores) == 1
        assert scores.sum(axis=1).argmax() != 1

    @pytest.mark.parametrize("n_tasks", [1, 2, 4])
    def test_units_beaten_points_and_order_do_not_matter(self, n_tasks):
        scores, rng = draw_front(25, n_tasks), np.random.default_rng(3)
        chosen = scores[knee_index(scores)]
        rows = rng.permutation(25)
        assert_array_equal(scores[rows][knee_index(scores[rows])], chosen)
        units, shift = 2.0 ** np.arange(n_tasks), np.arange(n_tasks)
        assert_array_equal(scores[knee_index(scores * units + shift)], chosen)
        beaten = scores * rng.uniform(0.1, 0.9, size=scores.shape) - 50
        failed = np.full((2, n_tasks), np.nan)
        assert knee_index(np.vstack([scores, beaten, failed])) == knee_index(scores)

    def test_one_task_gives_its_best(self):
        assert knee_index([[0.1], [0.7], [0.7], [np.nan], [0.2]]) == 1

    def test_degenerate_fronts(self):
        assert knee_index([[0.3, 0.2]]) == 0
        assert knee_index([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]) == 1  # all but one point beaten
        assert knee_index([[1.0, 0.0], [0.0, 1.0]]) == 0  # the first that ties

    def test_a_task_that_is_constant_over_the_front_has_no_say(self):
        scores = draw_front(20, 3)
        constant = np.insert(scores, 1, 7.0, axis=1)
        assert knee_index(constant) == knee_index(scores)

    def test_infinite_rows_are_left_out(self):
        assert knee_index([[np.inf, 1.0], [-np.inf, 9.0], [1.0, 0.0], [0.9, 0.9], [0, 1]]) == 3

    @pytest.mark.parametrize("scores", [np.empty((0, 2)), np.full((3, 2), np.nan)])
    def test_without_a_candidate_there_is_no_choice(self, scores):
        message = rf"^Got {len(scores)} candidates, none with a finite score for every task, exp"
        with pytest.raises(ValueError, match=message):
            knee_index(scores)


class TestClosestToPreference:
    SCORES = np.array([[10.0, 0.0], [8.0, 50.0], [5.0, 80.0], [0.0, 100.0]])

    @pytest.mark.parametrize(
        ("preference", "chosen"),
        [([1, 0], 0), ([3, 1], 1), ([1, 3], 2), ([0, 1], 3), ([1e-9, 0], 0), ([3e9, 1e9], 1)],
    )
    def test_by_hand(self, preference, chosen):
        """Losses: (0, 1), (0.2, 0.5), (0.5, 0.2), (1, 0). With 3:1, the largest weighted loss is
        0.25, 0.15, 0.375 and 0.75."""
        assert closest_to_preference(self.SCORES, preference) == chosen

    @pytest.mark.parametrize("n_tasks", [2, 3, 5])
    def test_is_the_definition(self, n_tasks):
        """Lexicographic: the largest weighted loss, then the sum of losses."""
        rng = np.random.default_rng(0)
        for seed in range(20):
            scores = draw(20, n_tasks, seed, levels=9)
            weights = rng.integers(1, 5, n_tasks)
            front = [i for i, on_front in enumerate(slow_front(scores)) if on_front]
            best, worst = scores[front].max(axis=0), scores[front].min(axis=0)
            lost = (best - scores[front]) / np.where(best > worst, best - worst, 1)
            order = [(round(max(weights * d), 9), round(sum(d), 9)) for d in lost]
            assert closest_to_preference(scores, weights) == front[order.index(min(order))]

    def test_more_preference_for_a_task_never_lowers_its_score(self):
        scores = draw_front(50, 2)
        chosen = [
            scores[closest_to_preference(scores, [share, 1 - share]), 0]
            for share in np.linspace(0, 1, 21)
        ]
        assert (np.diff(chosen) >= 0).all()
        assert chosen[0] < chosen[10] < chosen[-1]

    def test_every_point_of_a_front_is_the_choice_of_some_preference(self):
        """Also where the front bends inwards; negative control: no weighted sum reaches those."""
        x = np.linspace(0, 1, 9)
        scores = np.column_stack([x, (1 - np.sqrt(x)) ** 2])
        lost = (scores.max(axis=0) - scores) / np.ptp(scores, axis=0)
        reached = {closest_to_preference(scores, 1 / np.maximum(d, 1e-3)) for d in lost}
        assert reached == set(range(9))
        sums = {(scores @ [w, 1 - w]).argmax() for w in np.linspace(0, 1, 101)}
        assert sums == {0, 8}

    def test_a_task_of_preference_zero_only_breaks_ties(self):
        scores = [[1.0, 0.0, 0.2], [1.0, 0.5, 0.0], [0.0, 1.0, 1.0]]
        assert closest_to_preference(scores, [1, 0, 0]) == 1
        assert closest_to_preference(np.array(scores)[:, [0, 2, 1]], [1, 0, 0]) == 1

    def test_beaten_and_failed_rows_do_not_matter(self):
        more = np.vstack([[np.nan, 200.0], self.SCORES - 1000, self.SCORES, [np.inf, 0.0]])
        assert closest_to_preference(more, [3, 1]) == 1 + 4 + 1

    def test_degenerate_fronts(self):
        assert closest_to_preference([[0.3, 0.2]], [1, 2]) == 0
        assert closest_to_preference([[0.1], [0.7], [0.2]], [5]) == 1
        constant = np.insert(self.SCORES, 0, 7.0, axis=1)
        assert closest_to_preference(constant, [9, 3, 1]) == 1

    @pytest.mark.parametrize(
        ("preference", "message"),
        [
            ([0, 0], r"^Got preference=\[0, 0\], expected finite numbers >= 0, not all of them"),
            ([1, -1], r"^Got preference=\[1, -1\], expected finite numbers >= 0"),
            ([1, np.nan], "expected finite numbers >= 0"),
            ([1, np.inf], "expected finite numbers >= 0"),
            ([1, 1, 1], r"^Got preference of shape \(3,\), expected \(2,\)"),
        ],
    )
    def test_a_bad_preference_is_refused(self, preference, message):
        with pytest.raises(ValueError, match=message):
            closest_to_preference(self.SCORES, preference)


class TestKnee:
    RESULTS = {
        "params": [{}, {}, {}],
        "mean_fit_time": np.ones(3),
        "mean_test_a": np.array([0.9, 0.88, 0.7]),
        "mean_test_b": np.array([0.6, 0.78, 0.8]),
        "mean_test_c": np.array([0.1, 0.0, 0.2]),
        "mean_test_mean": np.array([9.0, 0.0, 0.0]),
        "mean_train_a": np.array([9.0, 0.0, 0.0]),
    }

    def test_is_the_knee_of_the_tasks_scores(self):
        """Negative control: their mean, counted as a task, would change the choice."""
        columns = [self.RESULTS[f"mean_test_{name}"] for name in ("a", "b", "c", "mean")]
        assert Knee()(self.RESULTS) == knee_index(np.column_stack(columns[:3])) == 2
        assert knee_index(np.column_stack(columns)) == 0
        assert Knee(["a", "b"])(self.RESULTS) == knee_index(np.column_stack(columns[:2])) == 1
        assert isinstance(Knee()(self.RESULTS), int)

    def test_a_named_score_counts_even_if_it_is_called_mean(self):
        assert Knee(["mean"])(self.RESULTS) == 0

    def test_candidates_that_failed_are_left_out(self):
        results = {**self.RESULTS, "mean_test_a": np.array([0.9, 0.88, np.nan])}
        assert Knee(["a", "b"])(results) == 0

    def test_a_task_without_any_score_does_not_count(self):
        results = {**self.RESULTS, "mean_test_c": np.full(3, np.nan)}
        with pytest.warns(
            UserWarning, match=r"^Got no finite score of \['c'\] for any candidate, exp"
        ):
            assert Knee()(results) == 1

    @pytest.mark.parametrize(
        ("knee", "keys", "message"),
        [
            (Knee(), ["score"], r"^Got results with \['score'\], .* scoring=make_multi_task_scor"),
            (Knee(), [], "^Got results with no scores, expected the scores of every task"),
            (Knee(["b", "abc"]), ["ab", "b"], r"^Got results without scores of \['abc'\].* 'ab'\?"),
            (Knee(["abc"]), ["score"], "Pass scoring=make_multi_task_scorer"),
        ],
    )
    def test_results_without_the_tasks_are_refused(self, knee, keys, message):
        with pytest.raises(ValueError, match=message):
            knee({f"mean_test_{key}": np.zeros(2) for key in keys})

    def test_no_candidate_with_all_scores(self):
        with pytest.raises(ValueError, match="none with a finite score for every task"):
            Knee()({"mean_test_a": np.array([np.nan, 1]), "mean_test_b": np.array([1, np.nan])})
        with pytest.raises(ValueError, match="none with a finite score for every task"):
            Knee()({"mean_test_a": np.full(2, np.nan)})

    @pytest.mark.parametrize("tasks", ["default", [], [""], [1, 2], ["a", "a"], 3])
    def test_bad_names_are_refused(self, tasks):
        with pytest.raises(ValueError, match=r"^Got tasks=.*, expected (task|distinct) names"):
            Knee(tasks)

    def test_is_a_value(self):
        for knee, text in ((Knee(), "Knee()"), (Knee(["a", "b"]), "Knee(['a', 'b'])")):
            assert repr(knee) == text
            assert eval(text) == knee
            assert pickle.loads(pickle.dumps(knee)) == knee
            assert hash(knee) == hash(eval(text))
        assert Knee(["a"]) != Knee(["b"]) != Knee() != "Knee()"

    def test_serves_a_search(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(90, 3))
        Y = np.column_stack([X[:, 0] > 0, X[:, 1] + rng.normal(size=90) > 0]).astype(float)
        search = GridSearchCV(
            LinearTasks(),
            {"C": [1e-4, 1e-2, 1.0]},
            scoring=make_multi_task_scorer("neg_log_loss"),
            refit=Knee(),
            cv=3,
        )
        search = clone(search).fit(X, Y)
        names = ["mean_test_task0", "mean_test_task1"]
        scores = np.column_stack([search.cv_results_[name] for name in names])
        assert search.best_index_ == knee_index(scores)
        assert search.best_params_["C"] == search.best_estimator_.C
