from __future__ import annotations

import doctest
import errno
import gzip
import hashlib
import json
import lzma
import os
import pickle
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from random import Random

import numpy as np
import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffcse import files
from diffcse.config import Text
from diffcse.errors import InputError
from diffcse.text import corpus as corpus_module
from diffcse.text import lines as lines_module
from diffcse.text import sources, store, strings
from diffcse.text.corpus import Corpus, default_cache_dir, normalise, read_corpus
from tests.mutations import flipped


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk():
    """Hundreds of caches are built here; one test looks at the waiting itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "sync_files", lambda folder: None)
        yield


def zst(data: bytes) -> bytes:
    """As the command line tool packs: with a checksum, without which damage may go unseen."""
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


PACKERS = {
    ".txt": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".txt.gz": gzip.compress,
    ".txt.xz": lzma.compress,
    ".txt.zst": zst,
}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def refusal(path: Path | str | list, cache: Path, **options) -> str:
    """The message `read_corpus` refuses with; nothing may stay behind in the cache."""
    with pytest.raises(InputError) as caught:
        read_corpus(path if isinstance(path, list) else [path], cache_dir=cache, **options)
    assert leftovers(cache) == []
    return str(caught.value)


def noted(corpus: Corpus) -> dict[str, tuple[int, str]]:
    """The notes: kind -> count, and the file and line of the first."""
    return {note.kind: (note.count, note.where) for note in corpus.counts.notes}


# What is read


INVISIBLE = "[\ufeff\u200b\u2060]"


def oracle(text: str) -> list[str]:
    """The same rules written another way: regular expressions and a dict."""
    lines = re.split("\r\n|\n" if "\n" in text else "\r", text)
    sentences = [unicodedata.normalize("NFC", re.sub(INVISIBLE, "", line)) for line in lines]
    sentences = [re.sub(r"\s+", " ", sentence).strip() for sentence in sentences]
    visible = [s for s in sentences if any(unicodedata.category(c) not in ("Cc", "Cf") for c in s.replace(" ", ""))]
    return list(dict.fromkeys(visible))


any_line = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=12)
spaced_line = st.text(st.sampled_from("ab é\u0301\u00a0\t\u2028\x0b\x0c\x85\u3000"), max_size=6)
line_end = st.sampled_from(["\n", "\r\n", "\r"])


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    pieces=st.lists(st.tuples(any_line | spaced_line, line_end), max_size=30),
    last=any_line,
    mark=st.booleans(),
    suffix=st.sampled_from(sorted(PACKERS)),
    block_bytes=st.integers(1, 64),
    window=st.integers(1, 5),
)
def test_any_lines_read_back_normalised_and_distinct(
    tmp_path_factory, pieces, last, mark, suffix, block_bytes, window
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    text = "".join(line + end for line, end in pieces) + last
    text = text.lstrip("\ufeff")
    expected = oracle(text)
    file = write(folder / f"text{suffix}", PACKERS[suffix]((b"\xef\xbb\xbf" if mark else b"") + text.encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "BLOCK_BYTES", block_bytes)
        patch.setattr(store, "WINDOW", window)
        if len(expected) < 2:
            refusal(file, folder / "cache")
            return
        corpus = read_corpus([file], cache_dir=folder / "cache")
        assert list(corpus) == expected
    assert [corpus[i] for i in range(len(corpus))] == expected
    counts = corpus.counts
    end = "\n" if "\n" in text else "\r"
    assert counts.lines == text.count(end) + (not text.endswith(end) and text != "")
    assert counts.lines == counts.empty + counts.duplicates + counts.sentences
    split = re.split("\r\n|\n" if end == "\n" else "\r", text)
    notes = {note.kind: note for note in counts.notes}
    for kind, faulty in (
        ("invisible", [i for i, line in enumerate(split, 1) if re.search(INVISIBLE, line)]),
        ("carriage_return", [i for i, line in enumerate(split, 1) if "\r" in line]),
    ):
        note = notes.pop(kind, None)
        assert (note.count if note else 0) == len(faulty)
        assert note is None or note.where == f"{file.name}, line {faulty[0]}"
    assert set(notes) == ({"old_mac"} if end == "\r" and "\r" in text else set())
    assert counts.bytes == len(text.encode())
    assert corpus.sha256 == hashlib.sha256("\n".join(expected).encode()).hexdigest()
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("text", "lines", "empty", "notes"),
    [
        (
            "\ufeffone\r\ntwo\rthree\n\r\n\n\r\nÉé 😀\u2028x\r\r\r\nend\r",
            ["one", "two three", "Éé 😀 x", "end"],
            3,
            {"carriage_return": (3, "text.txt, line 2")},
        ),
        ("one\rtwo\r\rÉé 😀\r", ["one", "two", "Éé 😀"], 1, {"old_mac": (1, "text.txt, line 1")}),
    ],
)
def test_block_boundaries_fall_anywhere(tmp_path: Path, monkeypatch, text, lines: list[str], empty: int, notes) -> None:
    file = write(tmp_path / "text.txt", text)
    expected = None
    for block_bytes in range(1, len(text.encode()) + 2):
        monkeypatch.setattr(lines_module, "BLOCK_BYTES", block_bytes)
        corpus = read_corpus([file], cache_dir=tmp_path / str(block_bytes))
        expected = expected or (corpus.counts, corpus.sha256)
        assert list(corpus) == lines
        assert (corpus.counts, corpus.sha256) == expected
    assert (corpus.counts.lines, corpus.counts.empty, noted(corpus)) == (len(lines) + empty, empty, notes)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  a \t b  ", "a b"),
        ("a\u00a0\u00a0b\u3000", "a b"),
        ("a\u2028b\x0bc\x0cd\x85e", "a b c d e"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u212b", "\u00c5"),  # the Angstrom sign is canonically the letter
        ("\ufb01ne 2\u00b2", "\ufb01ne 2\u00b2"),  # compatibility forms stay
        ("Case STAYS", "Case STAYS"),
        ("\u00a0\u2028 ", ""),
    ],
)
def test_normalise(line: str, expected: str) -> None:
    assert normalise(line) == expected
    assert normalise(expected) == expected


def test_the_first_of_duplicates_is_kept_across_files(tmp_path: Path, cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(store, "WINDOW", 3)
    write(tmp_path / "a.txt", "one\ntwo\n one\nthree\n")
    write(tmp_path / "b.txt", "two\n\nfour\nONE\nthree")
    corpus = read_corpus([tmp_path / "?.txt"], cache_dir=cache)
    assert list(corpus) == ["one", "two", "three", "four", "ONE"]
    assert (corpus.counts.files, corpus.counts.lines, corpus.counts.duplicates, corpus.counts.empty) == (2, 9, 3, 1)
    assert [(s.name, s.bytes) for s in corpus.sources] == [("a.txt", 19), ("b.txt", 19)]
    assert corpus.summary() == ("5 sentences from 2 files (9 lines, 0.0 MB; 1 blank and 3 duplicate left out)")


def test_the_first_of_many_duplicates_is_kept() -> None:
    numbers = np.random.default_rng(0).integers(0, 3000, 20_000)
    sentences = [f"number {n}" for n in numbers]
    assert list(Corpus.from_sentences(sentences)) == list(dict.fromkeys(sentences))


def test_a_file_without_final_line_end_does_not_run_into_the_next(tmp_path: Path, cache: Path) -> None:
    files = [write(tmp_path / "a.txt", "one"), write(tmp_path / "b.txt", "two"), write(tmp_path / "empty.txt", "")]
    assert list(read_corpus(files, cache_dir=cache)) == ["one", "two"]


@pytest.mark.parametrize("name", ["plain", "notes.text", "wiki.en", "UPPER.TXT.GZ", "two.txt.gz", "bare.xz"])
def test_names_that_are_read(tmp_path: Path, cache: Path, name: str) -> None:
    pack = PACKERS.get(name[-3:].lower(), bytes)
    file = write(tmp_path / name, pack(b"one\n") + pack(b"two\n"))  # two members, as by cat a.gz b.gz
    assert list(read_corpus([file], cache_dir=cache)) == ["one", "two"]


def test_the_content_hash_does_not_know_the_files(tmp_path: Path, cache: Path) -> None:
    split = [write(tmp_path / "1.txt", "a b\r\n\r\nc\r\n"), write(tmp_path / "2.txt.gz", gzip.compress(b"a  b\nd"))]
    whole = write(tmp_path / "whole.txt", "a b\nc\nd\n")
    one, other = read_corpus(split, cache_dir=cache), read_corpus([whole], cache_dir=cache)
    assert one.sha256 == other.sha256 == Corpus.from_sentences(["a b", "c", "d"]).sha256
    assert one.folder is not None
    assert hashlib.sha256((one.folder / "sentences.bin").read_bytes()).hexdigest() == one.sha256
    assert one.sha256 != Corpus.from_sentences(["a b", "d", "c"]).sha256


# Which files


def test_patterns_are_sorted_and_each_file_is_read_once(tmp_path: Path, cache: Path, monkeypatch) -> None:
    for name in ["b.txt", "a.txt", "deep/er/c.txt"]:
        write(tmp_path / name, f"in {name}\n")
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    (tmp_path / "folder.txt").mkdir()
    monkeypatch.chdir(tmp_path)
    corpus = read_corpus(["b.txt", "*.txt", tmp_path / "b.txt", "**/c.txt"], cache_dir=cache)
    assert list(corpus) == ["in b.txt", "in a.txt", "in deep/er/c.txt"]
    assert corpus.counts.files == 3


def test_one_path_instead_of_a_list(tmp_path: Path, cache: Path) -> None:
    file = write(tmp_path / "a.txt", "one\ntwo\n")
    assert len(read_corpus(str(file), cache_dir=cache)) == len(read_corpus(file, cache_dir=cache)) == 2


def test_a_name_that_looks_like_a_glob(tmp_path: Path, cache: Path) -> None:
    assert len(read_corpus([write(tmp_path / "a[1].txt", "one\ntwo\n")], cache_dir=cache)) == 2


def test_file_names_that_are_refused(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "sentences.txt", "one\ntwo\n")
    assert "Did you mean" in (message := refusal(tmp_path / "sentence.txt", cache))
    assert str(tmp_path / "sentences.txt") in message
    assert "does not exist. Relative paths" in refusal(tmp_path / "nowhere" / "x.txt", cache)
    assert "no file matches" in refusal(tmp_path / "*.text", cache)
    assert f"{tmp_path / '*.txt'}" in refusal(tmp_path, cache)
    assert "No text file was given" in refusal([], cache)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe", cache)


def test_a_file_that_may_not_be_read(tmp_path: Path, cache: Path, monkeypatch) -> None:
    file = write(tmp_path / "a.txt", "one\ntwo\n")

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr(sources, "open", refuse, raising=False)
    assert re.search(r"a\.txt cannot be read: Permission denied", refusal(file, cache))
    monkeypatch.setattr(sources, "check_file", refuse)
    assert re.search(r"a\.txt cannot be read: Permission denied", refusal(file, cache))


@pytest.mark.parametrize("name", ["my rows.json", "packed.json.gz"])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_content_of_json_says_what_it_is(tmp_path: Path, cache: Path, name: str, indent: int | None) -> None:
    rows = [{"id": 1, "text": "One, two."}, {"id": 2, "text": "Three\nfour."}]
    pack = PACKERS.get(name[-3:], bytes)
    for data in (json.dumps(rows, indent=indent), "\n".join(map(json.dumps, rows))):
        file = write(tmp_path / name, pack(b"\xef\xbb\xbf " + data.encode()))
        os.utime(file, ns=(0, len(data)))
        assert list(read_corpus([file], cache_dir=cache)) == ["One, two.", "Three four."]


def test_a_list_of_json_is_numbered(tmp_path: Path, cache: Path) -> None:
    file = write(tmp_path / "a.json", '[{"text": "One."}, {"text": 2}]')
    assert "a.json, row 2, column 'text': a number" in refusal(file, cache)
    assert "a.json, row 1: a number" in refusal(write(file, "[1]"), cache)
    assert "a.json, row 1: no column 'text'" in refusal(write(file, '[{"Text": "One."}]'), cache)
    assert "a.json: not JSON" in refusal(write(file, "[1"), cache)


@pytest.mark.parametrize("name", ["a.arrow", "a.txt.bz2", "a.PDF", "a.docx.xz", "a.tar.gz", "a.zip"])
def test_other_formats_are_refused(tmp_path: Path, cache: Path, name: str) -> None:
    assert " is not read; .txt, .csv," in refusal(write(tmp_path / name, "one\ntwo\n"), cache)


# What is in them


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("", "no text at all"),
        ("\n \t\r\n\u00a0\n", "only blank lines"),
        ("one\n one\n\none", "only 1 distinct sentence"),
    ],
)
def test_too_little_text(tmp_path: Path, cache: Path, data: str, problem: str) -> None:
    file = write(tmp_path / "a.txt", data)
    message = refusal(file, cache)
    assert message.startswith(f"{file} holds {problem}")
    assert "give at least 2" in message
    assert "a.txt and 1 more" in refusal([file, write(tmp_path / "b.txt", data)], cache)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-be"])
def test_a_byte_order_mark_names_the_encoding(tmp_path: Path, cache: Path, monkeypatch, encoding: str) -> None:
    mark = "" if encoding in ("utf-16", "utf-32") else "\ufeff"
    file = write(tmp_path / "a.txt.gz", gzip.compress((mark + "one é\r\ntwo 😀\n").encode(encoding)))
    for block_bytes in (1, 7, 1 << 18):
        monkeypatch.setattr(lines_module, "BLOCK_BYTES", block_bytes)
        corpus = read_corpus([file], cache_dir=tmp_path / str(block_bytes))
        assert (list(corpus), noted(corpus)) == (["one é", "two 😀"], {})


@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 18])
@pytest.mark.parametrize(
    ("data", "line", "byte", "value"),
    [
        (b"one\r\ntwo\ncaf\xe9 three\n", 3, 4, "E9"),
        (b"\xef\xbb\xbf\xff\nx", 1, 1, "FF"),
        (b"one\ntwo \xc3\nthree", 2, 5, "C3"),
        (b"one\ntwo\n\xf0\x9f\x98", 3, 1, "F0"),
        (b"one\n\xed\xa0\x80 surrogate\n", 2, 1, "ED"),
    ],
)
def test_invalid_utf8_is_located(tmp_path, cache, monkeypatch, block_bytes, data, line, byte, value) -> None:
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", block_bytes)
    message = refusal(write(tmp_path / "a.txt", data), cache)
    assert f"a.txt, line {line}, byte {byte}: 0x{value} is not UTF-8" in message
    assert "--encoding windows-1252" in message


@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 18])
def test_zero_bytes_are_located(tmp_path: Path, cache: Path, monkeypatch, block_bytes: int) -> None:
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", block_bytes)
    file = write(tmp_path / "a.txt", b"one\r\ntwo\r\nthr\0ee\nfour\0")
    message = refusal(file, cache)
    assert f"{file}, line 3: a zero byte" in message


@pytest.mark.parametrize("block_bytes", [*range(1, 30), 1 << 18])
def test_the_longest_line_accepted(tmp_path: Path, cache: Path, monkeypatch, block_bytes: int) -> None:
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", block_bytes)
    for end in ("\n", "\r\n", "\r"):
        file = write(tmp_path / "fits.txt", end.join(["ab", "é" * 5, "c" * 10, ""]))
        fits = read_corpus([file], cache_dir=tmp_path / f"fits{end!r}", max_line_bytes=10)
        assert (len(fits), fits.counts.lines) == (3, 3)
        message = refusal(write(tmp_path / "long.txt", end.join(["ab", "é" * 5 + "x", "cd"])), cache, max_line_bytes=10)
        assert re.search(r"long\.txt, line 2: (at least )?1[1-9] bytes long|line 2: at least \d\d bytes", message)
        assert "split the text into sentences" in message


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_an_endless_line_is_not_read_to_its_end(tmp_path: Path, cache: Path, suffix: str) -> None:
    file = write(tmp_path / f"a{suffix}", PACKERS[suffix](b"short\n" + b"word " * 4_000_000))
    message = refusal(file, cache)
    seen = int(re.search(r"line 2: at least ([\d,]+) bytes", message)[1].replace(",", ""))
    assert 100_000 < seen < 1_000_000


def test_max_line_bytes_must_be_positive(tmp_path: Path, cache: Path) -> None:
    assert "max_line_bytes = 0" in refusal(write(tmp_path / "a.txt", "one\ntwo\n"), cache, max_line_bytes=0)


LONG_TEXT = "".join(f"sentence {i * 7919} of the text\n" for i in range(3000)).encode()


@pytest.mark.parametrize("suffix", [".txt.gz", ".txt.xz", ".txt.zst"])
def test_damaged_archives(tmp_path: Path, cache: Path, suffix: str) -> None:
    packed = PACKERS[suffix](LONG_TEXT)
    middle = len(packed) // 2
    for damaged in (
        packed[:-6],
        packed[:middle],
        packed[:5],
        packed[:middle] + bytes(b ^ 255 for b in packed[middle : middle + 40]) + packed[middle + 40 :],
        b"not packed at all\nreally\n",
    ):
        file = write(tmp_path / f"a{suffix}", damaged)
        message = refusal(file, cache)
        assert message.startswith(f"{file}: the {Path(suffix).suffix[1:]} data is cut off or damaged")


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_packed_text_without_its_suffix(tmp_path: Path, cache: Path, suffix: str) -> None:
    message = refusal(write(tmp_path / "a.txt", PACKERS[f".txt{suffix}"](b"one\ntwo\n")), cache)
    assert f"Add {suffix} to the file's name" in message
    (tmp_path / "a.txt").rename(tmp_path / f"a.txt{suffix}")
    assert len(read_corpus([tmp_path / f"a.txt{suffix}"], cache_dir=cache)) == 2


# The cache


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    return write(tmp_path / "a.txt", "one\ntwo\nthree\n")


def test_the_cache_is_used_again(text_file: Path, cache: Path, monkeypatch) -> None:
    first = read_corpus([text_file], cache_dir=cache)
    with monkeypatch.context() as patch:
        patch.setattr(store, "build", lambda *_: pytest.fail("read again"))
        second = read_corpus([text_file], cache_dir=cache)
    assert (list(second), second.counts, second.sha256, second.sources, second.folder) == (
        list(first),
        first.counts,
        first.sha256,
        first.sources,
        first.folder,
    )
    read_corpus([text_file], cache_dir=cache, max_line_bytes=5)
    assert len(leftovers(cache)) == 2
    write(text_file, "one\ntwo\nseven\n")
    os.utime(text_file, ns=(0, 0))
    assert list(read_corpus([text_file], cache_dir=cache)) == ["one", "two", "seven"]
    assert len(leftovers(cache)) == 3
    assert list(first) == ["one", "two", "three"]


@pytest.mark.parametrize("part", ["sentences.bin", "offsets.npy", "record.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut off", "other"])
def test_a_torn_cache_is_built_again(text_file: Path, cache: Path, part: str, damage: str) -> None:
    folder = read_corpus([text_file], cache_dir=cache).folder
    data = (folder / part).read_bytes()
    (folder / part).unlink()
    if damage != "missing":
        write(folder / part, {"empty": b"", "cut off": data[:-2], "other": b"[]"}[damage])
    corpus = read_corpus([text_file], cache_dir=cache)
    assert list(corpus) == ["one", "two", "three"]
    assert leftovers(cache) == [folder.name]


@pytest.mark.parametrize("part", ["sentences.bin", "offsets.npy", "record.json", "manifest.json"])
def test_bytes_that_changed_in_the_cache_are_noticed_when_a_run_begins(text_file: Path, cache: Path, part: str) -> None:
    before = read_corpus([text_file], cache_dir=cache)
    random = Random(24)
    data = (before.folder / part).read_bytes()
    for number in range(15):
        zeros = number == 0 and part == "sentences.bin"
        (before.folder / part).write_bytes(bytes(len(data)) if zeros else flipped(data, random))
        corpus = read_corpus([text_file], cache_dir=cache)
        assert (list(corpus), corpus.sha256) == (["one", "two", "three"], before.sha256)
        assert [note.kind for note in corpus.counts.notes] == ["rebuilt"]
        assert "1 cached corpus that was damaged" in corpus.summary()
    assert not read_corpus([text_file], cache_dir=cache).counts.notes


def test_a_cache_is_on_the_disk_before_it_has_its_name(text_file: Path, cache: Path, monkeypatch) -> None:
    synced = []
    monkeypatch.setattr(files, "_sync", synced.append)
    monkeypatch.setattr(store, "sync_files", files.sync_files)
    folder = read_corpus([text_file], cache_dir=cache).folder
    assert {path.name for path in synced} >= {path.name for path in folder.iterdir()}
    assert all(path.parent != folder for path in synced)


def test_two_that_build_the_same_cache_agree(text_file: Path, cache: Path) -> None:
    first = read_corpus([text_file], cache_dir=cache)
    inode = first.folder.stat().st_ino
    found = sources.find_sources([text_file])
    plan = corpus_module.text_plan(found, Text(), False, 100_000)
    second = store.build(first.folder, lambda folder: Corpus._write(folder, found, plan, 1), Corpus.open)
    assert list(second) == list(first)
    assert leftovers(cache) == [first.folder.name]
    assert second.folder.stat().st_ino == inode  # the first one's is in use and stays


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("part", ["sentences.bin", "offsets.npy", "record.json"])
def test_a_full_disk(text_file: Path, cache: Path, monkeypatch, part: str, code: int) -> None:
    def full(*_, **__):
        raise OSError(code, os.strerror(code))

    place, name = {
        "sentences.bin": (store.Builder, "add"),
        "offsets.npy": (store.np, "save"),
        "record.json": (Path, "write_text"),
    }[part]
    with monkeypatch.context() as patch:
        patch.setattr(place, name, full)
        message = refusal(text_file, cache)
    assert message.startswith(f"{cache}: the corpus cache cannot be written there: {os.strerror(code)}")
    assert "cache_dir" in message
    assert "XDG_CACHE_HOME" in message
    assert f"({0 if part == 'sentences.bin' else 13} bytes needed so far)" in message
    assert len(read_corpus([text_file], cache_dir=cache)) == 3


def test_a_cache_that_cannot_be_made(text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written there: Not a directory"):
        read_corpus([text_file], cache_dir=write(tmp_path / "file", "") / "cache")


def test_an_interrupt_leaves_nothing_behind(text_file: Path, cache: Path, monkeypatch) -> None:
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "first_occurrences", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_corpus([text_file], cache_dir=cache)
    assert leftovers(cache) == []


def test_a_file_that_changes_while_it_is_read(text_file: Path, cache: Path, monkeypatch) -> None:
    add = store.Builder.add

    def add_and_cut(builder, piece) -> None:
        add(builder, piece)
        os.truncate(text_file, 5)

    monkeypatch.setattr(store.Builder, "add", add_and_cut)
    assert "changed while it was read" in refusal(text_file, cache)
    monkeypatch.setattr(store.Builder, "add", lambda *_: text_file.unlink(missing_ok=True))
    assert f"{text_file} cannot be read" in refusal(text_file, cache)


def test_where_the_cache_is(text_file: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_cache_dir() == tmp_path / "home/.cache/diffcse/corpora"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert read_corpus([text_file]).folder.parent == tmp_path / "xdg/diffcse/corpora"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o600])
def test_the_cache_of_a_private_text_is_private(text_file: Path, cache: Path, mode: int) -> None:
    public = write(text_file.with_name("public.txt"), "four\n")
    text_file.chmod(mode)
    public.chmod(0o644)
    folder = read_corpus([text_file, public], cache_dir=cache).folder
    for file in folder.iterdir():
        assert file.stat().st_mode & 0o077 & ~mode == 0
    assert folder.stat().st_mode & 0o044 & ~mode == 0


# What a corpus can do


def test_indexing(text_file: Path, cache: Path) -> None:
    for corpus in (read_corpus([text_file], cache_dir=cache), Corpus.from_sentences(["one", "two", "three"])):
        assert len(corpus) == 3
        assert [corpus[i] for i in (0, -1, np.int64(1), -3)] == ["one", "three", "two", "one"]
        for outside in (3, -4):
            with pytest.raises(IndexError):
                corpus[outside]
        with pytest.raises(TypeError):
            corpus["one"]
        with pytest.raises(AttributeError):
            corpus.sha256 = ""


def test_pickling(text_file: Path, cache: Path, tmp_path: Path) -> None:
    corpus = read_corpus([text_file], cache_dir=cache)
    pickled = pickle.dumps(corpus)
    assert len(pickled) < 1000
    for copy in (pickle.loads(pickled), pickle.loads(pickle.dumps(Corpus.from_sentences(list(corpus))))):
        assert list(copy) == ["one", "two", "three"]
        assert copy.sha256 == corpus.sha256
    write(tmp_path / "pickle", pickled)
    script = "import pickle, sys; print(*pickle.load(open(sys.argv[1], 'rb')))"
    printed = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "pickle"], check=True, capture_output=True, text=True
    )
    assert printed.stdout == "one two three\n"
    shutil.rmtree(cache)
    with pytest.raises(InputError, match="missing or damaged"):
        pickle.loads(pickled)


@given(st.lists(any_line | spaced_line | st.just("a\nb\r\nc"), max_size=20))
def test_sentences_in_memory(sentences: list[str]) -> None:
    expected = oracle("\n".join(re.sub("[\r\n]+", " ", s) for s in sentences))
    if len(expected) < 2:
        with pytest.raises(InputError, match="The list holds"):
            Corpus.from_sentences(sentences)
        return
    corpus = Corpus.from_sentences(sentences)
    assert list(corpus) == [corpus[i] for i in range(len(corpus))] == expected
    assert corpus.counts.lines == len(sentences) == corpus.counts.empty + corpus.counts.duplicates + len(corpus)
    assert (corpus.counts.files, corpus.sources, corpus.folder) == (0, (), None)
    assert "from memory" in corpus.summary()


@pytest.mark.parametrize(
    ("sentences", "problem"),
    [
        ("one string", "list of strings"),
        (["one", 2], r"sentences\[1\] is of type int"),
        (["one", None], r"sentences\[1\] is a missing value"),
        (["one", float("nan")], r"sentences\[1\] is a missing value"),
        (["one", "\ud83d"], r"sentences\[1\] holds half"),
        ([], "no text at all"),
    ],
)
def test_lists_that_are_refused(sentences, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        Corpus.from_sentences(sentences)


# What it costs

MEASURE = """
import resource, sys
from pathlib import Path
from diffcse.text.corpus import read_corpus
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
corpus = read_corpus([sys.argv[1]], cache_dir=Path(sys.argv[2]))
print(len(corpus), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
@pytest.mark.parametrize("copies", [1, 5])
def test_memory_is_bounded(tmp_path: Path, cache: Path, copies: int) -> None:
    filler = "of the same long sentence about nothing at all " * 8
    part = "".join(f"Number {i} {filler}\n" for i in range(130_000 // copies)).encode()
    assert len(part) * copies > 50_000_000
    file = write(tmp_path / "a.txt", part * copies)
    run = subprocess.run([sys.executable, "-c", MEASURE, file, cache], check=True, capture_output=True, text=True)
    sentences, kib = map(int, run.stdout.split())
    assert sentences == 130_000 // copies
    assert kib < 25_000


def test_imports_are_light() -> None:
    script = "import sys, diffcse.text.corpus, diffcse.text.stdlib; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_examples_in_the_documentation() -> None:
    for module in (lines_module, strings, corpus_module):
        result = doctest.testmod(module)
        assert result.attempted >= 1
        assert result.failed == 0
