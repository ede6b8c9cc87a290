"""Quotes and headers of tables: every reader follows one rule, and each option that a message names is followed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcse.encoder.inputs import Sentences
from diffcse.errors import InputError
from diffcse.evaluation.sts import read_pairs
from diffcse.text.lines import Notes, Reading
from diffcse.text.tables import is_quoted_table, table_rows


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def cells(file: Path, column: str = "text", **options) -> tuple[list[str], dict[str, tuple[int, int]]]:
    sentences = Sentences([file], column, reading=Reading.of(**options))
    read = list(sentences)
    return read, {kind: (note.count, int(note.where.rpartition(" ")[2])) for kind, note in sentences.notes.items()}


SPEECH = ["She woke early.", '"It is late.', "We must go.", 'The boat leaves."', "Nobody moved."]


@pytest.mark.parametrize(
    ("body", "expected", "notes"),
    [
        (SPEECH, SPEECH, {"quotes": (1, 3)}),  # as one quoted cell, it would be three sentences with their ids
        (['"Never closed.', 'He said "yes".', '"Yes" he said.'], None, {"quotes": (2, 2)}),
        (['"Yes."', "No."], ['"Yes."', "No."], {"quotes": (1, 2)}),
        (['"Yes."', '"No."'], ["Yes.", "No."], {"unquoted": (2, 2)}),
        (['"""Yes"" he said."', "No."], ['"Yes" he said.', "No."], {"unquoted": (1, 2)}),
        (['"A tab\there."', "No."], ["A tab\there.", "No."], {"unquoted": (1, 2)}),
        (['"Two\nlines."', "No."], ["Two\nlines.", "No."], {"unquoted": (1, 2), "spanning": (1, 2)}),
        (["Plain.", 'An inch is 1".'], None, {}),
    ],
)
def test_quotes_in_tsv_are_text_unless_the_file_is_consistently_quoted(tmp_path, body, expected, notes) -> None:
    rows = "".join(f"{index}\t{cell}\ten\n" for index, cell in enumerate(body))
    assert cells(write(tmp_path / "a.tsv", f"id\ttext\tlang\n{rows}")) == (expected or body, notes)


def test_quoting_is_an_option(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", 'text\tlang\n"Yes."\ten\nNo.\ten\n')
    assert cells(file, quoting="csv") == (["Yes.", "No."], {})
    assert cells(file, quoting="none") == (['"Yes."', "No."], {})
    table = write(tmp_path / "a.csv", 'text,lang\n"One,\ntwo.",en\nThree.,en\n')
    assert cells(table) == (["One,\ntwo.", "Three."], {"spanning": (1, 2)})


@pytest.mark.parametrize("cell", ['"Never closed.', '"Yes" she said.'])
def test_the_option_that_the_message_names_reads_the_file(tmp_path: Path, cell: str) -> None:
    file = write(tmp_path / "a.csv", f"id,text\n0,One.\n1,{cell}\n2,Two.\n")
    with pytest.raises(InputError, match=r"a\.csv, line 3: .*--quoting none"):
        cells(file)
    assert cells(file, quoting="none")[0] == ["One.", cell, "Two."]
    short = write(tmp_path / "b.tsv", 'id\ttext\n0\t"A tab\tin it."\n')
    with pytest.raises(InputError, match=r"b\.tsv, line 2: 3 cells.*--quoting csv"):
        cells(short, quoting="none")
    assert cells(short, quoting="csv")[0] == ["A tab\tin it."]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table_without_a_header(tmp_path: Path, end: str) -> None:
    rows = ["see you later friend\tgoodbye my friend", "many thanks for this\tthank you so much"]
    file = write(tmp_path / "a.tsv", end.join(rows) + end)
    with pytest.raises(InputError, match=r"a\.tsv, line 1: no column 'text'.*no header.*--columns text,column1"):
        cells(file)
    first, second = zip(*(row.split("\t") for row in rows), strict=True)
    assert cells(file, columns="text,column1")[0] == list(first)
    assert cells(file, "b", columns="a, b")[0] == list(second)
    with pytest.raises(InputError, match=r"a\.tsv, line 1: 2 cells, but the table has 3"):
        cells(file, "a", columns="a,b,c")
    with pytest.raises(InputError, match=r"no column 'c'"):
        cells(file, "c", columns="a,b")


def test_a_stray_byte_is_read_as_the_message_advises(tmp_path: Path) -> None:
    text = "".join(f"Ärger {i} über Öl und Maß.\n" for i in range(5))
    file = tmp_path / "a.txt"
    file.write_bytes(text.encode() + b"it\x92s one\n" + text.encode())
    with pytest.raises(InputError, match=r"a\.txt, line 6, byte 3: 0x92 .*--encoding utf-8\)"):
        list(Sentences([file]))
    sentences = Sentences([file], reading=Reading.of("utf-8"))
    assert list(sentences) == [*text.splitlines(), "it\ufffds one", *text.splitlines()]
    assert [str(note.where) for note in sentences.notes.values()] == [f"{file}, line 6"]


@pytest.mark.parametrize("encoding", ["windows-1252", "gb18030", "shift-jis", "utf-16-le", "utf-7"])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_other_encodings(tmp_path: Path, encoding: str, suffix: str) -> None:
    words = ["One.", "日本語です。" if encoding in ("gb18030", "shift-jis") else "Café: two."]
    rows = {".txt": words, ".csv": ["text", *words], ".jsonl": [f'{{"text": "{word}"}}' for word in words]}[suffix]
    file = tmp_path / f"a{suffix}"
    file.write_bytes("".join(f"{row}\n" for row in rows).encode(encoding))
    column = None if suffix == ".txt" else "text"
    assert list(Sentences([file], column, reading=Reading.of(encoding))) == words
    if encoding in ("windows-1252", "utf-16-le"):  # the others look like UTF-8, or have no sign of their own
        with pytest.raises(InputError, match=f"line [123].*--encoding {encoding}"):
            list(Sentences([file], column))


def test_an_unknown_encoding() -> None:
    with pytest.raises(InputError, match=r"text\.encoding = 'utf-9'"):
        Reading.of("utf-9")


@given(st.lists(st.lists(st.text('ab"\t\n,', max_size=4), min_size=2, max_size=2), min_size=1, max_size=6))
def test_text_of_any_quotes_is_never_merged_in_silence(table: list[list[str]]) -> None:
    lines = "\n".join("\t".join(cell.replace("\n", "").replace("\t", "") for cell in row) for row in table).split("\n")
    notes: Notes = {}
    is_quoted = is_quoted_table("tsv", "auto", lines, notes)
    rows = list(table_rows(lines, "\t", is_quoted, "a.tsv", notes))
    plain = [(number, line.split("\t")) for number, line in enumerate(lines, 1) if line]
    assert len(rows) == len(plain)
    assert rows == plain or "unquoted" in notes


def test_graded_pairs_follow_the_same_rule(tmp_path: Path) -> None:
    lines = [
        "5\tShe woke early.\tShe got up.",
        '1\t"It is late.\tGo home.',
        '2\tStay here."\tCome in.',
        "3\tOne\rtwo.\tA.",
    ]
    pairs = read_pairs(write(tmp_path / "loose.tsv", "\n".join(lines)))
    assert pairs.first == ("She woke early.", '"It is late.', 'Stay here."', "One two.")
    assert [note.partition(" (")[0] for note in pairs.notes] == [
        "1 line with a lone carriage return, read as a space",
        "1 line with a quote at the start of a cell, kept as text",
    ]
    assert pairs.notes[1].endswith("loose.tsv, line 2)")
    quoted = ['5\t"""Yes"" he said."\t"A\tb."', "1\tNo.\tNo.", "2\tOne.\tTwo."]
    pairs = read_pairs(write(tmp_path / "quoted.tsv", "\r\n".join(quoted)))
    assert (pairs.first[0], pairs.second[0], len(pairs)) == ('"Yes" he said.', "A\tb.", 3)
    assert [note.partition(" (")[0] for note in pairs.notes] == ["1 line with quoted cells, whose quotes were removed"]
    mac = read_pairs(write(tmp_path / "mac.tsv", "\r".join(lines[:3])))
    assert len(mac) == 3
