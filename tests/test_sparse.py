"""A sparse X: as the dense one, and never dense as a whole."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from sk_mtl import (
    MultiTaskClassifier,
    MultiTaskEstimator,
    MultiTaskRegressor,
    VectorizedGridSearchCV,
)
from sk_mtl.columns._sparse_rows import SparseRows
from sk_mtl.trunks import TRUNKS

N, WIDTH = 160, 30
rng = np.random.default_rng(0)
DENSE = rng.normal(size=(N, WIDTH)) * (rng.random((N, WIDTH)) < 0.15)
DENSE[:, -1] = 0.0  # a column without anything stored
SPARSE = sparse.csr_array(DENSE)
SIGNAL = DENSE @ rng.normal(size=(WIDTH, 3))
R = SIGNAL + 0.1 * rng.normal(size=(N, 3))
R[::4, 1] = np.nan
C = (SIGNAL > 0).astype(float)
C[::5, 0] = np.nan
MIXED = np.column_stack([C[:, 0], R[:, 1]])
SMALL = {
    "hidden_layer_sizes": (8,),
    "learning_rate_init": 0.02,
    "batch_size": 32,
    "max_iter": 6,
    "dtype": "float64",
    "random_state": 0,
}
pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning"
)


def reg(**params):
    return plain(MultiTaskRegressor, **(SMALL | params))


def clf(**params):
    return plain(MultiTaskClassifier, **(SMALL | params))


def mix(**params):
    return plain(MultiTaskEstimator, tasks=["classification", "regression"], **(SMALL | params))


CASES = {"regressor": (reg, R), "classifier": (clf, C), "mixed": (mix, MIXED)}


class Watch:
    """How many rows are made dense at once."""

    def __init__(self, monkeypatch):
        self.rows = []
        for kind in (sparse.csr_array, sparse.csr_matrix):
            monkeypatch.setattr(kind, "toarray", self._watched(kind.toarray))
            monkeypatch.setattr(kind, "todense", self._watched(kind.todense))

    def _watched(self, original):
        def dense(matrix, *args, **kwargs):
            self.rows.append(matrix.shape[0])
            return original(matrix, *args, **kwargs)

        return dense


# Rows of a matrix as of a tensor -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_those_of_the_dense_tensor(dtype):
    rows, tensor = SparseRows(SPARSE.astype(dtype)), torch.from_numpy(DENSE.astype(dtype))
    index = torch.tensor([5, 5, 0, 159])
    assert (len(rows), rows.shape, rows.dtype) == (N, (N, WIDTH), tensor.dtype)
    assert torch.equal(rows[3:9], tensor[3:9])
    assert torch.equal(rows[index], tensor[index])
    assert torch.equal(rows.index_select(0, index), tensor.index_select(0, index))
    assert rows.to("cpu").device == tensor.device
    for ours, theirs in zip(rows.split(50), tensor.split(50), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="Got dim=1, expected 0"):
        rows.index_select(1, index)


def test_wide_tables_are_split_into_fewer_rows(monkeypatch):
    monkeypatch.setattr("sk_mtl.columns._sparse_rows.CHUNK_BYTES", 10 * WIDTH * 8)
    assert [len(part) for part in SparseRows(SPARSE).split(64)] == [10] * 16
    assert [len(part) for part in SparseRows(SPARSE).split(7)][:2] == [7, 7]


# As the dense table ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"n_members": 5}], ids=str)
def test_without_centres_a_sparse_x_is_as_a_dense_one(case, params):
    """Medians of these columns are 0, and so is what scaling="robust" subtracts."""
    make, Y = CASES[case]
    for scaling in (None, "robust"):
        model, other = (
            make(scaling=scaling, **params).fit(X, Y, sample_weight=np.linspace(1, 2, N))
            for X in (DENSE, SPARSE)
        )
        for a, b in zip(model._outcomes(DENSE)[0], other._outcomes(SPARSE)[0], strict=True):
            assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_a_mean_is_subtracted_of_a_dense_one_only():
    """Negative control of the above."""
    dense, thin = (reg(scaling="standard").fit(X, R).predict(X) for X in (DENSE, SPARSE))
    assert not np.allclose(dense, thin, rtol=1e-2)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_every_trunk_reads_it(trunk):
    dense, thin = (reg(trunk=trunk).fit(X, R).predict(X) for X in (DENSE, SPARSE))
    assert_allclose(dense, thin, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_array", "lil_matrix"])
def test_every_format_is_read(kind):
    expected = reg().fit(SPARSE, R).predict(SPARSE)
    other = getattr(sparse, kind)(DENSE)
    assert_array_equal(reg().fit(other, R).predict(other), expected)


def test_what_is_fitted_on_one_predicts_the_other():
    model = reg(scaling="robust").fit(SPARSE, R)
    assert_allclose(model.predict(DENSE), model.predict(SPARSE), rtol=1e-9, atol=1e-12)
    model = reg(scaling="robust").fit(DENSE, R)
    assert_allclose(model.predict(SPARSE), model.predict(DENSE), rtol=1e-9, atol=1e-12)


def test_read_out_of_sparse_rows():
    model = clf().fit(SPARSE, C)
    for name in ("transform", "predict", "predict_proba"):
        ours, dense = getattr(model, name)(SPARSE), getattr(model, name)(DENSE)
        assert type(ours) is type(dense)
        for a, b in zip(ours, dense, strict=True):
            assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    known = ~np.isnan(C).any(1)
    assert model.score(SPARSE[known], C[known]) == model.score(DENSE[known], C[known])
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict(SPARSE), model.predict(SPARSE))


def test_a_validation_set_partial_fit_and_warm_start():
    for X_val in (SPARSE[:40], DENSE[:40]):
        model = reg().fit(SPARSE[40:], R[40:], X_val=X_val, y_val=R[:40])
        dense = reg().fit(DENSE[40:], R[40:], X_val=DENSE[:40], y_val=R[:40])
        assert_allclose(model.validation_scores_, dense.validation_scores_, rtol=1e-9)
    models = [reg(warm_start=True).fit(X, R).fit(X, R).partial_fit(X, R) for X in (SPARSE, DENSE)]
    assert_allclose(*[model.predict(DENSE) for model in models], rtol=1e-9, atol=1e-10)


# Default parameters ------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [MultiTaskClassifier, MultiTaskRegressor])
def test_with_default_parameters(cls):
    """Embeddings and linear models are left out: most numbers are zero, and there are many."""
    Y = C if cls is MultiTaskClassifier else R
    model = cls(max_iter=60, random_state=0).fit(SPARSE[:120], Y[:120])
    assert model.score(SPARSE[120:], Y[120:]) > (0.6 if cls is MultiTaskClassifier else 0.2)
    assert all(net.module_.linear is None for net in model._nets)
    assert model.predict(SPARSE).shape == Y.shape


# Never dense as a whole --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"early_stopping": True, "validation_fraction": 0.5},
        {"n_members": 3},
        {"scaling": "robust", "embedding": "piecewise_linear", "linear_path": True},
    ],
    ids=str,
)
def test_no_more_rows_than_a_batch_are_made_dense(params, monkeypatch):
    monkeypatch.setattr("sk_mtl.training.ROWS_AT_ONCE", 16)
    watch = Watch(monkeypatch)
    model = reg(batch_size=16, max_iter=2, **params).fit(SPARSE, R)
    members = params.get("n_members", 1)
    assert watch.rows and max(watch.rows) <= 16 * members
    watch.rows.clear()
    model.predict(SPARSE)
    model.transform(SPARSE)
    assert watch.rows and max(watch.rows) <= 16


def test_the_watch_sees_a_whole_table(monkeypatch):
    """Negative control."""
    watch = Watch(monkeypatch)
    reg(max_iter=1).fit(SPARSE.toarray(), R)
    assert watch.rows == [N]


# Beside scikit-learn -----------------------------------------------------------------------------

TEXTS = [f"{a} {b} {c}" for a in ("red", "blue", "green") for b in ("cat", "dog") for c in "xyzuvw"]
TEXTS = [text.replace(" ", " the ") for text in TEXTS * 3]
TOPICS = np.array([["red" in text, "cat" in text] for text in TEXTS]).astype(int)


def test_texts_through_a_pipeline():
    model = make_pipeline(TfidfVectorizer(), clf(max_iter=60)).fit(TEXTS, TOPICS)
    assert model.score(["a red cat", "one green dog"], [[1, 1], [0, 0]]) == 1.0
    default = make_pipeline(TfidfVectorizer(), MultiTaskClassifier(random_state=0, max_iter=30))
    assert default.fit(TEXTS, TOPICS).score(TEXTS, TOPICS) > 0.95
    found = cross_val_predict(
        make_pipeline(TfidfVectorizer(), clf(max_iter=60)), TEXTS, TOPICS, cv=KFold(3)
    )
    assert (found == TOPICS).mean() > 0.95


@pytest.mark.parametrize("n_members", [1, 3])
@pytest.mark.parametrize("piped", [False, True])
def test_a_vectorized_search_on_sparse_rows(n_members, piped):
    model, prefix = clf(n_members=n_members), ""
    X, Y = SPARSE, C
    if piped:
        model, prefix = make_pipeline(TfidfVectorizer(), model), "multitaskclassifier__"
        X, Y = TEXTS, TOPICS
    grid = {prefix + "alpha": [1e-4, 1.0], prefix + "learning_rate_init": [0.02, 0.05]}
    ours = VectorizedGridSearchCV(model, grid, cv=KFold(3)).fit(X, Y)
    theirs = GridSearchCV(model, grid, cv=KFold(3)).fit(X, Y)
    assert ours.search_report_["trained"] == ["stacked"] * 4
    for key in ("mean_test_score", "std_test_score"):
        assert_allclose(ours.cv_results_[key], theirs.cv_results_[key], rtol=1e-9, atol=1e-12)
    assert_array_equal(ours.predict(X), theirs.predict(X))


def test_a_search_makes_no_more_than_batches_dense(monkeypatch):
    monkeypatch.setattr("sk_mtl.training.ROWS_AT_ONCE", 16)
    watch = Watch(monkeypatch)
    search = VectorizedGridSearchCV(reg(batch_size=16), {"alpha": [0.1, 1.0]}, cv=KFold(2))
    search.fit(SPARSE, R)
    assert max(watch.rows) <= 16 * 4
