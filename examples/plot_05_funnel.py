"""
Who clicks, who buys, who gets a parcel: a funnel over all visitors
===================================================================

Of those who see an offer some click, of those who click some buy, of those who buy some get their
parcel shipped on the same day. For the last two questions labels exist only where the step before
was taken, and there are fewer and fewer of them. A model of each step that is trained on the rows
observed learns from rows that are unlike those that it is asked about: people who clicked.

A ``Funnel`` trains the products along the way, p(click), p(click) p(buy | click) and so on, over
all rows. This example compares both where the truth is known, and says what the funnel is not:
a better learner than separate networks whose predictions are multiplied with care.
"""

# %%
# The visitors
# ------------
# Generated, so that every row's true probabilities are known. What makes people click also makes
# them buy: those who clicked are no sample of all. Labels below a step that was not taken are
# missing, as they are in the tables of a shop. The test rows are drawn anew, with the truth.

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from sk_mtl import MultiTaskClassifier
from sk_mtl.cascades import Funnel

STEPS = ["click", "buy", "ship"]
small = os.environ.get("SK_MTL_EXAMPLES") == "small"  # a smoke test, not a result
n_train, n_test, rate = (1_000, 2_000, 0.02) if small else (10_000, 50_000, 0.002)


def visitors(n_rows, seed):
    """Return features, what happened, and how likely it was."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 8))
    interest = X[:, 0] + 0.5 * X[:, 1] * X[:, 2]
    steps = [1.5 * interest - 1.5, 1.5 * interest + X[:, 3] - 2.0, X[:, 4] - X[:, 5] - 1.0]
    given_the_last = expit(np.column_stack(steps))
    happened = np.cumprod(rng.random((n_rows, 3)) < given_the_last, axis=1)
    return X, pd.DataFrame(happened.astype(float), columns=STEPS), given_the_last.cumprod(axis=1)


X, happened, _ = visitors(n_train, seed=0)
Y = happened.copy()
Y.loc[Y["click"] == 0, ["buy", "ship"]] = np.nan
Y.loc[Y["buy"] == 0, "ship"] = np.nan
X_test, Y_test, truth = visitors(n_test, seed=1)

console = Console(width=100)
counts = pd.DataFrame({"rows with a label": Y.notna().sum(), "positive": happened.sum()})
console.print(f"{counts.astype(int)}\n")

# %%
# The models
# ----------
# All are plain networks with the same layers, stop early, and see the same table with its gaps.
# "Separate" is a network a step, which says of everyone how likely one who took the step before
# would take this one. To multiply that along the way by hand is the least that one has to do.
#
# The funnel is a mapping from each step to the one before it. It fills the labels below a step
# that was not taken by itself.


def fitted(trunk, dependencies=None):
    """Return p(step) for the test rows, a column a step."""
    model = MultiTaskClassifier(
        trunk,
        task_dependencies=dependencies,
        n_members=1,
        scaling=None,
        embedding=None,
        input_scale_rate=0,
        linear_path=False,
        hidden_layer_sizes=(32, 16),
        dropout=0.0,
        learning_rate_init=rate,
        ema_decay=0.0,
        max_iter=500,
        n_iter_no_change=10,
        early_stopping=True,
        random_state=0,
    ).fit(X, Y)
    return np.column_stack([p[:, 1] for p in model.predict_proba(X_test)])


separate = fitted("single_task")
predicted = {
    "separate": separate,
    "multiplied by hand": separate.cumprod(axis=1),
    "funnel": fitted("shared_bottom", Funnel({"buy": "click", "ship": "buy"})),
}

# %%
# What comes out
# --------------
# Log loss over all test rows, above that of the true probabilities, which no model can beat; and
# the mean prediction, which is to be the share of visitors who took the step.
#
# As they are, the separate networks promise several times the sales that there will be.
# Multiplied by hand they are about as good as the funnel: on other draws of this table, which of
# the two is ahead changes with the draw. The funnel saves the care: ``predict``, ``score``, a
# search and every scorer see the probability that is asked for, and no row is likelier to buy
# than to click.

view = Table("", title="All test rows", title_justify="left", box=SIMPLE)
view.columns[0].no_wrap = True
for heading in ("excess loss,", "mean of"):
    for step in STEPS:
        view.add_column(f"{heading}\n{step}", justify="right")
best = [log_loss(Y_test[step], truth[:, t]) for t, step in enumerate(STEPS)]
for name, p in predicted.items():
    losses = [log_loss(Y_test[step], p[:, t]) - best[t] for t, step in enumerate(STEPS)]
    view.add_row(name, *(f"{v:+.4f}" for v in losses), *(f"{v:.3f}" for v in p.mean(axis=0)))
view.add_row("the truth", *["0"] * 3, *(f"{v:.3f}" for v in truth.mean(axis=0)))
console.print(view)

for name, p in predicted.items():
    wrong = (np.diff(p, axis=1) > 0).any(axis=1).mean()
    console.print(f"{name}: {wrong:.1%} of rows likelier to take a step than the one before it")

# %%
# The picture
# -----------
# Predictions in ten bins of as many rows, against the share of the bin that took the step. On the
# diagonal a prediction means what it says; no calibration was done.

plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
COLOURS = ["#5c6670", "#d55e00", "#0072b2"]
figure, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
for t, (ax, step) in enumerate(zip(axes, STEPS, strict=True)):
    ax.plot([0, 1], [0, 1], color="#e4e8eb", zorder=0)
    for (name, p), colour in zip(predicted.items(), COLOURS, strict=True):
        share, mean = calibration_curve(Y_test[step], p[:, t], n_bins=10, strategy="quantile")
        ax.plot(mean, share, "o-", color=colour, markersize=4, label=name)
    ax.set_title(f"{step}: {Y_test[step].mean():.1%} of visitors", loc="left", fontsize=10)
    ax.set_xlabel("predicted")
axes[0].set_ylabel("observed")
axes[0].legend(fontsize=8)

path = Path("outputs/funnel.png")
path.parent.mkdir(exist_ok=True)
figure.savefig(path, dpi=120)
console.print(f"\nPicture: {path}")
