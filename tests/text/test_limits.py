"""Files that unpack to very much or never end: refused quickly, in little memory, and the limits can be raised."""

import gzip
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffcse.config import Text
from diffcse.encoder.inputs import Sentences
from diffcse.errors import InputError
from diffcse.text import lines
from diffcse.text.corpus import read_corpus
from diffcse.text.lines import Reading

HEADS = {"txt": b"", "csv": b"text,b\n", "tsv": b"text\tb\n", "jsonl": b'{"text": "', "json": b'[{"text": "'}


def packed(path, head, piece, times):
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(times):
            file.write(piece)
    return path


def refusal(file, tmp_path, **text):
    with pytest.raises(InputError) as caught:
        read_corpus([file], text=Text(**text), cache_dir=tmp_path / "cache")
    assert str(caught.value).startswith(str(file))
    return str(caught.value)


@pytest.mark.parametrize("ending", HEADS)
def test_an_endless_line_takes_little_memory(tmp_path, ending):
    file = packed(tmp_path / f"a.{ending}.gz", HEADS[ending], b"a" * (1 << 20), 200)
    code = (
        "import resource, sys; from pathlib import Path; from diffcse.text.corpus import read_corpus\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "before = peak()\n"
        "try: read_corpus([sys.argv[1]], cache_dir=Path(sys.argv[2]))\n"
        "except ValueError as error: print(peak() - before, error)"
    )
    done = subprocess.run([sys.executable, "-c", code, file, tmp_path], capture_output=True, text=True, timeout=60)
    megabytes, _, message = done.stdout.partition(" ")
    assert message.startswith(str(file)), done.stderr
    assert int(megabytes) < 100


@pytest.mark.parametrize("ending", HEADS)
def test_blank_lines_without_end(tmp_path, ending):
    head = {"csv": b"text\n", "tsv": b"text\n", "jsonl": b'{"text": "a"}\n', "json": b"["}.get(ending, b"")
    file = packed(tmp_path / f"a.{ending}.gz", head, b"\n" * 1_000_000, 3)
    assert "max_blank_lines=N" in refusal(file, tmp_path)


def test_the_limit_of_blank_lines_can_be_raised_as_the_message_says(tmp_path):
    file = packed(tmp_path / "a.txt.gz", b"one\n", b" \n" * 500_000, 3)
    with gzip.open(file, "ab") as end:
        end.write(b"two\n")
    refusal(file, tmp_path)
    text = Text(max_blank_lines=2_000_000)
    assert list(read_corpus([file], text=text, cache_dir=tmp_path / "cache")) == ["one", "two"]
    with pytest.raises(InputError, match="--limits max_blank_lines=N"):
        list(Sentences([file]))
    reading = Reading.of(limits="max_blank_lines=2000000")
    assert sum(1 for sentence in Sentences([file], reading=reading) if sentence.strip()) == 2


def test_more_than_a_file_can_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "_EXPANSION_FREE", 1 << 20)
    file = packed(tmp_path / "a.txt.gz", b"", b"the same line\n" * 1000, 1000)
    assert "max_expansion=N" in refusal(file, tmp_path, max_expansion=50)
    assert len(read_corpus([packed(file, b"one\n", b"two\n", 9)], cache_dir=tmp_path / "cache")) == 2


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_cell_that_is_repeated_in_parquet(tmp_path, monkeypatch, dictionary):
    monkeypatch.setattr(lines, "_EXPANSION_FREE", 1 << 20)

    def write(cell, rows):
        column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([cell]))
        table = pa.table({"text": column if dictionary else column.cast(pa.string())})
        pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
        return tmp_path / "a.parquet"

    assert "row 1, column 'text': 500,000 bytes" in refusal(write("x" * 500_000, 100), tmp_path)
    assert "max_expansion=N" in refusal(write("x" * 50_000, 1000), tmp_path)


def test_a_page_that_unpacks_to_too_much_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "_EXPANSION_FREE", 1 << 20)
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x" * 20_000_000, "a"]}), file, compression="zstd", use_dictionary=False)
    assert "max_expansion=N" in refusal(file, tmp_path)


def test_rows_of_nothing_in_parquet(tmp_path):
    pq.write_table(pa.table({"text": pa.nulls(2_100_000, pa.string())}), tmp_path / "a.parquet")
    assert "max_blank_lines=N" in refusal(tmp_path / "a.parquet", tmp_path)


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_json_in_itself(tmp_path, ending):
    file = tmp_path / f"a.{ending}"
    file.write_text('[{"text": "a", "b": ' * (ending == "json") + "[" * 10_000 + "]" * 10_000)
    assert "not JSON" in refusal(file, tmp_path)


def test_a_huge_cell_is_read_where_the_limit_is_raised(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "x" * 300_000}) + "\n" + json.dumps({"text": "b"}) + "\n")
    assert "max_line_bytes=N" in refusal(file, tmp_path)
    read = read_corpus([file], text=Text(max_line_bytes=300_000), cache_dir=tmp_path / "cache")
    assert [len(sentence) for sentence in read] == [300_000, 1]
    assert len(list(Sentences([file]))) == 2


@pytest.mark.parametrize("limits", ["max_lines=3", "max_line_bytes=", "max_line_bytes=x", "max_line_bytes=0"])
def test_a_limit_that_is_none(limits):
    with pytest.raises(InputError, match="--limits max_line"):
        Reading.of(limits=limits)
