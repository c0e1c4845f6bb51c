"""Penalties on related heads: the contract that all keep, and each against its paper.

Every test of the first part loops over ``PENALTIES``: a new entry inherits them. What penalties do
in training is tested in ``test_penalties_training`` and ``test_penalties_convex``.
"""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.cluster import KMeans
from test_trunks import CountOperators, randn
from torch.testing import assert_close

from sk_mtl.penalties import PENALTIES, Cluster, Covariance, Graph, TraceNorm

SIMILARITY = np.array([[0, 1, 0, 3], [1, 0, 0.5, 0], [0, 0.5, 0, 2], [3, 0, 2, 0]], dtype=float)
RECIPES = [
    *[cls() for cls in PENALTIES.values()],
    *[cls(strength=2.0) for cls in PENALTIES.values()],
    Graph(SIMILARITY, strength=0.5),
    Cluster(n_clusters=1),
    Cluster(n_clusters=3),
]
HEADS = randn(4, 6)
every_penalty = pytest.mark.parametrize("recipe", RECIPES, ids=repr)


def built(recipe, tasks=(0, 1, 2, 3), *, stack=(), heads=None):
    """A relation in float64, renewed by heads where they are given."""
    like = torch.zeros(*stack, len(tasks), len(tasks), dtype=torch.float64)
    relation = recipe.build(like, list(tasks))
    if heads is not None:
        relation.renew(heads)
    return relation


def trace(heads, form):
    """tr(W' A W), pair by pair."""
    return sum(
        form[i, j] * (heads[i] @ heads[j]) for i in range(len(heads)) for j in range(len(heads))
    )


def value(relation, heads):
    """What is added to the loss."""
    return 0.5 * float(relation.strength) * trace(heads, relation.form)


# The contract -------------------------------------------------------------------------------


@every_penalty
def test_recipes_hold_hyper_parameters_only(recipe):
    for copy in (clone(recipe), pickle.loads(pickle.dumps(recipe))):
        assert str(copy.get_params()) == str(recipe.get_params())
        assert repr(copy) == repr(recipe)
    built(recipe, heads=HEADS)
    assert vars(recipe) == recipe.get_params(deep=False)  # building leaves nothing behind
    recipe.validate()
    with pytest.raises(ValueError, match=r"The 'strength' parameter of .* must be a float in"):
        clone(recipe).set_params(strength=-0.1).validate()


@every_penalty
@pytest.mark.parametrize("renewed", [False, True])
def test_the_slope_is_that_of_the_penalty(recipe, renewed):
    relation = built(recipe, heads=HEADS if renewed else None)
    heads = randn(4, 6, seed=1).requires_grad_()
    total = value(relation, heads)
    expected = torch.autograd.grad(total, heads)[0] if total.requires_grad else 0 * heads
    assert_close(relation.slope(heads.detach()), expected, rtol=0, atol=1e-10)
    if renewed:  # negative control: twice as strong
        assert (relation.slope(heads.detach()) - 2 * expected).abs().max() > 1e-3


KINDS = {
    "drawn": HEADS,
    "zero": torch.zeros(4, 6, dtype=torch.float64),
    "equal": HEADS[:1].expand(4, 6),
    "opposed": HEADS[:1] * torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64),
    "more tasks than features": randn(4, 2),
    "one feature": randn(4, 1),
    "tiny": 1e-150 * HEADS,
    "one task without any": HEADS * torch.tensor([[0.0], [1.0], [1.0], [1.0]]).double(),
}


@every_penalty
@pytest.mark.parametrize("kind", KINDS)
def test_it_never_rewards_and_always_counts(recipe, kind):
    """A is positive semi-definite and finite, whatever the heads."""
    heads = KINDS[kind]
    for relation in (built(recipe), built(recipe, heads=heads)):
        form = relation.form
        assert form.isfinite().all()
        assert_close(form, form.mT, rtol=1e-12, atol=1e-12)
        assert torch.linalg.eigvalsh(form).min() >= -1e-10 * form.abs().max()
        slope = relation.slope(heads)
        assert slope.isfinite().all()
        assert kind != "zero" or not slope.any()


ORDER = [2, 0, 3, 1]


@every_penalty
def test_the_order_of_tasks_does_not_matter(recipe):
    first = built(recipe, heads=HEADS)
    other = built(recipe, ORDER, heads=HEADS[ORDER])
    assert_close(other.form, first.form[ORDER][:, ORDER], rtol=0, atol=1e-10)
    assert_close(other.slope(HEADS[ORDER]), first.slope(HEADS)[ORDER], rtol=0, atol=1e-10)
    # Negative control: tasks differ.
    assert (first.slope(HEADS)[ORDER] - first.slope(HEADS)).abs().max() > 1e-3


@every_penalty
def test_turned_features_are_as_good(recipe):
    """The penalty is of how heads lie to each other."""
    turn = torch.linalg.qr(randn(6, 6, seed=2))[0]
    first, turned = built(recipe, heads=HEADS), built(recipe, heads=HEADS @ turn)
    assert_close(turned.form, first.form, rtol=0, atol=1e-10)
    assert_close(turned.slope(HEADS @ turn), first.slope(HEADS) @ turn, rtol=0, atol=1e-10)


@every_penalty
@pytest.mark.parametrize("stack", [(3,), (2, 3)], ids=str)
def test_a_stack_is_one_relation_a_network(recipe, stack):
    heads = randn(*stack, 4, 6, seed=3)
    heads[..., 1, :, :] = 0.0  # a network whose heads are zero leaves the others alone
    together = built(recipe, stack=stack, heads=heads)
    slope = together.slope(heads)
    for place in itertools.product(*map(range, stack)):
        alone = built(recipe, heads=heads[place])
        assert_close(together.form[place], alone.form, rtol=0, atol=1e-11)
        assert_close(slope[place], alone.slope(heads[place]), rtol=0, atol=1e-11)
    assert (slope[..., 0, :, :] - slope[..., 2, :, :]).abs().max() > 1e-3  # negative control


@every_penalty
def test_each_network_has_a_strength_of_its_own(recipe):
    strengths = [0.0, 0.5, 3.0]
    stacked = clone(recipe)
    stacked.strength = torch.tensor(strengths, dtype=torch.float64).view(3, 1, 1)
    heads = randn(3, 4, 6, seed=3)
    together = built(stacked, stack=(3,), heads=heads)
    for i, strength in enumerate(strengths):
        alone = built(clone(recipe).set_params(strength=strength), heads=heads[i])
        assert_close(together.slope(heads)[i], alone.slope(heads[i]), rtol=0, atol=1e-11)
    assert not together.slope(heads)[0].any() and together.slope(heads)[1].any()
    # Networks that leave a stack take their part along: all that differs is a buffer.
    parts = {name for name, buffer in together.named_buffers() if len(buffer) == 3}
    assert parts == {"strength", "form"}


@every_penalty
def test_heads_of_today_are_all_that_counts(recipe):
    """Nothing of earlier epochs is left, and what is remembered can be handed over."""
    before = built(recipe, heads=randn(4, 6, seed=9))
    before.renew(HEADS)
    assert torch.equal(before.form, built(recipe, heads=HEADS).form)
    handed = built(recipe)
    handed.load_state_dict(before.state_dict())
    for copy in (handed, pickle.loads(pickle.dumps(before))):
        assert torch.equal(copy.slope(HEADS), before.slope(HEADS))


@pytest.mark.parametrize("name", PENALTIES)
def test_the_number_of_operators_does_not_depend_on_sizes(name):
    def count(n_tasks, stack):
        relation = built(PENALTIES[name](), range(n_tasks), stack=stack)
        heads = randn(*stack, n_tasks, 5)
        with CountOperators() as counter:
            relation.renew(heads)
            relation.slope(heads)
        return counter.count

    assert count(4, (2,)) == count(16, (2,)) == count(4, (16,))


@pytest.mark.parametrize("name", PENALTIES)
def test_float32_stays_float32(name):
    relation = PENALTIES[name]().build(torch.zeros(4, 4), [0, 1, 2, 3])
    relation.renew(HEADS.float())
    assert relation.form.dtype == relation.slope(HEADS.float()).dtype == torch.float32


# Covariance ---------------------------------------------------------------------------------


def cost(omega, heads):
    """tr(W' inv(Omega) W)."""
    return float(np.trace(heads.T @ np.linalg.solve(omega, heads)))


def test_covariance_is_the_papers_closed_form():
    """Zhang and Yeung 2010, equation 11."""
    W = HEADS.numpy()
    root = sqrtm(W @ W.T).real
    found = built(Covariance()).covariance(HEADS).numpy()
    np.testing.assert_allclose(found, root / np.trace(root), rtol=0, atol=1e-12)
    other = W @ W.T / np.trace(W @ W.T)  # negative control: without the root
    assert np.abs(found - other).max() > 0.01


def test_no_covariance_of_trace_one_costs_less():
    W = HEADS.numpy()
    best = cost(built(Covariance()).covariance(HEADS).numpy(), W)
    singular = np.linalg.svd(W, compute_uv=False)
    assert best == pytest.approx(singular.sum() ** 2, rel=1e-10)  # the squared trace norm
    rng = np.random.default_rng(0)
    for _ in range(200):
        factor = rng.normal(size=(4, rng.integers(4, 9)))
        omega = factor @ factor.T
        assert cost(omega / np.trace(omega), W) > best

    def of_factor(numbers):
        omega = numbers.reshape(4, 4) @ numbers.reshape(4, 4).T
        return cost(omega / np.trace(omega), W)

    found = minimize(of_factor, np.eye(4).ravel(), options={"gtol": 1e-8})
    omega = found.x.reshape(4, 4) @ found.x.reshape(4, 4).T
    np.testing.assert_allclose(
        omega / np.trace(omega), built(Covariance()).covariance(HEADS), rtol=0, atol=1e-4
    )
    assert cost(np.eye(4) / 4, W) > 1.05 * best  # negative control: that of unrelated tasks


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        ([[1, 0], [1, 0]], [[0.5, 0.5], [0.5, 0.5]]),
        ([[1, 0], [-1, 0]], [[0.5, -0.5], [-0.5, 0.5]]),
        # W W' = [[25, 20], [20, 25]] has the root [[40, 20], [20, 40]] / sqrt(80)
        ([[5, 0], [4, 3]], [[0.5, 0.25], [0.25, 0.5]]),
        ([[1, 0, 0], [0, 2, 0], [0, 0, 3]], np.diag([1 / 6, 1 / 3, 1 / 2])),
        ([[0, 0], [0, 0]], [[0.5, 0], [0, 0.5]]),
    ],
)
def test_covariance_by_hand(heads, expected):
    heads = torch.tensor(heads, dtype=torch.float64)
    found = built(Covariance(), range(len(heads))).covariance(heads)
    assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)


def test_tasks_begin_unrelated():
    """A covariance of trace 1 that is even; A is the inverse of four times that."""
    assert torch.equal(built(Covariance()).form, torch.eye(4, dtype=torch.float64))


def test_covariance_pulls_by_its_inverse():
    """Of n times the covariance, and a thousandth, which keeps it invertible."""
    relation = built(Covariance(), heads=HEADS)
    ridged = 4 * relation.covariance(HEADS) + 1e-3 * torch.eye(4).double()
    assert_close(relation.form @ ridged, torch.eye(4).double(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_covariance_pulls_together_or_apart(sign):
    """A task without data follows the others to where they and it are alike, or opposed."""
    related = torch.tensor([[2.0, 1.0], [sign, 0.5 * sign]], dtype=torch.float64)
    relation = built(Covariance(strength=1.0), range(2), heads=related)
    moved = related.clone()
    moved[1] = 0.0
    pull = -relation.slope(moved)[1]
    assert torch.sign(pull).tolist() == [sign, sign]


# Trace norm ---------------------------------------------------------------------------------


def test_trace_norm_is_the_sum_of_singular_values():
    relation = built(TraceNorm(strength=1.0), heads=HEADS)
    norm = np.linalg.svd(HEADS.numpy(), compute_uv=False).sum()
    assert float(trace(HEADS, relation.form)) == pytest.approx(norm, rel=1e-12)
    heads = HEADS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(torch.linalg.matrix_norm(heads, "nuc"), heads)
    assert_close(relation.slope(HEADS), slope, rtol=0, atol=1e-12)
    other = built(TraceNorm(strength=1.0), heads=randn(4, 6, seed=1))  # negative control
    assert (other.slope(HEADS) - slope).abs().max() > 0.01


def test_what_is_minimised_for_given_a_lies_above_the_trace_norm():
    """tr(V' A V) / 2 + |W| / 2 >= |V|, equal at V = W: so alternating descends."""
    relation = built(TraceNorm(strength=1.0), heads=HEADS)
    norm = torch.linalg.matrix_norm
    for seed, size in itertools.product(range(20), (0.1, 1.0)):
        other = HEADS + size * randn(4, 6, seed=seed)
        above = (trace(other, relation.form) + norm(HEADS, "nuc")) / 2
        assert above > norm(other, "nuc")


def test_trace_norm_by_hand():
    """Three heads (3, 4) have the one singular value 5 sqrt(3)."""
    heads = torch.tensor([[3.0, 4.0]] * 3, dtype=torch.float64)
    relation = built(TraceNorm(strength=1.0), range(3), heads=heads)
    assert_close(relation.slope(heads), heads / (5 * 3**0.5), rtol=0, atol=1e-6)
    assert not built(TraceNorm()).form.any()  # none in the first epoch


def test_directions_that_no_head_has_are_held_by_the_smoothed_norm():
    """As if they had a ten-thousandth of the largest singular value, 10 here."""
    heads = torch.tensor([[6.0, 0.0], [8.0, 0.0]], dtype=torch.float64)
    relation = built(TraceNorm(strength=1.0), range(2), heads=heads)
    across = torch.tensor([[-0.8], [0.6]], dtype=torch.float64)
    assert_close(relation.slope(across), across / 1e-3, rtol=1e-6, atol=0)


# Graph --------------------------------------------------------------------------------------


def test_graph_is_a_sum_over_pairs():
    """Evgeniou et al. 2005, equation 19."""
    pairs = itertools.combinations(range(4), 2)
    expected = sum(SIMILARITY[i, j] * (HEADS[i] - HEADS[j]).square().sum() / 2 for i, j in pairs)
    relation = built(Graph(SIMILARITY, strength=0.7))
    assert float(value(relation, HEADS)) == pytest.approx(0.7 * float(expected), rel=1e-12)
    even = value(built(Graph(strength=0.7)), HEADS)  # negative control
    assert abs(float(even) - 0.7 * float(expected)) > 0.01


def test_graph_by_hand():
    similarity = [[9, 2, 0], [2, 9, 1], [0, 1, 9]]  # the diagonal does not matter
    form = built(Graph(similarity), range(3)).form
    assert form.tolist() == [[2, -2, 0], [-2, 3, -1], [0, -1, 1]]
    heads = torch.tensor([[1.0], [0.0], [5.0]], dtype=torch.float64)
    slope = built(Graph(similarity, strength=1.0), range(3)).slope(heads)
    assert slope.flatten().tolist() == [2, -7, 5]


def test_without_similarities_heads_are_drawn_to_their_mean():
    slope = built(Graph(strength=0.5)).slope(HEADS)
    assert_close(slope, 0.5 * (HEADS - HEADS.mean(0)), rtol=0, atol=1e-12)


def test_a_graph_of_some_of_the_tasks():
    """Rows and columns are those of all tasks, in their order."""
    form = built(Graph(SIMILARITY), [3, 0]).form
    assert form.tolist() == [[3, -3], [-3, 3]]
    assert built(Graph(SIMILARITY), [0, 2]).form.tolist() == [[0, 0], [0, 0]]


def test_a_graph_is_told():
    relation = built(Graph(SIMILARITY))
    before = relation.form.clone()
    relation.renew(HEADS)
    assert torch.equal(relation.form, before)


NAMES = ["a", "b", "c", "d"]


@pytest.mark.parametrize("n_tasks", [3, 5])
def test_a_graph_has_a_row_and_a_column_for_every_task(n_tasks):
    message = (
        rf"Got a similarity of shape \(4, 4\), expected \({n_tasks}, {n_tasks}\): a row and a "
        r"column a task, in their order, or a frame with their names\."
    )
    with pytest.raises(ValueError, match=message):
        Graph(SIMILARITY).aligned([str(i) for i in range(n_tasks)])


@pytest.mark.parametrize(
    "similarity",
    [
        np.triu(np.ones((4, 4))),
        -SIMILARITY,
        np.where(SIMILARITY > 2, np.nan, SIMILARITY),
        np.where(SIMILARITY > 2, np.inf, SIMILARITY),
    ],
)
def test_a_graph_says_what_is_wrong_with_similarities(similarity):
    message = (
        "Got a similarity that is not symmetric, or has numbers below 0 or not finite, expected "
        r"finite numbers >= 0\. Use \(S \+ S\.T\) / 2, clipped at 0\."
    )
    with pytest.raises(ValueError, match=message):
        Graph(similarity).aligned(NAMES)


def test_a_frame_of_similarities_is_read_by_names():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(SIMILARITY, index=NAMES, columns=NAMES).loc[list("cabd"), list("dcba")]
    aligned = Graph(frame, strength=2.0).aligned(NAMES)
    assert aligned.strength == 2.0
    assert torch.equal(built(aligned).form, built(Graph(SIMILARITY)).form)
    in_place = built(Graph(frame.to_numpy())).form  # negative control: by places
    assert not torch.equal(in_place, built(Graph(SIMILARITY)).form)


@pytest.mark.parametrize("recipe", [Graph(), Covariance()], ids=repr)
def test_what_names_do_not_matter_to_is_left_as_it_is(recipe):
    assert recipe.aligned(NAMES) is recipe


# Cluster ------------------------------------------------------------------------------------


def clustered(sizes=(3, 2)):
    """Heads whose deviations from their centres are orthogonal to these."""
    rng = np.random.default_rng(0)
    label = np.repeat(range(len(sizes)), sizes)
    apart = rng.normal(size=(len(label), 4))
    for k in range(len(sizes)):
        apart[label == k] -= apart[label == k].mean(axis=0)
    return np.hstack([5 * np.eye(len(sizes))[label] + 1, 0.3 * apart]), label


def test_cluster_is_k_means_where_clusters_are_exact():
    """Zhou et al. 2011, equation 4: the relaxation is tight there."""
    heads, label = clustered()
    means = KMeans(2, n_init=5, random_state=0).fit(heads)
    W = torch.from_numpy(heads)
    relation = built(Cluster(2, strength=1.0), range(5), heads=W)
    assert 2 * float(value(relation, W)) == pytest.approx(means.inertia_, rel=1e-10)
    assert means.inertia_ > 0.1
    centres = np.stack([heads[label == k].mean(axis=0) for k in label])
    assert_close(relation.slope(W), W - torch.from_numpy(centres), rtol=0, atol=1e-10)
    three = built(Cluster(3, strength=1.0), range(5), heads=W)  # negative control
    assert 2 * float(value(three, W)) < 0.9 * means.inertia_


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("n_clusters", [1, 2, 4])
def test_cluster_is_never_more_than_k_means(n_clusters, seed):
    """And equal to the sum of the squares of the singular values beyond the first few."""
    heads = randn(6, 4, seed=seed)
    means = KMeans(n_clusters, n_init=3, random_state=0).fit(heads.numpy())
    relation = built(Cluster(n_clusters, strength=2.0), range(6), heads=heads)
    singular = np.linalg.svd(heads.numpy(), compute_uv=False)
    found = float(value(relation, heads))
    assert found == pytest.approx((singular[n_clusters:] ** 2).sum(), abs=1e-10)
    assert found <= means.inertia_ + 1e-10


def test_cluster_by_hand():
    """Tasks one and two are alike; the third is a cluster of its own."""
    heads = torch.tensor([[4.0, 1.0, 0], [4.0, -1.0, 0], [0, 0, 3.0]], dtype=torch.float64)
    relation = built(Cluster(2, strength=0.5), range(3), heads=heads)
    expected = torch.tensor([[0.0, 0.5, 0], [0.0, -0.5, 0], [0, 0, 0]], dtype=torch.float64)
    assert_close(relation.slope(heads), expected, rtol=0, atol=1e-12)
    assert not built(Cluster()).form.any()  # none in the first epoch


def test_as_many_clusters_as_tasks_are_refused():
    message = (
        r"Got n_clusters=4 for 4 tasks, expected fewer clusters than tasks\. With one for each "
        r"nothing is shared\."
    )
    with pytest.raises(ValueError, match=message):
        built(Cluster(4))
