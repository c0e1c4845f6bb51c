"""scikit-learn's own checks, over every estimator and every trunk: no expected failures."""

from __future__ import annotations

from unittest import SkipTest

import pytest
from plain import plain
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sk_mtl import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.trunks import TRUNKS

# The checks fit on random integers (doubtful types), on few epochs, on one class and on column
# vectors, all of which we warn about as we should.
pytestmark = [
    pytest.mark.filterwarnings("ignore::sk_mtl._support.InferredTaskTypesWarning"),
    pytest.mark.filterwarnings("ignore::sk_mtl._support.SingleClassWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning"),
    # raised by scikit-learn where an optional package or setting is absent
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning"),
]

CLASSES = [MultiTaskClassifier, MultiTaskRegressor, MultiTaskEstimator]
# What users start from: members, embeddings, averages. 60 epochs reach the scores that the checks
# ask for.
ESTIMATORS = [cls(max_iter=60) for cls in CLASSES]
ESTIMATORS += [
    # one plain network of each other trunk
    plain(cls, trunk=trunk, max_iter=60)
    for cls in CLASSES
    for trunk in TRUNKS
    if trunk != "shared_bottom"
]
# One needs a ``decision_function`` for several tasks, which would have to be an array and cannot be
# one where tasks have different numbers of classes; the other ``SCIPY_ARRAY_API=1`` in the
# environment, under which CI runs that one once more.
CANNOT_APPLY = {
    "check_array_api_input",
    "check_classifiers_multilabel_output_format_decision_function",
}


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_check(estimator, check):
    """None fails, and none is skipped but what cannot apply."""
    try:
        check(estimator)
    except SkipTest:
        assert check.func.__name__ in CANNOT_APPLY
        raise


# scikit-learn runs these from its own test suite only; we owe them all the same.
UNLISTED_CHECKS = [
    "check_dataframe_column_names_consistency",
    "check_get_feature_names_out_error",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_inplace_ensure_writeable",
    "check_param_validation",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
]


# some of them fit on a frame and transform an array on purpose
@pytest.mark.filterwarnings("ignore:X (does not have valid|has) feature names:UserWarning")
@pytest.mark.parametrize("name", UNLISTED_CHECKS)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_check_that_check_estimator_leaves_out(cls, name):
    check = getattr(estimator_checks, name)
    check(cls.__name__, cls(max_iter=5))
