"""Weightings that look for directions tell what is known from what is rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sk_mtl.weighting import WEIGHTINGS
from sk_mtl.weighting._gramian import GramianBalance

GRADIENTS = torch.randn(4, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GRADIENTS[2] = GRADIENTS[0] + GRADIENTS[1]  # a target that is the sum of two others


def direction(name, dtype):
    gradients = GRADIENTS.to(dtype)
    balance = WEIGHTINGS[name]().build(torch.ones(4, dtype=dtype))
    weights = balance(torch.ones(4, dtype=dtype), gradients @ gradients.T, None)
    return (weights @ gradients).double().numpy()


@pytest.mark.parametrize("name", ["imtl_g", "aligned_mtl", "config"])
def test_dependent_gradients_are_so_in_single_precision(name, monkeypatch):
    """Else a direction of rounding alone would rule the step."""
    exact, single = direction(name, torch.float64), direction(name, torch.float32)
    np.testing.assert_allclose(single, exact, rtol=0.02, atol=0.01 * np.abs(exact).max())
    # Negative control: by the precision that the weights are computed in.
    fine = property(lambda self: 4 * np.finfo(float).eps, lambda self, value: None)
    monkeypatch.setattr(GramianBalance, "resolution", fine, raising=False)
    wrong = direction(name, torch.float32)
    assert np.abs(wrong - exact).max() > 0.1 * np.abs(exact).max()
