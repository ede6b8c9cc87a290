"""What is indexed: types of kept columns, tables in memory, and what is refused."""

import datetime

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffcse.errors import InputError
from diffcse.searching.rows import rows_of


def kept(rows):
    return {name: values for batch, _ in rows.batches() for name, values in batch.kept.to_pydict().items()}


def test_text_columns_of_numbers_become_numbers(tmp_path):
    (tmp_path / "a.csv").write_text(
        "text,zip,year,price,done,mixed,empty\none,007,2001,1,true,1,\ntwo,12,,-2.5,False,x,\n"
    )
    rows = rows_of(tmp_path / "a.csv", keep=["zip", "year", "price", "done", "mixed", "empty"])
    assert [str(field.type) for field in rows.schema] == ["string", "int64", "double", "bool", "string", "string"]
    assert kept(rows) == {
        "zip": ["007", "12"], "year": [2001, None], "price": [1.0, -2.5], "done": [True, False], "mixed": ["1", "x"],
        "empty": ["", ""],
    }  # fmt: skip
    assert rows.total == 2


def test_types_of_parquet_and_of_jsonl_stay(tmp_path):
    day = datetime.date(2020, 1, 1)
    names = pa.array(["a", None]).dictionary_encode()
    table = pa.table({"text": ["one", "two"], "day": [day, None], "small": pa.array([1, 2], pa.int8()), "name": names})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = rows_of([tmp_path / "a.parquet"], keep=["day", "small", "name"])
    assert [str(field.type) for field in rows.schema][:2] == ["date32[day]", "int8"]
    (tmp_path / "a.jsonl").write_text(
        '{"text": "one", "n": 1, "tags": ["x"]}\n{"text": "two", "n": null, "tags": []}\n'
    )
    assert kept(rows_of(tmp_path / "a.jsonl", keep=["n", "tags"])) == {"n": [1, None], "tags": ['["x"]', "[]"]}


def test_tables_in_memory():
    frame = pandas.DataFrame({"title": ["one", "two"], "n": [1.5, None]})
    rows = rows_of(frame, "title", ["n"])
    assert [batch.texts for batch, _ in rows.batches()] == [["one", "two"]]
    assert kept(rows) == {"n": [1.5, None]}
    assert rows_of(frame["title"]).total == 2
    assert rows_of(text for text in ("one",)).total == 1


@pytest.mark.parametrize(
    ("texts", "options", "says"),
    [
        ({"text": ["a"]}, {"keep": ["n"]}, "no column 'n'"),
        ({"a": ["a"]}, {}, "no column 'text'"),
        (["a"], {"keep": ["n"]}, "no columns"),
        ({"text": ["a"], "row": [1]}, {"keep": ["row"]}, "--keep row"),
        ({"text": ["a"], "title": ["b"]}, {"column": "title", "keep": ["text"]}, "--keep text"),
        ({"text": ["a"], "a.b": [1]}, {"keep": ["a.b"]}, "--keep a.b"),
        ({"text": ["a"], "_x": [1]}, {"keep": ["_x"]}, "--keep _x"),
        (["a"], {"vectors": [[1.0], [2.0]]}, "vectors: of shape"),
        ({"text": ["a", "b"], "n": [1, "x"]}, {"keep": ["n"]}, "column 'n'"),
    ],
)
def test_what_is_refused(texts, options, says):
    with pytest.raises(InputError, match=says):
        rows_of(texts, **options)


def test_a_missing_column_is_an_error_at_once(tmp_path):
    (tmp_path / "a.csv").write_text("title,n\none,1\n")
    for options, says in (({}, "no column 'text'"), ({"column": "title", "keep": ["m"]}, "no column 'm'.*--keep")):
        with pytest.raises(InputError, match=says):
            rows_of(tmp_path / "a.csv", **options)
