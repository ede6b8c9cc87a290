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
from diffcse.encoder.inputs import Sentences
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


@pytest.mark.parametrize("suffix", [".txt"])
def test_the_share_that_was_given(tmp_path, suffix):
    file = tmp_path / f"text{suffix}"
    file.write_bytes(PACK[suffix](b"a line\n" * 100_000))
    sentences = Sentences([file, file])
    assert sentences.share == 0
    shares = []
    for index, _ in enumerate(sentences, 1):
        if index % 50_000 == 0:
            shares.append(sentences.share)
    assert shares == sorted(shares)
    assert shares[1] == pytest.approx(0.5)
    assert shares[-1] == 1
    if suffix == ".txt":
        assert shares == pytest.approx([0.25, 0.5, 0.75, 1], abs=0.01)
    assert sentences.share_of(50_000) == pytest.approx(0.25, abs=0.01)
    assert Sentences(["-"]).share is None
    assert Sentences(["-"]).share_of(1) is None


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
