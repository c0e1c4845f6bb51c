"""Whether tasks pull the shared part the same way: cosines between their gradients."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from sk_mtl.weighting import Weighting, resolve_weighting


class Watched(Weighting):
    """A weighting that goes on as it did, and sees the tasks' gradients besides.

    Parameters
    ----------
    weighting : str, Weighting or object of torchjd's
        The one that is watched.
    """

    def __init__(self, weighting: Any = "static") -> None:
        self.weighting = weighting

    @property
    def _inner(self) -> Weighting:
        return resolve_weighting(self.weighting)

    @property
    def needs(self) -> Literal["gramian", "jacobian"]:  # type: ignore[override]
        """Inner products, unless the weighting itself wants the gradients."""
        return "jacobian" if self._inner.needs == "jacobian" else "gramian"

    @property
    def weighs(self) -> Literal["loss", "gradient", "direction"]:  # type: ignore[override]
        """As the weighting."""
        return self._inner.weighs

    @property
    def of(self) -> Literal["parameters", "features"]:  # type: ignore[override]
        """As the weighting."""
        return self._inner.of

    @property
    def uses_task_weights(self) -> bool:  # type: ignore[override]
        """As the weighting."""
        return self._inner.uses_task_weights

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        inner = self._inner
        return Cosines(inner.build(task_weights), inner.needs, task_weights)


class Cosines(nn.Module):
    """Sums of the cosines between the gradients of the tasks, batch by batch.

    Parameters
    ----------
    inner : nn.Module
        Gives the weights.
    needs : str
        What it is called with.
    like : Tensor of shape (n_tasks,)
        Of the type and on the device of the sums.
    """

    total: Tensor
    count: Tensor

    def __init__(self, inner: nn.Module, needs: str, like: Tensor) -> None:
        super().__init__()
        self.inner, self.needs = inner, needs
        zeros = like.new_zeros(len(like), len(like))
        self.register_buffer("total", zeros)
        self.register_buffer("count", zeros.clone())

    def forward(self, losses: Tensor, gradients: Tensor, present: Tensor | None = None) -> Tensor:
        """Take in the gradients of a batch; return the weights."""
        gramian = gradients @ gradients.mT if self.needs == "jacobian" else gradients
        self._add(gramian.detach(), present)
        weights: Tensor = self.inner(losses, None if self.needs == "losses" else gradients, present)
        return weights

    @torch.no_grad()
    def _add(self, gramian: Tensor, present: Tensor | None) -> None:
        norms = gramian.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
        told = norms > 0  # a gradient of length zero has no direction
        if present is not None:
            told = told & present
        length = torch.where(told, norms, 1.0)
        cosines = gramian / (length.unsqueeze(-1) * length.unsqueeze(-2))
        both = told.unsqueeze(-1) & told.unsqueeze(-2)
        self.total += torch.where(both, cosines, 0.0)
        self.count += both

    def __getattr__(self, name: str) -> Any:
        """Whatever else the training loop asks of a weighting is the inner one's to answer."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner":  # not there yet, while a copy is made
                raise
            return getattr(self.inner, name)
