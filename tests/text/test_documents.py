"""Which sentence follows which, against a loop; and running prose, split."""

from __future__ import annotations

import csv
import doctest
import hashlib
import pickle
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcse.config import Text
from diffcse.errors import InputError
from diffcse.text import formats, hub, lines, prose
from diffcse.text.corpus import Corpus, read_corpus
from diffcse.text.lines import normalise
from diffcse.text.prose import split_sentences


def oracle(documents: list[list[str]]) -> dict[str, str | None]:
    """Each sentence's follower where it first comes, by loops over strings."""
    following: dict[str, str | None] = {}
    for document in documents:
        for place, sentence in enumerate(document):
            if sentence in following:
                continue
            rest = document[place + 1 :]
            following[sentence] = rest[0] if rest and rest[0] != sentence else None
    return following


def found(corpus: Corpus) -> dict[str, str | None]:
    return {corpus[i]: None if j < 0 else corpus[j] for i, j in enumerate(corpus.following)}


some_documents = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6), max_size=12)


@settings(max_examples=200)
@given(documents=some_documents, block=st.integers(1, 9), files=st.integers(1, 3), blank=st.sampled_from(["", " \t"]))
def test_plain_text_with_empty_lines(tmp_path_factory, documents, block, files, blank) -> None:
    folder = tmp_path_factory.mktemp("documents")
    paths = []
    for number in range(files):
        text = f"\n{blank}\n".join("\n".join(document) for document in documents[number::files])
        paths.append(folder / f"{number}.txt")
        paths[-1].write_text(text)
    read = [document for number in range(files) for document in documents[number::files] if document]
    expected = oracle(read)
    if len(expected) < 2:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block)
        corpus = read_corpus(paths, documents=True, cache_dir=folder / "cache")
    assert found(corpus) == expected
    assert list(corpus) == list(expected)
    assert corpus.counts.documents == len(read)
    assert found(pickle.loads(pickle.dumps(corpus))) == expected
    shutil.rmtree(folder)


@settings(max_examples=100)
@given(
    rows=st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d", "e", ""]), st.sampled_from(["1", "2", ""]))),
    suffix=st.sampled_from([".csv", ".parquet"]),
    block=st.integers(1, 6),
)
def test_documents_named_by_a_column(tmp_path_factory, rows, suffix, block) -> None:
    folder = tmp_path_factory.mktemp("documents")
    documents: list[list[str]] = []
    previous = ""
    for sentence, name in rows:
        if not name or name != previous:  # a row without a name stands alone
            documents.append([])
        documents[-1] += [sentence] if sentence else []
        previous = name
    expected = oracle(documents)
    if len(expected) < 2:
        return
    file = folder / f"a{suffix}"
    if suffix == ".csv":
        with file.open("w", newline="") as handle:
            csv.writer(handle).writerows([("text", "page"), *rows])
    else:
        names = [int(name) if name else None for _, name in rows]
        pq.write_table(pa.table({"page": pa.array(names, pa.int32()), "text": [text for text, _ in rows]}), file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "ROWS", block)
        corpus = read_corpus([file], text=Text(document="page"), documents=True, cache_dir=folder / "cache")
    assert found(corpus) == expected
    assert corpus.counts.documents == sum(map(bool, documents))
    shutil.rmtree(folder)


def test_prose_is_split_and_each_cell_is_a_document(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('text,page\n"One. Two.\nStill two? Yes.",1\nOne. Three.,1\n,1\nFour.,2\n')
    read = {"text": Text(split_sentences=True), "documents": True, "cache_dir": tmp_path / "cache"}
    corpus = read_corpus([file], **read)
    assert list(corpus) == ["One.", "Two.", "Still two?", "Yes.", "Three.", "Four."]
    assert corpus.following.tolist() == [1, 2, 3, -1, -1, -1]
    assert corpus.following_sha256 == hashlib.sha256(corpus.following.astype("<i8").tobytes()).hexdigest()
    assert (corpus.counts.lines, corpus.counts.empty, corpus.counts.duplicates) == (4, 1, 1)
    assert corpus.counts.documents == 3
    read["text"] = Text(split_sentences=True, document="page")
    corpus = read_corpus([file], **read)
    assert corpus.following.tolist() == [1, 2, 3, 0, -1, -1]
    assert corpus.counts.documents == 2


def test_processes_change_nothing_of_documents_or_splitting(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 300)
    monkeypatch.setattr(formats, "ROWS", 5)
    rows = [(f"This is {i * i % 37}. It ends. " * (i % 9 > 0), i // 7) for i in range(200)]
    with (tmp_path / "a.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("text", "page"), *rows])
    (tmp_path / "b.txt").write_text("\n".join(text for text, _ in rows))
    for text, names in (
        (Text(split_sentences=True), ["a.csv", "b.txt"]),
        (Text(split_sentences=True, document="page"), ["a.csv"]),
        (Text(document="page"), ["a.csv"]),
    ):
        one, other = (
            read_corpus(
                [tmp_path / name for name in names],
                text=text,
                documents=True,
                processes=processes,
                cache_dir=tmp_path / str(processes),
            )
            for processes in (1, 3)
        )
        assert (one.sha256, one.counts, one.repeated) == (other.sha256, other.counts, other.repeated)
        assert one.following.tolist() == other.following.tolist()
        assert (one.following >= 0).any()


def test_plain_text_is_split_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("Mr. Smith came. He sat.\nHe left.\n\nWhy? " + "Because. " * 30_000)
    corpus = read_corpus([file], text=Text(split_sentences=True), documents=True, cache_dir=tmp_path / "cache")
    assert list(corpus) == ["Mr. Smith came.", "He sat.", "He left.", "Why?", "Because."]
    assert corpus.following.tolist() == [1, -1, -1, 4, -1]
    file.write_text("Short.\n" + "word " * 30_000)
    with pytest.raises(InputError, match=r"a\.txt, line 2: .*149,999 bytes long"):
        read_corpus([file], text=Text(split_sentences=True), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("language", "prose", "sentences"),
    [
        ("en", "Use os.path. It is v3.11! Really?", ["Use os.path.", "It is v3.11!", "Really?"]),
        ("zh", "他来了。你好吗？好！", ["他来了。", "你好吗？", "好！"]),
        ("de", "Das ist z. B. gut. Nein.", ["Das ist z. B. gut.", "Nein."]),
        ("en", "Take C\u00a0. It helps.\u2028Really? Yes.", ["Take C .", "It helps.", "Really?", "Yes."]),
        ("en", "A heading\n\nA text.", ["A heading", "A text."]),
        ("en", "", []),
    ],
)
def test_sentences_of_prose(language: str, prose: str, sentences: list[str]) -> None:
    assert [s for s in map(normalise, split_sentences(prose, language)) if s] == sentences


any_prose = st.text(st.characters(exclude_categories=["Cs"])) | st.text(
    st.sampled_from(".!?。 \n\"'()«»“”:;-•1aA.é中\u0300\u2028\u00a0\u3000\u2003\x85")
)


@settings(max_examples=400)
@given(any_prose, st.sampled_from(["en", "zh", "hi", "am", "fr"]))
def test_splitting_loses_no_character(prose: str, language: str) -> None:
    assert "".join("".join(split_sentences(prose, language)).split()) == "".join(prose.split())


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("english", "Did you mean en?"),
        ("deu", "Did you mean de?"),
        ("EN", "Did you mean en?"),
        ("pt-BR", "Did you mean pt?"),
        ("xq", "two letters. These"),
    ],
)
def test_unknown_languages(tmp_path: Path, code: str, hint: str) -> None:
    (tmp_path / "a.txt").write_text("One. Two.")
    with pytest.raises(InputError, match=rf"text\.language = '{code}': must be an ISO 639-1 code") as caught:
        read_corpus([tmp_path / "a.txt"], text=Text(split_sentences=True, language=code), cache_dir=tmp_path / "cache")
    assert hint in str(caught.value)
    assert "am, ar, bg" in str(caught.value)


def test_a_language_without_splitting_would_do_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One. Two.")
    with pytest.raises(InputError, match=r"'de' needs text\.split_sentences"):
        read_corpus([tmp_path / "a.txt"], text=Text(language="de"), cache_dir=tmp_path / "cache")


def test_a_torn_array_of_followers_is_built_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    read = {"documents": True, "cache_dir": tmp_path / "cache"}
    corpus = read_corpus([tmp_path / "a.txt"], **read)
    for damage in (b"", b"other", (corpus.folder / "offsets.npy").read_bytes()):
        (corpus.folder / "following.npy").unlink()
        (corpus.folder / "following.npy").write_bytes(damage)
        assert read_corpus([tmp_path / "a.txt"], **read).following.tolist() == [1, 2, -1]


def test_examples_in_the_documentation() -> None:
    for module in (lines, hub, prose):
        assert doctest.testmod(module).failed == 0
