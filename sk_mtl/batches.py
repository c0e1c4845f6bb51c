"""Training data as tensors on the device, and shuffled slices of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sk_mtl._support import Stream


class TaskData(Dataset[Any]):
    """Encoded rows: features, targets with NaN for missing labels, weights.

    Parameters
    ----------
    X : Tensor or SparseRows of shape (n_rows, n_features)
        Encoded features.
    y : Tensor of shape (n_rows, n_tasks)
        Encoded targets, NaN where a label is missing.
    weight : Tensor of shape (n_rows, 1 or n_tasks) or None
        Sample weights.
    rows : Tensor of int or None, default=None
        The rows that belong to this set; None for all. Rows are looked up batch by batch, so
        that a split or a dropped row costs no copy of X.

    Attributes
    ----------
    complete : bool
        Whether no label is missing among the rows.
    """

    def __init__(
        self, X: Tensor, y: Tensor, weight: Tensor | None = None, rows: Tensor | None = None
    ) -> None:
        self._X, self._y, self._weight, self.rows = X, y, weight, rows
        self.complete = not bool((y if rows is None else y[rows]).isnan().any())

    @property
    def device(self) -> torch.device:
        """Where the tables lie."""
        return self._y.device

    @property
    def weight_shape(self) -> tuple[int, ...] | None:
        """Shape of a row's weights; None without weights."""
        return None if self._weight is None else tuple(self._weight.shape[1:])

    @property
    def X(self) -> Tensor:
        """Features of the rows of this set."""
        return self._X if self.rows is None else self._X[self.rows]

    def features(self, index: Any) -> Tensor:
        """Return the features of some rows of this set: a slice, or a tensor of positions."""
        return _take(self._X, index if self.rows is None else self.rows[index])

    @property
    def y(self) -> Tensor:
        """Targets of the rows of this set."""
        return self._y if self.rows is None else self._y[self.rows]

    @property
    def weight(self) -> Tensor | None:
        """Weights of the rows of this set."""
        return (
            self._weight if self._weight is None or self.rows is None else self._weight[self.rows]
        )

    def __len__(self) -> int:
        return len(self._X) if self.rows is None else len(self.rows)

    def __getitem__(self, index: Any) -> tuple[dict[str, Tensor | None], Tensor]:
        rows = index if self.rows is None else self.rows[index]
        return self.select(rows)

    def select(self, rows: Any) -> tuple[dict[str, Tensor | None], Tensor]:
        """Return the batch of the given rows of X, as skorch hands it around."""
        weight = None if self._weight is None else _take(self._weight, rows)
        return {"X": _take(self._X, rows), "sample_weight": weight}, _take(self._y, rows)

    def subset(self, rows: Tensor | None) -> TaskData:
        """Return a set of some rows of the same tables."""
        return TaskData(self._X, self._y, self._weight, rows)

    def to(self, device: torch.device) -> TaskData:
        """Return the same data on a device."""
        if self._X.device == device:
            return self
        weight = None if self._weight is None else self._weight.to(device)
        rows = None if self.rows is None else self.rows.to(device)
        return TaskData(self._X.to(device), self._y.to(device), weight, rows)


def _take(table: Tensor, rows: Any) -> Tensor:
    """Return rows of a table, by the fast kernel where they are given by their indices."""
    return table.index_select(0, rows) if isinstance(rows, Tensor) else table[rows]


class Batches:
    """Batches of a :class:`TaskData`, shuffled anew every time they are iterated over.

    Parameters
    ----------
    data : TaskData
        What to slice.
    batch_size : int
        Rows a batch; the last one may be smaller.
    shuffle : Stream or None, default=None
        Where permutations come from; None keeps the order of the rows.
    """

    def __init__(self, data: TaskData, batch_size: int, shuffle: Stream | None = None) -> None:
        self.data = data
        self.batch_size = batch_size
        self.shuffle = shuffle

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor | None], Tensor]]:
        order = self.order()
        if order is None:
            yield from self._in_order(len(self.data))
            return
        for batch in order.split(self.batch_size):
            yield self.data.select(batch)

    def order(self) -> Tensor | None:
        """Draw the order in which the rows of X are read once; None for the order they are in."""
        data, n_rows = self.data, len(self.data)
        if self.shuffle is None or n_rows <= self.batch_size:
            return None
        # On the CPU and then moved, so that every device sees the same batches.
        rows = torch.randperm(n_rows, generator=self.shuffle.generator()).to(data._X.device)
        return rows if data.rows is None else data.rows[rows]

    def _in_order(self, n_rows: int) -> Iterator[tuple[dict[str, Tensor | None], Tensor]]:
        """Yield slices, which are views of the data where no row was left out."""
        for start in range(0, n_rows, self.batch_size):
            yield self.data[start : start + self.batch_size]


class StackedBatches:
    """Batches for a stack of networks, each of which reads those of its own source.

    Parameters
    ----------
    sources : sequence of Batches
        Of equally many rows and equal batch sizes. The networks of one source share its batches.
    of : sequence of int
        Which source each network reads.
    """

    def __init__(self, sources: Sequence[Batches], of: Sequence[int]) -> None:
        self.complete = all(source.data.complete for source in sources)
        # Sources that read the same table, each in its own order, are read in one go.
        tables: dict[int, list[int]] = {}
        for place, source in enumerate(sources):
            tables.setdefault(id(source.data._X), []).append(place)
        self.tables = [[sources[place] for place in places] for places in tables.values()]
        stacked = [place for places in tables.values() for place in places]
        order = [stacked.index(place) for place in of]
        self._as_stacked = order == list(range(len(stacked)))
        self.of = torch.tensor(order, device=sources[0].data._X.device)

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor | None], Tensor]]:
        first = self.tables[0][0]
        if sum(map(len, self.tables)) == 1:  # without a stack axis: the table of all networks
            yield from first
            return
        orders = [torch.stack([_rows(source) for source in table]) for table in self.tables]
        for start in range(0, len(first.data), first.batch_size):
            parts = [
                _stacked(table[0].data, order[:, start : start + first.batch_size])
                for table, order in zip(self.tables, orders, strict=True)
            ]
            inputs, targets = zip(*parts, strict=True)
            batch = {key: self._spread([i[key] for i in inputs]) for key in inputs[0]}
            y = self._spread(list(targets))
            assert y is not None
            yield batch, y

    def _spread(self, parts: list[Tensor | None]) -> Tensor | None:
        """Return every network's part, ``(n_networks, batch, ...)``."""
        tensors = [part for part in parts if part is not None]
        if not tensors:
            return None
        whole = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        return whole if self._as_stacked else whole.index_select(0, self.of)


def _rows(source: Batches) -> Tensor:
    """Return the rows of X in the order in which they are read this time."""
    order, data = source.order(), source.data
    if order is not None:
        return order
    return torch.arange(len(data), device=data._X.device) if data.rows is None else data.rows


def _stacked(data: TaskData, rows: Tensor) -> tuple[dict[str, Tensor | None], Tensor]:
    """Return the batch of rows ``(n_sources, batch)``, its tensors with these axes in front."""
    inputs, y = data.select(rows.reshape(-1))
    split = {k: None if v is None else v.view(*rows.shape, -1) for k, v in inputs.items()}
    return split, y.view(*rows.shape, -1)
