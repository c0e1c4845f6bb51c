"""Choose the folds by which candidates compare when a search was ended before all were done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sk_mtl.model_selection._jobs import Outcome


def shared_folds(outcomes: Sequence[Outcome], n_folds: int) -> list[int]:
    """Return the folds that all candidates have of which some fit was seen to its end.

    Fits that were cut short count only where there are no others. Stacks go from fold to fold, so
    it is most often the first ones. If workers were at different places, the fold that most have
    decides who is compared, and those have others in common too.

    Parameters
    ----------
    outcomes : sequence of Outcome
        At least one.
    n_folds : int
        Folds of the search.
    """
    done: dict[int, set[int]] = {}
    finished = [outcome for outcome in outcomes if not outcome.interrupted]
    for outcome in finished or outcomes:
        done.setdefault(outcome.candidate, set()).add(outcome.fold)
    having = Counter(fold for folds in done.values() for fold in folds)
    most = max(range(n_folds), key=lambda fold: having[fold])
    return sorted(set.intersection(*(folds for folds in done.values() if most in folds)))
