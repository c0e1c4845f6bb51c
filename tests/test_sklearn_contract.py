"""scikit-learn's own checks, over every estimator and every trunk: no expected failures."""

from __future__ import annotations

import pytest
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

ESTIMATORS = [
    # 60 epochs reach the scores that the checks ask for, in a third of the time of 200
    cls(trunk=trunk, max_iter=60)
    for cls in (MultiTaskClassifier, MultiTaskRegressor, MultiTaskEstimator)
    for trunk in TRUNKS
]


@parametrize_with_checks(ESTIMATORS, xfail_strict=True)
def test_scikit_learn_check(estimator, check):
    check(estimator)
