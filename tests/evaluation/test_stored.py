"""Embeddings from files: found by sentence, or an error that names what is missing."""

import random

import numpy as np
import pytest

from diffcse.errors import InputError
from diffcse.evaluation.stored import StoredEmbeddings
from tests.mutations import flipped

ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def npy(folder, rows=ROWS, text="a\nb b\nc\n"):
    np.save(folder / "v.npy", rows)
    if text is not None:
        (folder / "v.txt").write_text(text)
    return folder / "v.npy"


def parquet(folder, **columns):
    import pyarrow
    import pyarrow.parquet

    columns = columns or {"sentence": ["a", "b b", "c"], "embedding": ROWS.tolist()}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "v.parquet")
    return folder / "v.parquet"


@pytest.mark.parametrize("make", [npy, parquet])
def test_rows_are_found_by_sentence(tmp_path, make):
    stored = StoredEmbeddings(make(tmp_path))
    assert stored(["c", "a", "c"]).tolist() == [[4, 5], [0, 1], [4, 5]]
    assert stored.width == 2
    with pytest.raises(InputError, match="no embedding for 1 of the sentences, first 'd'"):
        stored(["a", "d"])


def test_the_hash_follows_content(tmp_path):
    before = StoredEmbeddings(npy(tmp_path)).fingerprint
    assert StoredEmbeddings(npy(tmp_path)).fingerprint == before
    assert StoredEmbeddings(npy(tmp_path, text="a\nb\nc\n")).fingerprint != before
    assert StoredEmbeddings(npy(tmp_path, ROWS + 1)).fingerprint != before


@pytest.mark.parametrize(
    ("rows", "text", "message"),
    [
        (ROWS, None, r"needs its sentences beside it, one a line, as v\.txt"),
        (ROWS, "a\nb\n", "3 embeddings for 2 sentences"),
        (ROWS[0], "a\nb\n", "must be real numbers"),
        (np.where(ROWS == 3, np.nan, ROWS), "a\nb\nc\n", "row 2: holds NaN"),
        (np.array([["x"]]), "a\n", "must be real numbers"),
        (np.array([{}, {}], dtype=object), "a\nb\n", "cannot be read as a numpy array"),
    ],
)
def test_bad_arrays_are_named(tmp_path, rows, text, message):
    with pytest.raises(InputError, match=message):
        StoredEmbeddings(npy(tmp_path, rows, text))


def test_bad_tables_are_named(tmp_path):
    with pytest.raises(InputError, match='columns "sentence" and "embedding"'):
        StoredEmbeddings(parquet(tmp_path, text=["a"]))
    with pytest.raises(InputError, match="all of one length"):
        StoredEmbeddings(parquet(tmp_path, sentence=["a", "b"], embedding=[[1.0], [1.0, 2.0]]))
    assert StoredEmbeddings(parquet(tmp_path, text=["a", "b"], embedding=[[1.0], [2.0]]))(["b"]).tolist() == [[2.0]]
    (tmp_path / "v.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"v\.parquet: cannot be read"):
        StoredEmbeddings(tmp_path / "v.parquet")


def test_a_damaged_file_is_an_error_that_names_it(tmp_path):
    rng, refused = random.Random(9), 0
    for make in (npy, parquet):
        good = make(tmp_path).read_bytes()
        for number in range(150):
            path = make(tmp_path)
            path.write_bytes(good[: rng.randrange(len(good))] if number % 5 == 0 else flipped(good, rng))
            try:
                StoredEmbeddings(path)
            except InputError as error:
                refused += str(error).startswith(str(path))
    assert refused > 60
