"""Descriptions that the three estimators share, written once and filled in at import."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

PARAMETERS = """
trunk : str or Trunk, default="shared_bottom"
    What stands between the features and the heads: "shared_bottom", "mmoe", "ple",
    "cross_stitch", "dselect_k", "attention", "adatt", "soft_sharing", "single_task", or an object
    such as ``MMoE(n_experts=4)``.
categorical_features : "from_dtype", array-like or None, default="from_dtype"
    Which columns are categories: those of a frame that hold strings or are of a categorical
    dtype; or names, indices or a mask of columns; or none. A missing cell is a category of its
    own, rare categories are one, and one that is seen first in ``predict`` counts as rare, or as
    missing where none was.
scaling : {"robust", "standard"} or None, default="robust"
    What is done to numbers: "robust" subtracts the median, divides by the interquartile range,
    and clips smoothly; "standard" subtracts the mean and divides by the standard deviation; None
    leaves them as they are.
    Missing cells are filled with the centre, and flagged in a column of their own.
embedding : str, Embedding or None, default="piecewise_linear"
    What numbers become before the trunk reads them: "piecewise_linear", "periodic", None, or an
    object such as ``PiecewiseLinear(n_bins=8)`` of ``sk_mtl.embeddings``. Numbers of a sparse X
    enter as they are.
input_scale_rate : float, default=6.0
    Every input of the trunk is multiplied by a learned factor, so that what says little is left
    out soon; with ``solver="adam"`` it learns so many times as fast as other weights. 0: none.
linear_path : bool, default=True
    Whether to fit a ridge regression beside each network, and to mix it in as much as helps on
    held-out rows. It reads numbers as they were before they were clipped, but no further beyond
    the training rows than these reach. Not for a task of weight 0, not with ``task_dependencies``
    or a sparse X, not where no rows are held out, and not where it would take longer than some
    seconds.
hidden_layer_sizes : tuple of int, default=(256, 128)
    Widths of the hidden layers of the trunk; of every expert's where there are experts.
head_hidden_layer_sizes : tuple of int, default=()
    Widths of the hidden layers of each task's own head.
activation : {"identity", "logistic", "tanh", "relu", "gelu", "silu"}, default="relu"
    Activation of the hidden layers.
dropout : float or "auto", default="auto"
    Share of hidden units dropped while training; "auto" is 0.1 where members hold rows out in
    turn, else 0.
loss : str, Loss, list, dict or None, default=None
    {loss}
task_dependencies : dict, Cascade or None, default=None
    Tasks that depend on others: a dict from names to names of parents, whose outputs their heads
    read beside the features, or ``OutputCascade`` or ``Funnel`` of ``sk_mtl.cascades``.
task_weights : array-like of shape (n_tasks,), dict or None, default=None
    How much each task counts; a dict by task name leaves out tasks of weight 1. Only the
    ratios matter: the loss is sum(w L) / sum(w). None counts all alike.
weighting : str, Weighting or object of torchjd, default="static"
    How tasks are balanced: "static" (``task_weights`` as they are), "uniform", "by_level"; by the
    losses "uncertainty", "dwa", "random", "geometric_mean", "stch", "famo", "imtl_l"; by the
    gradients of what tasks share "gradnorm", "pcgrad", "gradvac", "cagrad", "mgda", "imtl_g",
    "aligned_mtl", "graddrop", "nash_mtl", "fairgrad", "upgrad", "dualproj", "config",
    "excess_mtl", or "representation_gradients", which shows one of them the gradients of the
    shared features. ``sk_mtl.weighting`` has them as objects with parameters.
penalty : str, Penalty or None, default=None
    On the heads of related tasks: "covariance" and "cluster" learn how tasks are related, "graph"
    is told, "trace_norm" keeps heads in few dimensions. ``sk_mtl.penalties`` has them as objects.
    Tasks of more than two classes stand apart.
n_members : int, default=8
    Networks that are trained and averaged. On 16 rows or more each of five or more holds out a
    fold of its own to stop by, so that every row is learned from by the others; of fewer than 64
    rows, those that are alike in all features and labels count once. They train as one stack,
    unless something has to follow a single network: ``callbacks``, ``verbose`` (which prints the
    epochs of one member after the other), a weighting by gradients.
{class_weight}solver : {"adam", "sgd"}, default="adam"
    Optimiser.
alpha : float, default=0.0001
    Strength of the L2 penalty on the weights, divided by the sample size when added to the
    loss, as in scikit-learn's MLP. A task's own layers are penalised in proportion to the
    task's weight.
batch_size : int or "auto", default="auto"
    Rows a batch; "auto" is ``n_samples // 32``, from 32 to 256, but about a quarter of the rows at
    most, where members hold rows out in turn, else ``min(200, n_samples)``.
learning_rate_init : float, default=0.002
    Learning rate.
momentum : float, default=0.9
    Momentum. Only used when ``solver="sgd"``.
nesterovs_momentum : bool, default=True
    Whether momentum is Nesterov's. Only used when ``solver="sgd"`` and ``momentum > 0``.
ema_decay : float, default=0.99
    Share that a step leaves of the moving average of the weights, which is what is validated and
    predicts; 0 keeps the weights of the last step. Not used by ``partial_fit``.
max_iter : int, default=256
    Epochs at most.
shuffle : bool, default=True
    Whether to shuffle the rows in every epoch.
random_state : int, RandomState instance or None, default=None
    Determines initial values, shuffles, dropout and the validation split. An int gives
    identical bits on the same device with the same number of threads.
tol : float, default=0.0001
    An epoch that improves the loss by less counts as no improvement.
verbose : bool, default=False
    Whether to print a line an epoch.
warm_start : bool, default=False
    Whether ``fit`` continues from the last fit.
early_stopping : bool or "auto", default="auto"
    Whether to watch validation rows, stop when they no longer improve, and restore the best
    weights. "auto" does so where ``fit`` is given validation rows, with several members from 16
    rows on, and with one above 10,000.
validation_fraction : float, default=0.1
    Share of the rows set aside for that; of several members each holds out at least as much, but
    half of the rows at most. With ``groups`` these are groups that fit into it, or folds of about
    equal size. Only used when ``fit`` is given none.
n_iter_no_change : int, float or "auto", default="auto"
    Epochs without improvement before training stops; ``inf`` never stops early. "auto" is 400
    steps, but 8 epochs at least, where members hold rows out in turn, else 10 epochs.
stopping_tasks : list of str or int, or None, default=None
    Tasks that early stopping watches; None watches all.
stopping_rule : {"mean", "worst", "each"}, default="mean"
    Whether early stopping watches the mean over tasks of the validation loss relative to its
    first value, the worst task's, or each task for itself: training then goes on as long as any
    of them improves, and each is predicted by the weights of its own best epoch. That helps where
    one task is learned long before another, and keeps a network for each epoch that was the best
    for a task, so that predictions take as many times as long. Tasks of weight 0 follow the best
    epoch in the mean; so do ``transform``, ``best_iter_`` and ``best_loss_``, and what goes on
    learning later on (``partial_fit``). Not with ``task_dependencies``.
dtype : {"auto", "float32", "float64"}, default="auto"
    Type of the computation; "auto" is float32 where members hold rows of 64 or more out in turn,
    else the type of X, float64 if X is of neither.
device : str or torch.device, default="cpu"
    Where to compute: "cpu", "cuda", "mps", or "auto" for the best there is.
callbacks : list of skorch callbacks or None, default=None
    Told of every epoch (and batch) of the training; copied before use. They see encoded
    targets.
"""

CLASS_WEIGHT = """calibrate : bool, default=False
    Whether to scale every task's probabilities by a temperature (Guo et al. 2017) that is
    fitted to the rows held out for early stopping. Labels stay as they are. In a funnel a child
    that would come out above its parent is as probable as the parent.
class_weight : dict, list, "balanced" or None, default=None
    Weights of classes: "balanced" for all tasks; for one-dimensional y a dict by class; for
    several tasks a dict by task name or a list, of "balanced", dicts by class, or None.
    "balanced" is taken over the labelled training samples of each task; ``partial_fit``,
    which sees a batch of them, refuses it.
"""

ATTRIBUTES = """
task_names_ : list of str
    Names of the tasks: the columns of a frame Y, else ``task0``, ``task1``, ...
task_types_ : list of str
    "binary", "multiclass" or "regression", a task.
n_tasks_ : int
    Number of tasks.
{classes}n_features_in_ : int
    Number of features.
feature_names_in_ : ndarray of shape (n_features_in_,)
    Names of the features, where X has names that are all strings.
is_categorical_ : ndarray of bool of shape (n_features_in_,) or None
    Which columns are categories; None where none is.
estimators_ : list of estimators
    The members, each an estimator of one network; only with ``n_members > 1``. What follows are
    means over those still training then.
n_iter_ : int
    Epochs trained, by the member that took longest.
loss_curve_ : list of float
    Training loss of every epoch.
task_loss_curves_ : ndarray of shape (n_iter_, n_tasks)
    Training loss of every epoch and task.
validation_scores_ : list of float or None
    Mean over tasks of accuracy or R2 on the validation rows, every epoch; None without them.
validation_task_loss_curves_ : ndarray of shape (n_iter_, n_tasks) or None
    Validation loss of every epoch and task.
best_loss_ : float
    Lowest training loss; with early stopping, lowest relative validation loss (1 is that of
    the first epoch).
best_iter_ : int
    Epoch, counted from 1, of ``best_loss_``; with early stopping its weights are kept.
task_covariance_, task_correlation_ : ndarray of shape (n_tasks, n_tasks)
    How tasks are related; only with ``penalty="covariance"``.
net_ : skorch.NeuralNet
    The trained net: ``net_.module_`` is the torch module, ``net_.history`` has the losses and
    weights of every task and epoch. With several members each of ``estimators_`` has its own.
"""

CLASSES = """temperatures_ : ndarray of shape (n_tasks,)
    What log-probabilities are divided by{nan}; only with ``calibrate=True``.
classes_ : ndarray of shape (n_classes,) or list of such arrays
    Classes; a list with one array a task for two-dimensional Y{extra}.
"""

LOSS = {
    "classifier": '"log_loss" or "focal", an object such as ``Focal(gamma=1)``, or one a task\n'
    "    as a list or a dict by task name. None is the log loss.",
    "regressor": '"squared_error", "absolute_error", "huber", "poisson", "quantile", an object\n'
    "    such as ``Huber(delta=2)``, or one a task as a list or a dict by task name. None is\n"
    "    the squared error.",
    "mixed": "A name or object for all tasks, or one a task as a list or a dict by task name:\n"
    '    "log_loss", "focal"; "squared_error", "absolute_error", "huber", "poisson",\n'
    '    "quantile". None is the log loss for classes and the squared error for amounts.',
}

ClassT = TypeVar("ClassT", bound=type)


def document(kind: str) -> Callable[[ClassT], ClassT]:
    """Return a decorator that fills ``{parameters}`` and ``{attributes}`` in a docstring."""

    def fill(cls: ClassT) -> ClassT:
        parameters = PARAMETERS.replace("{loss}", LOSS[kind]).replace(
            "{class_weight}", "" if kind == "regressor" else CLASS_WEIGHT
        )
        extra = ", None for a regression task" if kind == "mixed" else ""
        nan = ", NaN for a regression task" if kind == "mixed" else ""
        known = CLASSES.replace("{extra}", extra).replace("{nan}", nan)
        classes = "" if kind == "regressor" else known
        attributes = ATTRIBUTES.replace("{classes}", classes)
        doc = cls.__doc__ or ""
        for name, text in (("parameters", parameters), ("attributes", attributes)):
            indented = re.sub(r"(?m)^(?=.)", "    ", text.strip("\n"))
            doc = doc.replace(f"    {{{name}}}", indented)
        cls.__doc__ = doc
        return cls

    return fill
