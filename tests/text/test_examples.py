from __future__ import annotations

import csv
import doctest
import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcse.config import Text
from diffcse.errors import InputError
from diffcse.text import examples as examples_module
from diffcse.text import lines, store
from diffcse.text.examples import Examples, read_examples

PAIRS = Text(anchor="sent0", positive="sent1")
TRIPLETS = Text(anchor="sent0", positive="sent1", hard_negative="hard_neg")


def write_csv(path: Path, rows: list, header=("sent0", "sent1", "hard_neg")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header[: len(rows[0])] if rows else header, *rows])
    return path


def oracle(rows: list[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], dict[str, int]]:
    """What stays of the rows, and the counts, by a loop."""
    kept: dict[tuple[str, ...], None] = {}
    counts = {"rows": len(rows), "empty": 0, "contradictory": 0, "duplicates": 0, "equal": 0}
    for row in rows:
        row = tuple(" ".join(cell.split()) for cell in row)
        if "" in row:
            counts["empty"] += 1
        elif len(row) == 3 and (row[2] == row[0] or row[2] == row[1]):
            counts["contradictory"] += 1
        else:
            counts["equal"] += row[0] == row[1]
            counts["duplicates"] += row in kept
            kept[row] = None
    return list(kept), counts


cell = st.sampled_from(["a", "b", " c ", "d e", "d  e", "", "é"])


@settings(max_examples=200)
@given(
    rows=st.lists(st.tuples(cell, cell), max_size=20) | st.lists(st.tuples(cell, cell, cell), max_size=20),
    block=st.integers(1, 40),
)
def test_rows_are_kept_as_a_loop_keeps_them(tmp_path_factory, rows, block) -> None:
    folder = tmp_path_factory.mktemp("examples")
    expected, counts = oracle(rows)
    width = len(rows[0]) if rows else 3
    file = write_csv(folder / "a.csv", rows)
    text = (None, None, PAIRS, TRIPLETS)[width]
    if not expected:
        with pytest.raises(InputError, match="holds no example"):
            read_examples([file], text=text, cache_dir=folder / "cache")
        with pytest.raises(InputError, match="holds no example"):
            Examples.from_rows(rows)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block)
        read = read_examples([file], text=text, cache_dir=folder / "cache")
    for examples in (read, Examples.from_rows(rows), pickle.loads(pickle.dumps(read))):
        assert list(examples) == [examples[i] for i in range(len(examples))] == expected
        assert {name: getattr(examples.counts, name) for name in counts} == counts
        assert (examples.counts.examples, len(examples)) == (len(expected), len(expected))
        assert list(examples.sentences) == list(dict.fromkeys(s for row in expected for s in row))
        assert examples.counts.sentences == len(examples.sentences)
        assert examples.rows.shape == (len(expected), width)
        joined = "\n".join("\t".join(row) for row in expected)
        assert examples.sha256 == hashlib.sha256(joined.encode()).hexdigest()
    assert read.columns == ("sent0", "sent1", "hard_neg")[:width]
    shutil.rmtree(folder)


def test_the_cache_and_the_summary(tmp_path: Path, monkeypatch) -> None:
    rows = [("a", "b", "c"), ("a", "b", "c"), ("a", "a", "c"), ("a", "", "c"), ("a", "b", "a")]
    file = write_csv(tmp_path / "a.csv", rows)
    examples = read_examples([file], text=TRIPLETS, cache_dir=tmp_path / "cache")
    assert examples.summary() == (
        "2 triplets of 3 sentences from 1 file (5 rows; 1 with an empty cell, 1 contradictory and 1 duplicate left "
        "out; 1 with anchor = positive kept)"
    )
    assert [(s.name, s.bytes) for s in examples.sources] == [("a.csv", file.stat().st_size)]
    with monkeypatch.context() as patch:
        patch.setattr(store, "build", lambda *_: pytest.fail("read again"))
        again = read_examples([file], text=TRIPLETS, cache_dir=tmp_path / "cache")
    assert (list(again), again.counts, again.columns) == (list(examples), examples.counts, examples.columns)
    assert len(read_examples([file], text=PAIRS, cache_dir=tmp_path / "cache")) == 2
    for part in ("rows.npy", "record.json", "sentences.bin", "offsets.npy"):
        (examples.folder / part).unlink()
        (examples.folder / part).write_bytes(b"torn")
        again = read_examples([file], text=TRIPLETS, cache_dir=tmp_path / "cache")
        assert list(again) == [("a", "b", "c"), ("a", "a", "c")]


def test_processes_change_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 200)
    rows = [{"sent0": f"a {i % 97}", "sent1": f"b {i % 89}"} for i in range(400)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one, other = (
        read_examples([tmp_path / "a.jsonl"], text=PAIRS, cache_dir=tmp_path / str(n), processes=n) for n in (1, 2)
    )
    assert one.sha256 == other.sha256
    assert list(one) == [(row["sent0"], row["sent1"]) for row in rows]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.csv", Text(), r"text\.anchor and text\.positive must name the columns"),
        ("a.txt", PAIRS, r"a\.txt: plain text has no columns"),
        ("a.csv", Text(anchor="sent0", positive="sent2"), r"no column 'sent2'. Did you mean 'sent.'.*text\.positive"),
        ("a.csv", Text(anchor="x", positive="sent1"), r"no column 'x'. There are: .* Set text\.anchor"),
        (
            "a.csv",
            Text(anchor="sent0", positive="sent1", hard_negative="neg"),
            r"no column 'neg'.*Set text\.hard_negative",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, text: Text, problem: str) -> None:
    file = write_csv(tmp_path / name, [("a", "b", "c")])
    with pytest.raises(InputError, match=problem):
        read_examples([file], text=text, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("ab", "rows: one string"),
        (["ab"], r"rows\[0\]: one string was given"),
        ([("a", "b"), ("a", 1)], r"rows\[1\]\[1\] is of type int"),
        ([("a",)], r"rows\[0\] has 1 strings"),
        ([("a", "b"), ("a", "b", "c")], r"rows\[1\] has 3 strings"),
        ([], "The list holds no example"),
    ],
)
def test_lists_that_are_refused(rows, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        Examples.from_rows(rows)


def test_indexing() -> None:
    examples = Examples.from_rows([("a", "b"), ("c", "d")])
    assert (examples[-1], examples[np.int64(0)]) == (("c", "d"), ("a", "b"))
    for outside in (2, -3):
        with pytest.raises(IndexError):
            examples[outside]


def test_examples_in_the_documentation() -> None:
    result = doctest.testmod(examples_module)
    assert result.attempted >= 2
    assert result.failed == 0
