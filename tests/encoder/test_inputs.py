"""Every line is a sentence, in order: nothing is left out, and what is not plain text is named with file and line."""

import gzip
import io
import lzma
import sys
from types import SimpleNamespace

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
    file.write_bytes(PACK[suffix]("\ufeffone\r\n\n  two \rone\u2028é\n\n".encode()))
    assert list(Sentences([file])) == ["one", "", "  two ", "one\u2028é", ""]
    assert list(Sentences([file, str(file)])) == ["one", "", "  two ", "one\u2028é", ""] * 2


def test_a_last_line_without_an_end_counts_and_an_empty_file_has_none(tmp_path):
    (tmp_path / "a").write_bytes(b"one\ntwo")
    (tmp_path / "b").write_bytes(b"")
    assert list(Sentences([tmp_path / "a", tmp_path / "b", tmp_path / "a"])) == ["one", "two"] * 2


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"))), st.integers(1, 9))
def test_any_lines_in_blocks_of_any_size(tmp_path_factory, lines, block):
    file = tmp_path_factory.getbasetemp() / "any.txt"
    for end in ("\n", "\r\n", "\r"):
        text = "".join(line + end for line in lines)
        file.write_bytes(b"\xef\xbb\xbf" + text.encode())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inputs, "_BLOCK", block + 2)  # the mark at the start must come as one
            assert list(Sentences([file])) == lines


def test_standard_input(monkeypatch, tmp_path):
    (tmp_path / "a").write_bytes(b"one\n")
    give_stdin(monkeypatch, b"two\nthree")
    assert list(Sentences([tmp_path / "a", "-"])) == ["one", "two", "three"]
    with pytest.raises(InputError, match="-: standard input can be read only once"):
        Sentences(["-", "-"])


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
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
    assert Sentences(["-"]).share is None


BAD = {
    "latin1.txt": (b"one\ncaf\xe9\n", "latin1.txt, line 2: 0xE9 is not UTF-8"),
    "zero.txt": (b"one\n\ntwo\0\n", "zero.txt, line 3: a zero byte"),
    "utf16.txt": ("one\n".encode("utf-16"), "utf16.txt: is UTF-16"),
    "packed.txt": (gzip.compress(b"one\n"), "packed.txt: is packed by gzip"),
    "torn.txt.gz": (gzip.compress(b"a line\n" * 9000)[:-9], "torn.txt.gz: the packed data is cut off"),
    "plain.xz": (b"one\n", "plain.xz: the packed data is cut off or damaged"),
    "long.txt": (b"one\n" + b"word " * 300_000, "long.txt, line 2: longer than 1,048,576 bytes"),
    "table.csv": (b"a,b\n", "table.csv: only plain text"),
    "table.jsonl.gz": (b"", "table.jsonl.gz: only plain text"),
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
    for files, says in ([[], "no file"], [[tmp_path], "is a folder"], [[tmp_path / "no"], "there is no such file"]):
        with pytest.raises(InputError, match=says):
            Sentences(files)


def test_whole_lines_of_a_file_with_columns(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"one\ttwo\n")
    assert list(Sentences([tmp_path / "a.tsv"], lines=True)) == ["one\ttwo"]


def test_a_column_of_a_file_that_has_none(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n")
    with pytest.raises(InputError, match=r"--column text: .*a\.txt is plain text, which has no columns"):
        Sentences([tmp_path / "a.txt"], column="text")
