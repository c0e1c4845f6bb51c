"""What was found of sharing, as numbers, as a table and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HELPS, HURTS, UNSURE, UNKNOWN = "helps", "hurts", "cannot be told", "has no score"


@dataclass(frozen=True, eq=False, repr=False)
class MultiTaskGain:
    """Result of :func:`multi_task_gain`; ``print`` it for a report.

    Attributes
    ----------
    task_names : list of str
        The tasks, in whose order all arrays are.
    scores : ndarray of shape (n_tasks,)
        Mean score over the folds with sharing, higher is better.
    single_task_scores : ndarray of shape (n_tasks,)
        The same without sharing.
    gain : ndarray of shape (n_tasks,)
        Their difference.
    gain_interval : ndarray of shape (n_tasks, 2)
        Confidence interval of each gain; NaN with a single fold.
    relative_gain : ndarray of shape (n_tasks,)
        Gain over the score without sharing; NaN where that is zero or below.
    mean_relative_gain : float
        Mean of the relative gains, Delta_m; NaN where one is.
    mean_relative_gain_interval : tuple of (float, float)
        Its confidence interval.
    fold_scores : ndarray of shape (n_folds, n_tasks)
        Scores with sharing, repeat after repeat.
    single_task_fold_scores : ndarray of shape (n_folds, n_tasks)
        The same without sharing.
    confidence : float
        Confidence level of the intervals.
    described : str
        What shares.
    """

    task_names: list[str]
    scores: NDArray[np.float64]
    single_task_scores: NDArray[np.float64]
    gain: NDArray[np.float64]
    gain_interval: NDArray[np.float64]
    relative_gain: NDArray[np.float64]
    mean_relative_gain: float
    mean_relative_gain_interval: tuple[float, float]
    fold_scores: NDArray[np.float64]
    single_task_fold_scores: NDArray[np.float64]
    confidence: float
    described: str

    @property
    def verdicts(self) -> list[str]:
        """Whether sharing "helps", "hurts", or it "cannot be told", a task."""
        return [_verdict(low, high) for low, high in self.gain_interval]

    def to_frame(self) -> Any:
        """Return the table as a pandas frame, one row a task.

        Returns
        -------
        DataFrame
            With the columns ``score``, ``single_task_score``, ``gain``, ``gain_low``,
            ``gain_high``, ``relative_gain`` and ``verdict``.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "Got a call of to_frame without pandas, expected it installed. Run `pip install "
                "pandas`, or read the attributes."
            ) from error
        columns = {
            "score": self.scores,
            "single_task_score": self.single_task_scores,
            "gain": self.gain,
            "gain_low": self.gain_interval[:, 0],
            "gain_high": self.gain_interval[:, 1],
            "relative_gain": self.relative_gain,
            "verdict": self.verdicts,
        }
        return pd.DataFrame(columns, index=pd.Index(self.task_names, name="task"))

    def __repr__(self) -> str:
        verdicts = (HELPS, HURTS, UNSURE, UNKNOWN)
        counts = [f"{self.verdicts.count(v)} {v}" for v in verdicts if v in self.verdicts]
        return f"MultiTaskGain(mean_relative_gain={self._mean()}; {', '.join(counts)})"

    def __str__(self) -> str:
        return "\n".join([*self._table(), "", *self._words()])

    def _mean(self) -> str:
        """Return the mean relative gain and its interval."""
        if np.isnan(self.mean_relative_gain):
            return "undefined"
        low, high = map(_percent, self.mean_relative_gain_interval)
        return f"{_percent(self.mean_relative_gain)} [{low}, {high}]"

    def _table(self) -> list[str]:
        """Return the lines of the table."""
        level = f"{100 * self.confidence:g} % interval"
        wide = max(len("task"), *map(len, self.task_names))
        lines = [
            f"Gain of sharing ({self.described}) over networks of one task, "
            f"{len(self.fold_scores)} folds",
            "",
            f"{'task':<{wide}}  sharing    alone     gain  {level:^20}  relative   verdict",
        ]
        for t, name in enumerate(self.task_names):
            low, high = self.gain_interval[t]
            interval = f"[{low:+.4f}, {high:+.4f}]"
            lines.append(
                f"{name:<{wide}}  {self.scores[t]:7.4f}  {self.single_task_scores[t]:7.4f}  "
                f"{self.gain[t]:+7.4f}  {interval:^20}  {_percent(self.relative_gain[t]):<9}  "
                f"{self.verdicts[t]}"
            )
        return [*lines, f"mean relative gain (Delta_m): {self._mean()}"]

    def _words(self) -> list[str]:
        """Return the lines that say what it means, and what to do."""
        said = []
        if told := self._named(HELPS):
            said.append(f"Sharing helps {told}.")
        if told := self._named(HURTS):
            said.append(
                f"Sharing hurts {told}. Remedies: a trunk in which tasks may part (trunk='mmoe' "
                "or 'ple'), groups of tasks that help one another (TaskGrouper), a weighting that "
                "balances their gradients, or more weight on these tasks (task_weights)."
            )
        if told := self._named(UNSURE):
            said.append(
                f"It cannot be told whether sharing helps or hurts {told}: the interval holds "
                "zero. More rows narrow it, and more folds (n_repeats) a little."
            )
        if told := self._named(UNKNOWN):
            said.append(f"There are too few folds with a score of {told} to tell.")
        undefined = np.isnan(self.relative_gain)
        if undefined.any():
            told = _listed([n for n, u in zip(self.task_names, undefined, strict=True) if u])
            said.append(
                f"No relative gain is defined for {told}, nor a mean over the tasks: without "
                "sharing the score is zero or below (or a loss is zero)."
            )
        return said

    def _named(self, verdict: str) -> str:
        """Return the tasks of a verdict, listed."""
        pairs = zip(self.task_names, self.verdicts, strict=True)
        return _listed([name for name, own in pairs if own == verdict])


def _verdict(low: float, high: float) -> str:
    if np.isnan(low):
        return UNKNOWN
    if low > 0:
        return HELPS
    return HURTS if high < 0 else UNSURE


def _percent(share: float) -> str:
    return "undefined" if np.isnan(share) else f"{share:+.1%}"


def _listed(names: list[str]) -> str:
    """Return ``'a', 'b' and 'c'``."""
    quoted = [repr(name) for name in names]
    return (
        " and ".join([", ".join(quoted[:-1]), quoted[-1]]) if len(quoted) > 1 else "".join(quoted)
    )
