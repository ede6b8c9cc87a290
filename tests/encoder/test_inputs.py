"""Every line is a sentence, in order: nothing is left out, and what is not plain text is named with file and line."""

import gzip
import io
import lzma
import sys
from types import SimpleNamespace

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcse.encoder import inputs
from diffcse.encoder.inputs import Sentences, batches
from diffcse.errors import InputError

PACK = {".txt": bytes, ".txt.gz": gzip.compress, ".txt.xz": lzma.compress, "": bytes}


def give_stdin(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))


@pytest.mark.parametrize("suffix", PACK)
def test_lines_are_kept_one_for_one(tmp_path, suffix):
    file = tmp_path / f"text{suffix}"
    file.write_bytes(PACK[suffix]("\ufeffone\r\n\n  two \none\u2028é\rtwo\u200b\n\n".encode()))
    sentences = Sentences([file])
    assert list(sentences) == ["one", "", "  two ", "one\u2028é two", ""]
    assert {kind: (n.count, n.where) for kind, n in sentences.notes.items()} == {
        "carriage_return": (1, f"{file}, line 4"),
        "invisible": (1, f"{file}, line 4"),
    }
    assert list(Sentences([file, str(file)])) == ["one", "", "  two ", "one\u2028é two", ""] * 2


def test_a_last_line_without_an_end_counts_and_an_empty_file_has_none(tmp_path):
    (tmp_path / "a").write_bytes(b"one\ntwo")
    (tmp_path / "b").write_bytes(b"")
    assert list(Sentences([tmp_path / "a", tmp_path / "b", tmp_path / "a"])) == ["one", "two"] * 2


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0\ufeff\u200b\u2060"))),
    st.integers(3, 9),
)
def test_any_lines_on_standard_input_in_blocks_of_any_size(lines, block):
    for end in ("\n", "\r\n", "\r"):
        text = "".join(line + end for line in lines)
        with pytest.MonkeyPatch.context() as patch:
            give_stdin(patch, b"\xef\xbb\xbf" + text.encode())
            patch.setattr(inputs, "BLOCK_BYTES", block)  # the mark at the start must come as one
            assert list(Sentences(["-"])) == lines


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_a_column_of_a_file_with_columns(tmp_path, name):
    cells = ["one", "", "one", "two, three", "é"]
    frame = pandas.DataFrame({"text": cells, "other": ["x"] * 5})
    file = tmp_path / name
    if name == "a.csv":
        frame.to_csv(file, index=False)
    elif name == "a.tsv":
        frame.to_csv(file, index=False, sep="\t")
    elif name == "a.jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_parquet(file)
    assert list(Sentences([file])) == cells
    assert list(Sentences([file], column="other")) == ["x"] * 5
    with pytest.raises(InputError, match=r"no column 'txet'\. Did you mean 'text'\?.*Set text\.column \(--column\)\."):
        list(Sentences([file], column="txet"))


def test_standard_input(monkeypatch, tmp_path):
    (tmp_path / "a").write_bytes(b"one\n")
    give_stdin(monkeypatch, b"two\nthree")
    assert list(Sentences([tmp_path / "a", "-"])) == ["one", "two", "three"]
    with pytest.raises(InputError, match="-: standard input can be read only once"):
        Sentences(["-", "-"])


@pytest.mark.parametrize("exact", [True, False])
def test_the_total_is_counted_and_in_much_text_estimated(tmp_path, monkeypatch, exact):
    lines = [f"line {number % 1000:03d}" for number in range(300_000)]
    frame = pandas.DataFrame({"text": lines[:5000]})
    (tmp_path / "a.txt").write_text("\n".join(lines))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("\n".join(lines[:5000]).encode() + b"\n"))
    frame.to_csv(tmp_path / "c.csv", index=False)
    frame.to_parquet(tmp_path / "d.parquet")
    (tmp_path / "e.txt").write_bytes(b"")
    (tmp_path / "f.txt").write_bytes(b"one\rtwo\r")
    if not exact:
        monkeypatch.setattr(inputs, "_COUNTED_BYTES", 1000)
        monkeypatch.setattr(inputs, "_SAMPLE_BYTES", 1 << 21)
    totals = {name[0]: Sentences([tmp_path / name]).total for name in ("a.txt", "b.txt.gz", "c.csv", "d.parquet")}
    assert totals == {"a": pytest.approx(300_000, rel=0 if exact else 1e-2), "b": 5000, "c": 5000, "d": 5000}
    assert [Sentences([tmp_path / name]).total for name in ("e.txt", "f.txt")] == [0, 2]
    assert Sentences(["-"]).total is None


def numbered(folder, kind, rows):
    """A file of `rows` texts t0, t1, ... with the column n, in small row groups."""
    file = folder / f"numbered{kind}"
    frame = pandas.DataFrame({"text": [f"t{i}" for i in range(rows)], "n": range(rows)})
    if kind == ".parquet":
        frame.to_parquet(file, row_group_size=7)
    elif kind == ".jsonl":
        frame.to_json(file, orient="records", lines=True)
        file.write_text(file.read_text().replace('{"text":"t20"', '\n  \n{"text":"t20"'))
    elif kind == ".csv":
        frame.to_csv(file, index=False)
    else:
        file.write_text("".join(f"{text}\n" for text in frame["text"]))
    return file


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv", ".parquet"])
@given(st.integers(1, 9), st.sets(st.integers(0, 12)))
def test_rows_that_are_not_needed_are_left_out_and_the_others_keep_their_numbers(tmp_path_factory, kind, size, parts):
    folder = tmp_path_factory.mktemp("numbered")

    def is_needed(first, rows):
        return any(part in parts for part in range(first // size, (first + rows - 1) // size + 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffcse.text.lines.BLOCK_BYTES", 40)
        patch.setattr("diffcse.text.formats.ROWS", 5)
        sentences = Sentences([numbered(folder, kind, 30)])
        taken = [batch for batch in batches(sentences.chunks(is_needed), size) if batch.first // size in parts]
    rows = [(batch.first + i, text) for batch in taken for i, text in enumerate(batch.texts)]
    assert rows == [(i, f"t{i}") for i in range(30) if i // size in parts]
    assert sentences.count == 30
    assert all(batch.first // size == (batch.first + len(batch.texts) - 1) // size for batch in taken)


@pytest.mark.parametrize(("kind", "value"), [(".parquet", 4), (".csv", "4"), (".jsonl", "4")])
def test_kept_columns_keep_their_type_from_parquet_and_are_text_from_other_files(tmp_path, kind, value):
    sentences = Sentences([numbered(tmp_path, kind, 9)], keep=["n", "text", "n"])
    assert sentences.keep == ("n",)
    assert [row["n"] for batch in batches(sentences.chunks(), 4) for row in batch.kept.to_pylist()][4] == value


def test_kept_columns_that_do_not_fit(tmp_path):
    parquet, csv, text = (numbered(tmp_path, kind, 9) for kind in (".parquet", ".csv", ".txt"))
    for files, keep, says in (
        ([text], "n", "numbered.txt is plain text"),
        ([csv], "embedding", "--keep embedding"),
        ([parquet, csv], "n", "numbered.csv, column 'n': holds string, but int64"),
        ([parquet], "m", r"no column 'm'.*--keep"),
        ([csv], "m", r"no column 'm'.*--keep"),
    ):
        with pytest.raises(InputError, match=says):
            list(Sentences(files, keep=[keep]).chunks())


BAD = {
    "latin1.txt": (b"one\ncaf\xe9\n", "latin1.txt, line 2, byte 4: 0xE9 is not UTF-8"),
    "zero.txt": (b"one\n\ntwo\0\n", "zero.txt, line 3: a zero byte"),
    "packed.txt": (gzip.compress(b"one\n"), "packed.txt, byte 0: packed text without its suffix"),
    "torn.txt.gz": (gzip.compress(b"a line\n" * 9000)[:-9], "torn.txt.gz: the gz data is cut off"),
    "plain.xz": (b"one\n", "plain.xz: the xz data is cut off or damaged"),
    "long.txt": (b"one\n" + b"word " * 300_000, "long.txt, line 2: at least 1,"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_text(tmp_path, name):
    data, says = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        list(Sentences([tmp_path / name]))
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_what_is_not_there(tmp_path):
    for files, says in ([[], "no file"], [[tmp_path], "is a folder"], [[tmp_path / "no"], "does not exist"]):
        with pytest.raises(InputError, match=says):
            Sentences(files)


def test_whole_lines_of_a_file_with_columns(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"one\ttwo\n")
    assert list(Sentences([tmp_path / "a.tsv"], lines=True)) == ["one\ttwo"]


def test_a_column_of_a_file_that_has_none(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n")
    with pytest.raises(InputError, match=r"--column text: .*a\.txt is plain text, which has no columns"):
        Sentences([tmp_path / "a.txt"], column="text")
