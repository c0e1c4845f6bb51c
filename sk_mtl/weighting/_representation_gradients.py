"""Weightings by the gradients of the features that tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sk_mtl.weighting._base import Weighting
from sk_mtl.weighting._mgda import MGDA


class _OfInner:
    """An attribute of the weighting that is wrapped; of the default one, if a class is asked."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, recipe: RepresentationGradients | None, owner: type) -> Any:
        return getattr(MGDA if recipe is None else recipe._inner, self.name)


class RepresentationGradients(Weighting):
    """A weighting that sees gradients of the shared features in place of the shared parameters.

    Tasks are balanced where they pull the features of the batch apart, and one ordinary backward
    pass takes what comes of that through the trunk; gradients of the parameters take a pass a task.
    What a direction promises, such as that no task gets worse, it promises for a step of the
    features, which a step of the parameters follows roughly. It wants a trunk whose tasks see
    the same features: ``"shared_bottom"``, or one of your own.

    Parameters
    ----------
    weighting : str, Weighting or object of torchjd, default="mgda"
        Any by gradients that does not remember numbers for every parameter. Its weights and
        ``task_weights`` mean what they mean without.

    References
    ----------
    Sener and Koltun 2018, "Multi-Task Learning as Multi-Objective Optimization", section 3.3
    (MGDA-UB). With ``"graddrop"`` it is Chen et al. 2020, "Just Pick a Sign", algorithm 1, whose
    layer stands behind the features.

    Examples
    --------
    >>> from sk_mtl import MultiTaskRegressor
    >>> from sk_mtl.weighting import CAGrad, RepresentationGradients
    >>> model = MultiTaskRegressor(weighting=RepresentationGradients(CAGrad(c=0.5)), max_iter=3)
    >>> model.set_params(weighting__weighting__c=0.2).weighting
    RepresentationGradients(weighting=CAGrad(c=0.2))
    """

    of = "features"
    needs = _OfInner()
    weighs = _OfInner()
    uses_task_weights = _OfInner()

    def __init__(self, weighting: Any = "mgda") -> None:
        self.weighting = weighting

    @property
    def _inner(self) -> Weighting:
        from sk_mtl.weighting import resolve_weighting  # whose table has this class

        return resolve_weighting(self.weighting)

    def validate(self) -> None:
        """Raise ``ValueError`` where the weighting has no use for gradients of features."""
        inner = self._inner
        if inner.needs == "losses":
            raise ValueError(
                f"Got {self!r}, expected a weighting that sees gradients: that one sees losses. "
                f"Use weighting={self.weighting!r} itself."
            )
        if inner.of == "features":
            raise ValueError(
                f"Got {self!r}, expected a weighting that sees gradients of parameters: that one "
                f"sees those of features. Use weighting={self.weighting!r} itself."
            )
        if inner.per_parameter:
            raise ValueError(
                f"Got {self!r}, expected a weighting that remembers no numbers for every "
                "parameter: the features are of other rows in every batch. "
                f"Use weighting={self.weighting!r} itself."
            )

    def settles_after(self, levels: Sequence[int]) -> int:
        """Return what the weighting says."""
        return self._inner.settles_after(levels)

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the weighting's module; see :class:`Weighting`."""
        return self._inner.build(task_weights)
