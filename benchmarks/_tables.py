"""Tables with several tasks: read from a folder, or made up, and what a user does to them first.

A folder holds one folder a table: ``meta.json`` and the data file that it names. Nothing here
knows ``sk_mtl``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.datasets import fetch_openml
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

MISSING = "missing"  # the category of cells that have none
FARTHEST = 5.0  # standard deviations, where numbers are cut: R2 shall not hang on one odd row


@dataclass(frozen=True)
class Table:
    """A table with several tasks.

    Attributes
    ----------
    X, Y : DataFrame
        Features, and labels with NaN where one is missing.
    kinds : list of str
        "classification" or "regression", a task.
    categorical : list of str
        Columns of X that hold categories.
    sha256 : str
        Of the data file, as ``meta.json`` has it; empty if it was made up.
    groups : ndarray or None
        Of every row, where rows of one group may not be on both sides of a split.
    task_of_row : ndarray or None
        Of every row, where each belongs to one task: tasks are populations, not questions.
    extra : DataFrame or None
        Columns of the file that are neither features nor labels, such as published splits.
    """

    X: Any
    Y: Any
    kinds: list[str]
    categorical: list[str]
    sha256: str = ""
    groups: Any = None
    task_of_row: Any = None
    extra: Any = None

    def facts(self) -> dict[str, Any]:
        """Return what a reader wants to know of it, and what it is recognised by."""
        n_classes = sum(kind == "classification" for kind in self.kinds)
        return {
            "n_rows": len(self.X),
            "n_features": self.X.shape[1],
            "n_classification_tasks": n_classes,
            "n_regression_tasks": len(self.kinds) - n_classes,
            "missing_labels": round(float(self.Y.isna().to_numpy().mean()), 4),
            "sha256": self.sha256,
        }


def read(folder: Path, name: str, most_rows: int, most_tasks: int) -> Table:
    """Return a table, cut to some of its rows at random and to the first of its tasks.

    Parameters
    ----------
    folder : Path
        Where the tables are.
    name : str
        Folder of the table in it.
    most_rows, most_tasks : int
        How much of it to keep at most.
    """
    path = folder / name / "meta.json"
    if not path.exists():
        raise FileNotFoundError(
            f"Got no {path}, expected the description of a table. Pass another folder or name."
        )
    meta = json.loads(path.read_text(encoding="utf-8"))
    X, Y = _columns(path.with_name(meta["file"]), meta)
    categorical = list(meta["categorical_columns"])
    if len(X) > most_rows:
        rows = np.random.default_rng(0).choice(len(X), size=most_rows, replace=False)
        X, Y = X.iloc[np.sort(rows)], Y.iloc[np.sort(rows)]
    Y = Y.iloc[:, :most_tasks].reset_index(drop=True)
    X = X.reset_index(drop=True)
    for column in categorical:
        X[column] = X[column].astype("string").fillna(MISSING).astype(object)
    types = [str(meta["target_types"][task]) for task in Y.columns]
    kinds = ["regression" if t.startswith("regression") else "classification" for t in types]
    return Table(X, Y, kinds, categorical, meta.get("sha256", ""))


def _columns(path: Path, meta: Any) -> tuple[Any, Any]:
    """Return features and labels of a file of columns, or of arrays that describe molecules."""
    if path.suffix == ".npz":  # its fingerprints would take more time than all other tables
        arrays = np.load(path)
        X = pd.DataFrame(arrays["descriptors"], columns=arrays["descriptor_names"])
        return X, pd.DataFrame(arrays["Y"], columns=arrays["target_names"])
    is_parquet = path.suffix == ".parquet"
    table = pd.read_parquet(path) if is_parquet else pd.read_csv(path, low_memory=False)
    return table[meta["feature_columns"]].copy(), table[meta["target_columns"]].copy()


# As they come --------------------------------------------------------------------------------


def read_whole(folder: Path, name: str, most_rows: int) -> Table:
    """Return a table as its file has it: category columns, gaps, fingerprints, all tasks.

    Parameters
    ----------
    folder : Path
        Where the tables are.
    name : str
        Folder of the table in it.
    most_rows : int
        How many rows to keep at most, drawn at random but always the same.

    Notes
    -----
    ``groups`` come from the file's ``group_column``, or from ``GROUPS``, where rows of a table
    depend on one another. Where rows belong to disjoint tasks, the one label becomes a column a
    task.
    """
    path = folder / name / "meta.json"
    if not path.exists():
        raise FileNotFoundError(
            f"Got no {path}, expected the description of a table. Pass another folder or name."
        )
    meta = json.loads(path.read_text(encoding="utf-8"))
    X, Y, extra = _whole(path.with_name(meta["file"]), meta)
    column, task_of_row = meta.get("group_column"), None
    groups = None if column is None else extra[column].to_numpy()
    if "disjoint" in meta.get("task_layout", ""):
        groups, task_of_row = None, groups
    elif name in GROUPS:
        groups = GROUPS[name](X, Y, extra)
    if len(X) > most_rows:
        rows = np.sort(np.random.default_rng(0).choice(len(X), size=most_rows, replace=False))
        X, Y, extra = (frame.iloc[rows].reset_index(drop=True) for frame in (X, Y, extra))
        groups = None if groups is None else groups[rows]
        task_of_row = None if task_of_row is None else task_of_row[rows]
    for c in meta["categorical_columns"]:
        X[c] = X[c].astype("category")
    types = meta["target_types"]
    kinds = ["regression" if str(types[t]).startswith("regr") else "classification" for t in Y]
    if task_of_row is not None:
        Y = _by_task(Y.iloc[:, 0], task_of_row)
        kinds *= Y.shape[1]
    categorical = list(meta["categorical_columns"])
    return Table(X, Y, kinds, categorical, meta.get("sha256", ""), groups, task_of_row, extra)


def from_openml(number: int, most_rows: int) -> Table:
    """Return a data set of openml.org, by its number; needs a network.

    Its targets are those that openml.org names, its rows cut as in :func:`read_whole`.
    """
    bunch = fetch_openml(data_id=number, as_frame=True, parser="auto")
    X, Y = bunch.data, pd.DataFrame(bunch.target)
    if len(X) > most_rows:
        rows = np.sort(np.random.default_rng(0).choice(len(X), size=most_rows, replace=False))
        X, Y = X.iloc[rows], Y.iloc[rows]
    X, Y = X.reset_index(drop=True), Y.reset_index(drop=True)
    texts = [c for c in X if not pd.api.types.is_numeric_dtype(X[c])]
    X = X.astype(dict.fromkeys(texts, "category"))
    is_number = [pd.api.types.is_numeric_dtype(dtype) for dtype in Y.dtypes]
    Y = Y.astype({c: object for c, number in zip(Y, is_number, strict=True) if not number})
    kinds = ["regression" if number else "classification" for number in is_number]
    known_by = f"openml {number} version {bunch.details.get('version')}"
    return Table(X, Y, kinds, texts, known_by)


def _whole(path: Path, meta: Any) -> tuple[Any, Any, Any]:
    """Return features, labels and what else a file has."""
    if path.suffix != ".npz":
        is_parquet = path.suffix == ".parquet"
        table = pd.read_parquet(path) if is_parquet else pd.read_csv(path, low_memory=False)
        features, labels = meta["feature_columns"], meta["target_columns"]
        return table[features].copy(), table[labels].copy(), table.drop(columns=features + labels)
    arrays = np.load(path)
    bits = np.unpackbits(arrays["ecfp4_1024_packed"], axis=1)
    parts = [pd.DataFrame(bits).add_prefix("bit ")]
    if "descriptors" in arrays:
        parts.append(pd.DataFrame(arrays["descriptors"], columns=arrays["descriptor_names"]))
    Y = pd.DataFrame(arrays["Y"], columns=arrays["target_names"])
    splits = {key: arrays[key] for key in arrays.files if key.startswith("split")}
    return pd.concat(parts, axis=1), Y, pd.DataFrame(splits, index=Y.index)


def _by_task(y: Any, task_of_row: Any) -> Any:
    """Return one column a task, with the labels of its rows."""
    tasks = np.unique(task_of_row)
    wide = np.where(task_of_row[:, None] == tasks, y.to_numpy(dtype=float)[:, None], np.nan)
    return pd.DataFrame(wide, columns=[f"task {task}" for task in tasks])


def _same(*frames: Any) -> Any:
    """Return a number for every row, the same for rows that are equal in all frames."""
    whole = pd.concat(frames, axis=1)
    return whole.groupby(list(whole.columns), dropna=False).ngroup().to_numpy()


def _runs(frame: Any) -> Any:
    """Return a number for every row, the same for neighbours that are equal."""
    return (frame != frame.shift()).any(axis=1).cumsum().to_numpy()


HOURS_A_WEEK = 168
PUPIL = ["school", "sex", "age", "address", "famsize", "Pstatus", "Medu", "Fedu", "Mjob", "Fjob"]
PUPIL += ["reason", "nursery", "internet"]  # by these the two files of the students are joined
# Whose rows depend on one another, and by what: their files name no column of groups.
GROUPS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "air_quality": lambda X, Y, extra: _weeks(extra["timestamp"]),
    "bike_sharing": lambda X, Y, extra: _same(extra[["dteday"]]),
    "hydraulic": lambda X, Y, extra: _runs(Y[["cooler", "valve", "pump_leak", "accumulator"]]),
    "mtr/rf1": lambda X, Y, extra: np.arange(len(X)) // HOURS_A_WEEK,  # a row an hour
    "student": lambda X, Y, extra: _same(X[PUPIL]),
    "tecator": lambda X, Y, extra: _same(X, Y),  # some samples are there twice
}


def _weeks(times: Any) -> Any:
    """Return the number of the week of every time."""
    times = pd.to_datetime(times)
    return ((times - times.min()).dt.days // 7).to_numpy()


# Made up -------------------------------------------------------------------------------------


def made_up(n_rows: int = 120, as_it_comes: bool = False) -> Table:
    """Return a small table of every kind of column and task, with gaps.

    Parameters
    ----------
    n_rows : int, default=120
        Number of rows.
    as_it_comes : bool, default=False
        Whether categories are a category column with gaps, as in :func:`read_whole`.
    """
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(n_rows, 4)), columns=list("abcd"))
    X["kind"] = rng.choice(["red", "green", MISSING], n_rows)
    score = X["a"] + (X["kind"] == "red")
    Y = pd.DataFrame(
        {
            "two": (score > 0).astype(float),
            "three": np.digitize(X["b"] + score, [0.0, 1.0]).astype(float),
            "amount": 10.0 * score - X["c"],
        }
    )
    X.loc[::7, "d"] = np.nan
    Y.loc[::5, "two"] = np.nan
    kinds = ["classification", "classification", "regression"]
    if as_it_comes:
        X["kind"] = X["kind"].where(X["kind"] != MISSING).astype("category")
    return Table(X, Y, kinds, ["kind"])


def preprocessing(table: Table) -> ColumnTransformer:
    """Return categories as columns of 0 and 1; numbers scaled, with the median for gaps."""
    numbers = [column for column in table.X.columns if column not in table.categorical]
    fill = SimpleImputer(strategy="median", keep_empty_features=True)
    cut = FunctionTransformer(np.clip, kw_args={"a_min": -FARTHEST, "a_max": FARTHEST})
    one_hot = OneHotEncoder(
        handle_unknown="infrequent_if_exist", min_frequency=10, sparse_output=False
    )
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(fill, StandardScaler(), cut), numbers),
            ("categories", one_hot, table.categorical),
        ]
    )
