"""Every format gives the same corpus, and every damage an `InputError`: never a traceback, never a wrong line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffcse.config import Text
from diffcse.errors import InputError
from diffcse.text import formats, hub, lines
from diffcse.text.corpus import Corpus, read_corpus

PACKINGS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd.compress}
SENTENCES = ["One, two.", 'He said "no".', "", "Three é 中文", "One, two.", "tab\there", "end"]


def table(sentences: list[str], suffix: str, column: str = "text", **others: list) -> bytes:
    """The sentences as a file with a column before and after theirs."""
    columns = {"id": list(range(len(sentences))), column: sentences, **others, "note": ["x, y"] * len(sentences)}
    if suffix == ".parquet":
        memory = io.BytesIO()
        columns[column] = pa.array(sentences, pa.string())
        pq.write_table(pa.table(columns), memory, row_group_size=3)
        return memory.getvalue()
    rows = list(zip(*columns.values(), strict=True))
    if suffix in (".jsonl", ".ndjson"):
        return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows).encode()
    memory = io.StringIO(newline="")
    writer = csv.writer(memory, delimiter="\t" if suffix == ".tsv" else ",")
    writer.writerows([list(columns), *rows])
    return memory.getvalue().encode()


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def refusal(path: Path, text: Text = Text(), **options) -> str:  # noqa: B008
    cache = path.parent / "cache"
    with pytest.raises(InputError) as caught:
        read_corpus([path], text=text, cache_dir=cache, **options)
    assert not cache.exists() or not list(cache.iterdir())
    return str(caught.value)


TABLES = [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"]


# The same, whatever the format

sentence = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.text(
    st.sampled_from('ab,"\t\r\n\\ \u2028\x85\x1c'), max_size=6
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    sentences=st.lists(sentence, max_size=25),
    suffix=st.sampled_from(TABLES),
    packing=st.sampled_from(sorted(PACKINGS)),
    block=st.integers(1, 64),
    rows=st.integers(1, 5),
    documents=st.booleans(),
)
def test_any_cells_give_the_corpus_of_the_list(
    tmp_path_factory, sentences, suffix, packing, block, rows, documents
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    if suffix == ".tsv":  # a cell with both could be two rows: `test_tables` tells what happens to it
        sentences = [sentence.replace("\r", " ") for sentence in sentences]
        sentences = [sentence.replace("\t", " ") if "\n" in sentence else sentence for sentence in sentences]
    file = write(folder / f"rows{suffix}{packing}", PACKINGS[packing](table(sentences, suffix)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block)
        patch.setattr(formats, "ROWS", rows)
        try:
            expected = Corpus.from_sentences(sentences, documents=documents)
        except InputError:
            assert "holds" in refusal(file)
            return
        found = read_corpus([file], cache_dir=folder / "cache", documents=documents)
    assert list(found) == list(expected)
    assert found.sha256 == expected.sha256
    names = ["lines", "empty", "duplicates", "sentences", "documents"]
    for name in names if "\r" in "".join(sentences) else [*names, "bytes"]:  # csv writers' \r\n becomes \n
        assert getattr(found.counts, name) == getattr(expected.counts, name), name
    if documents:
        assert found.following.tolist() == expected.following.tolist()
    shutil.rmtree(folder)


@pytest.mark.parametrize("processes", [1, 3])
def test_many_files_of_all_formats_and_any_number_of_processes(tmp_path: Path, monkeypatch, processes: int) -> None:
    monkeypatch.setattr(formats, "ROWS", 7)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 100)
    files, read = [], []
    for number, suffix in enumerate([*TABLES, ".txt"] * 2):
        packing = sorted(PACKINGS)[number % 4]
        sentences = [f"sentence {i * i % 53} of {number % 5}" * (i % 11 > 0) for i in range(60)]
        data = "".join(s + "\n" for s in sentences).encode() if suffix == ".txt" else table(sentences, suffix)
        files.append(write(tmp_path / f"{number}{suffix}{packing}", PACKINGS[packing](data)))
        read += [*sentences, ""]
    corpus = read_corpus(files, documents=True, cache_dir=tmp_path / "cache", processes=processes)
    expected = Corpus.from_sentences(read, documents=True)
    assert corpus.sha256 == expected.sha256
    assert corpus.following.tolist() == expected.following.tolist()
    assert corpus.counts.documents == expected.counts.documents


def test_processes_need_no_main_guard(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "one\ntwo\n")
    script = write(
        tmp_path / "script.py",
        "import sys; from pathlib import Path; from diffcse import read_corpus; print('once')\n"
        "print(*read_corpus([sys.argv[1]], cache_dir=Path(sys.argv[2]), processes=2))\n",
    )
    run = subprocess.run([sys.executable, script, file, tmp_path / "cache"], check=True, capture_output=True, text=True)
    assert run.stdout == "once\none two\n"


@pytest.mark.parametrize("suffix", TABLES)
def test_another_column(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"a{suffix}", table(SENTENCES, suffix, "Satz", text=["x"] * len(SENTENCES)))
    corpus = read_corpus([file], text=Text(column="Satz"), cache_dir=tmp_path / "cache")
    assert list(corpus) == ["One, two.", 'He said "no".', "Three é 中文", "tab here", "end"]
    assert (corpus.counts.lines, corpus.counts.empty, corpus.counts.duplicates) == (7, 1, 1)


def test_a_cache_belongs_to_its_options(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "text,other\nOne. Two.,x\nThree.,y\n")
    found = {
        tuple(read_corpus([file], cache_dir=tmp_path / "cache", **options))
        for options in (
            {},
            {"text": Text(column="other")},
            {"text": Text(split_sentences=True)},
        )
    }
    assert found == {("One. Two.", "Three."), ("x", "y"), ("One.", "Two.", "Three.")}
    assert read_corpus([file], cache_dir=tmp_path / "cache").following is None
    assert read_corpus([file], cache_dir=tmp_path / "cache", documents=True).following is not None
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_nulls_and_absent_keys_are_empty(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"text": "one"}\n\n{"text": null}\n{"other": 1}\n  \n{"text": "two"}')
    corpus = read_corpus([file], cache_dir=tmp_path / "cache")
    assert (list(corpus), corpus.counts.lines, corpus.counts.empty) == (["one", "two"], 4, 2)
    pq.write_table(pa.table({"text": ["one", None, "two"]}), tmp_path / "a.parquet")
    corpus = read_corpus([tmp_path / "a.parquet"], cache_dir=tmp_path / "cache")
    assert (list(corpus), corpus.counts.lines, corpus.counts.empty) == (["one", "two"], 3, 1)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_all_types_of_text_in_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"text": pa.array(["one", "two", "one"]).cast(kind)}), tmp_path / "a.parquet")
    assert list(read_corpus([tmp_path / "a.parquet"], cache_dir=tmp_path / "cache")) == ["one", "two"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", b"\xef\xbb\xbftext\r\none\r\ntwo\r\n")
    assert list(read_corpus([file], cache_dir=tmp_path / "cache")) == ["one", "two"]


# What is wrong with it, and where


@pytest.mark.parametrize("suffix", TABLES)
def test_a_missing_column(tmp_path: Path, suffix: str) -> None:
    message = refusal(write(tmp_path / f"a{suffix}", table(["a", "b"], suffix, "sentence")), Text(column="sentences"))
    assert "no column 'sentences'. Did you mean 'sentence'? There are: 'id', 'sentence', 'note'." in message
    assert message.endswith("Set text.column (--column).")


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.csv", "", "a.csv: empty. The first line must name the columns."),
        ("a.csv", "\n\n", "a.csv: empty"),
        ("a.csv", "id;text\n1;one\n", "separated by semicolons. Save it with commas"),
        ("a.csv", "id\ttext\n1\tone\n", "separated by tabs. Name the file .tsv"),
        ("a.csv", "text,text\na,b\n", "a.csv, line 1: 2 columns are called 'text'. Rename all but one."),
        ("a.csv", 'id,text\n1,"a\nb"\n\n2,three,four\n', "a.csv, line 5: 3 cells, but the table has 2"),
        ("a.csv", 'id,text\n1,"a\nb"\n\n2\n', "a.csv, line 5: 1 cell, but the table has 2"),
        ("a.csv", 'id,text\n1,ok\n2,"never\nclosed\n', "a.csv, line 3: a cell that begins with a double quote"),
        ("a.csv", 'id,text\n1,ok\n2,"no" she said\n', "a.csv, line 3: text follows the double quote"),
        ("a.tsv", "id\ttext\n1\tok\n2\n", "a.tsv, line 3: 1 cell, but the table has 2 columns"),
        ("a.csv", b"text\none\ncaf\xe9\n", "a.csv, line 3, byte 4: 0xE9 is not UTF-8"),
        ("a.csv", "text\none\ntw\0o\n", "a.csv, line 3: a zero byte"),
        ("a.csv", f"text\none\n{'x' * 101}\n", "a.csv, line 3, column 'text': 101 bytes long, more than max_line"),
        ("a.jsonl", '{"text": "one"}\n{"text": }\n', "a.jsonl, line 2: not JSON: Expecting value at character 10"),
        ("a.jsonl", '{"text": "one"}\n["two"]\n', "a.jsonl, line 2: a list, not an object"),
        ("a.jsonl", '[\n{"text": "one"}\n]\n', "a.jsonl, line 1: not JSON"),
        ("a.jsonl", '{"text": "one"}\n\n{"text": 2}\n', "a.jsonl, line 3, column 'text': a number, not text"),
        ("a.jsonl", '{"text": "one"}\n{"text": ["two"]}\n', "line 2, column 'text': a list, not text"),
        ("a.jsonl", '{"text": "one"}\n{"text": "\\ud83d"}\n', "line 2, column 'text': half of a surrogate pair"),
        ("a.jsonl", '{"x": 1}\n{"Text": "one"}\n', "a.jsonl, lines 1 to 2: no column 'text'. Did you mean 'Text'?"),
        ("a.jsonl", "[" * 100_000, "a.jsonl, line 1: not JSON"),
        ("a.jsonl", '{"text": ' + "9" * 5000 + "}", "a.jsonl, line 1: not JSON"),
        ("a.jsonl", '{"text": "' + "x" * 101 + '"}', "a.jsonl, line 1, column 'text': 101 bytes long"),
        ("a.parquet", "one\ntwo\n", "a.parquet: not a whole .parquet file"),
        ("a.parquet", "", "a.parquet: not a whole .parquet file"),
        ("a.jsonl", "", "a.jsonl holds no text at all"),
        ("a.csv", "text\n", "a.csv holds no text at all"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_located(tmp_path: Path, name: str, data: str | bytes, problem: str) -> None:
    for block in (1 << 18, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lines, "BLOCK_BYTES", block)
            assert problem in refusal(write(tmp_path / name, data), max_line_bytes=100)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_error_counts_and_its_line_is_right(tmp_path: Path, monkeypatch, processes: int) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 64)
    rows = [json.dumps({"text": f"sentence {i}"}) for i in range(500)]
    rows[321] = "{"
    rows[400] = "\xff"
    file = write(tmp_path / "a.jsonl", "\n".join(rows))
    write(tmp_path / "b.jsonl", "[]")
    for paths in ([file], [file, tmp_path / "b.jsonl"]):
        with pytest.raises(InputError, match=r"a\.jsonl, line 322: not JSON"):
            read_corpus(paths, cache_dir=tmp_path / "cache", processes=processes)


@pytest.mark.parametrize("kind", [pa.int64(), pa.list_(pa.string()), pa.binary()])
def test_a_column_of_no_text_in_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"text": pa.array([None], kind)}), tmp_path / "a.parquet")
    assert f"column 'text' holds {str(kind).replace('item', 'element')}, not text" in refusal(tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", TABLES)
@pytest.mark.parametrize("packing", ["", ".gz", ".xz", ".zst"])
def test_files_cut_off(tmp_path: Path, suffix: str, packing: str) -> None:
    whole = PACKINGS[packing](table([f"sentence {i * 7919}, {i}" for i in range(400)], suffix))
    for size in (len(whole) // 2, len(whole) - 9) if packing or suffix == ".parquet" else ():
        message = refusal(write(tmp_path / f"a{suffix}{packing}", whole[:size]))
        assert re.search("data is cut off or damaged|not a whole .parquet file", message)


def test_columns_where_there_are_none(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "one\ntwo\n")
    assert "plain text has no column 'sentence'" in refusal(file, Text(column="sentence"))
    assert "plain text has no column 'page'" in refusal(file, Text(document="page"), documents=True)
    assert "processes = 0" in refusal(file, processes=0)
    table_file = write(tmp_path / "b.csv", "sentence\nthree\n")
    both = read_corpus([file, table_file], text=Text(column="sentence"), cache_dir=tmp_path / "cache")
    assert list(both) == ["one", "two", "three"]


def mutilated(suffix: str) -> st.SearchStrategy[bytes]:
    """Bytes of any kind, and whole files with some bytes cut out, changed or put in."""
    whole = table(SENTENCES, suffix)

    @st.composite
    def damage(draw) -> bytes:
        data = bytearray(whole)
        for _ in range(draw(st.integers(1, 4))):
            first = draw(st.integers(0, len(data)))
            end = draw(st.integers(first, min(len(data), first + 20)))
            data[first:end] = draw(st.binary(max_size=20))
        return bytes(data)

    return st.binary(max_size=200) | damage()


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), suffix=st.sampled_from(TABLES), packing=st.sampled_from(["", "", ".gz", ".xz", ".zst"]))
def test_mutilated_files_are_input_errors(tmp_path_factory, data, suffix: str, packing: str) -> None:
    folder = tmp_path_factory.mktemp("mutilated")
    file = write(folder / f"a{suffix}{packing}", data.draw(mutilated(suffix)))
    refused = ""
    try:
        corpus = read_corpus([file], cache_dir=folder / "cache", documents=True)
    except InputError as error:
        refused = str(error)
    assert str(file) in refused if refused else len(list(corpus)) == corpus.counts.sentences
    shutil.rmtree(folder)


# Hub data sets


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    rows = [{"text": "one", "page": 1}, {"text": None, "page": 1}, {"text": "two", "page": 2}]
    write(tmp_path / "set/train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write(tmp_path / "set/test.jsonl", '{"text": "three", "page": 1}\n{"text": "four", "page": 1}\n')
    return tmp_path / "set"


def test_a_data_set_in_a_folder(data_set: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"cache_dir": tmp_path / "cache", "processes": 1}
    corpus = read_corpus([f"hub:{data_set}"], **options)
    assert (list(corpus), corpus.counts.lines, corpus.counts.empty) == (["one", "two"], 3, 1)
    assert read_corpus(["hub:./set"], **options).folder == corpus.folder
    assert list(read_corpus([f"hub:{data_set}:test"], **options)) == ["three", "four"]
    followed = read_corpus(["hub:./set:test"], text=Text(document="page"), documents=True, **options)
    assert followed.following.tolist() == [1, -1]
    write(data_set / "train.jsonl", '{"text": "five", "page": 1}\n{"text": "six", "page": 1}\n')
    assert list(read_corpus(["hub:./set"], **options)) == ["five", "six"]


@pytest.mark.parametrize(
    ("spelling", "text", "problem"),
    [
        ("hub:SET:dev", Text(), r"Available splits: \['train', 'test'\]|Bad split"),
        ("hub:SET", Text(column="texts"), "no column 'texts'. Did you mean 'text'\\? There are: 'text', 'page'"),
        ("hub:SET", Text(column="page"), "row 1, column 'page': a number, not text"),
        ("hub:./nowhere", Text(), "nowhere is not a folder"),
        ("hub:nobody", Text(), "must be hub:OWNER/NAME"),
        ("hub:a/b/c/d", Text(), "must be hub:OWNER/NAME"),
        ("hub:someone/something", Text(), "the hub cannot be reached .* name a whole commit"),
        (f"hub:someone/something@{'0' * 40}:test", Text(), "the hub cannot be reached"),
    ],
)
def test_data_sets_that_are_refused(data_set: Path, tmp_path: Path, spelling, text, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read_corpus([spelling.replace("SET", str(data_set))], text=text, cache_dir=tmp_path / "cache", processes=1)


def test_imports_are_light() -> None:
    script = (
        "import sys, diffcse.text.corpus, diffcse.text.examples\n"
        "print([m for m in ('torch', 'pyarrow', 'datasets', 'loky', 'pandas') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout == "[]\n"


def test_a_pinned_data_set_is_read_from_the_cache_without_a_network(
    data_set: Path, tmp_path: Path, monkeypatch
) -> None:
    options = {"cache_dir": tmp_path / "cache", "processes": 1}
    commit = "0123456789" * 4
    with monkeypatch.context() as patch:
        opened = hub.open_columns(hub.parse(f"hub:{data_set}:test"), ("", 0, ""))
        patch.setattr(hub, "open_columns", lambda *_: opened)
        first = read_corpus([f"hub:a/b@{commit}:test"], **options)
    assert list(first) == ["three", "four"]
    assert first.sources[0].name == f"hub:a/b@{commit}:test"
    assert read_corpus([f"hub:a/b@{commit}:test"], **options).folder == first.folder
    with pytest.raises(InputError, match="the hub cannot be reached"):
        read_corpus([f"hub:a/b@{commit[::-1]}:test"], **options)


def test_the_newest_commit_is_part_of_a_data_sets_name(data_set: Path, tmp_path: Path, monkeypatch) -> None:
    import huggingface_hub

    class Api:
        sha = "a" * 40

        def dataset_info(self, name: str, revision: str | None):
            assert (name, revision) == ("a/b", None)
            return self

    opened = hub.open_columns(hub.parse(f"hub:{data_set}:test"), ("", 0, ""))
    monkeypatch.setattr(hub, "open_columns", lambda name, stamp: opened)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    options = {"cache_dir": tmp_path / "cache", "processes": 1}
    corpus = read_corpus(["hub:a/b/c:test"], **options)
    assert corpus.sources[0].name == f"hub:a/b/c:test ({'a' * 40})"
    assert read_corpus(["hub:a/b/c:test"], **options).folder == corpus.folder
    Api.sha = "b" * 40
    assert read_corpus(["hub:a/b/c:test"], **options).folder != corpus.folder
