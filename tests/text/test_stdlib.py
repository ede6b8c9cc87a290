from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import pytest

from diffcse.errors import InputError
from diffcse.text.corpus import Corpus, normalise
from diffcse.text.stdlib import Docstring, StdlibCorpus, read_stdlib, retrieval_pairs

OTHER_VERSIONS = sorted(
    folder
    for folder in Path.home().glob(".pyenv/versions/*/lib/python3.1[0-9]")
    if folder.name in ("python3.12", "python3.13", "python3.14") and folder.name != f"python3.{sys.version_info.minor}"
)


@pytest.fixture(scope="module")
def library() -> StdlibCorpus:
    return read_stdlib()


def tree(root: Path, modules: dict[str, str]) -> Path:
    """A library: path without suffix -> source."""
    for name, source in modules.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return root


def prose(tmp_path: Path, docstring: str) -> list[str]:
    """The sentences kept of one docstring, wherever it is indented to."""
    indented = docstring.replace("\n", "\n        ")
    root = tree(tmp_path, {"m": f'class A:\n    def f(self):\n        r"""{indented}\n        """\n'})
    try:
        (found,) = read_stdlib(root).docstrings
    except InputError:
        return []
    assert (found.module, found.qualname) == ("m", "A.f")
    return list(found.sentences)


# One docstring


@pytest.mark.parametrize(
    ("docstring", "sentences"),
    [
        ("Close the open file.", ["Close the open file."]),
        ("Main entry point", ["Main entry point"]),
        ("Close the open file\n\nand no full stop\n\nFollows these words", ["Close the open file"]),
        (
            "Close the open file.\n    indented code\nAnother sentence here.",
            ["Close the open file.", "Another sentence here."],
        ),
        (
            "\n\nClose the open\nfile. Then return\nnothing at all.\n",
            ["Close the open file.", "Then return nothing at all."],
        ),
        ("Close the file.  \n   \nThen return nothing.\n   ", ["Close the file.", "Then return nothing."]),
        ("Use a well-\nknown name on-\nor off-line.", ["Use a well-known name on- or off-line."]),
        # names with capitals after dots
        ("Return a concurrent.futures.Future to wait for.", ["Return a concurrent.futures.Future to wait for."]),
        # signatures and usage lines
        ("f(a, b) -> c\n\nAdd the two numbers.", ["Add the two numbers."]),
        ("f(a, b=1)\nAdd the two numbers.", ["Add the two numbers."]),
        (
            "D.pop(k) -> v, remove the key and return\nits old value.\n\nRaise if missing from it.",
            ["Raise if missing from it."],
        ),
        ("alias name\nDelete the given alias.", ["Delete the given alias."]),
        # doctests with their output, code, tables
        (
            "Add the two numbers.\n\n>>> f(1, 2)\n3 is what comes out.\n\nThat is all of it.",
            ["Add the two numbers.", "That is all of it."],
        ),
        ("Add the two numbers.\n>>> f(1, 2)\n3\n", ["Add the two numbers."]),
        ("Use it like this:\n\n    call it with care.\n\nThat is all of it.", ["That is all of it."]),
        ("Use it where it fits::\n\n    call it with care.\n", []),
        ("The statement\n\n    f(1)\n\nis the same as this one.\n\nUse it with care.", ["Use it with care."]),
        (
            "One sentence here. Then comes\n    indented code\nafter a cut. Another sentence here.",
            ["One sentence here.", "Another sentence here."],
        ),
        ("name     what the name is for\nvalue    what the value is for", []),
        ("| one cell | another cell |\n+----------+--------------+", []),
        # lists
        (
            "- first do this thing\n  and do it well.\n- second do that thing.",
            ["first do this thing and do it well.", "second do that thing."],
        ),
        ("1. Read the whole file.\n2. Close the whole file.", ["Read the whole file.", "Close the whole file."]),
        ("size -- how large it is in bytes.\nname: what it is called by people.", []),
        # reST: fields, directives, titles, markup
        (
            "Open the given file.\n\n:param name: The name of the file.\n:returns: The open file object.",
            ["Open the given file."],
        ),
        (".. note:: Only on Windows machines.\n\nOpen the given file.", ["Open the given file."]),
        ("A Title of Words\n================\n\nOpen the given file.", ["Open the given file."]),
        (
            "See :class:`~a.b.Reader` and ``read()`` of *name* or `other`, `x('y')` or `old' now.",
            ["See a.b.Reader and read() of name or other, x('y') or old now."],
        ),
        ("Pass *args and **kwargs on to it.", ["Pass *args and **kwargs on to it."]),
        # no prose
        ("Too short.", []),
        ('obs-list = *(CFWS / ",") domain of all the things.', []),
        ("0 1 2 3 4 5 is a b c of 6 7 8 9 10 11.", []),
        ("XXX remove this in the next version.", []),
        ("Read the " + "very " * 100 + "long file.", []),
        ("Read (the file, which is open.", []),
        ("The resource names are: width, height, colour, font, relief, cursor.", []),
    ],
)
def test_what_is_kept_of_a_docstring(tmp_path: Path, docstring: str, sentences: list[str]) -> None:
    assert prose(tmp_path, docstring) == sentences


# A folder of modules


def test_modules_classes_and_functions_in_order(tmp_path: Path) -> None:
    source = '''"""The module itself speaks."""
class A:
    """The class A speaks."""
    def f(self):
        """The method f speaks."""
        def inner():
            """The inner function speaks."""
    try:
        async def g(self):
            """The coroutine g speaks."""
    except ImportError:
        def h(self):
            """The fallback h speaks."""
'''
    modules = {"b": "'A last module speaks.'", "a/__init__": source, "a/sub": "'A submodule speaks.'"}
    found = [(d.module, d.qualname, *d.sentences) for d in read_stdlib(tree(tmp_path, modules)).docstrings]
    assert found == [
        ("a", "", "The module itself speaks."),
        ("a", "A", "The class A speaks."),
        ("a", "A.f", "The method f speaks."),
        ("a", "A.f.<locals>.inner", "The inner function speaks."),
        ("a", "A.g", "The coroutine g speaks."),
        ("a", "A.h", "The fallback h speaks."),
        ("a.sub", "", "A submodule speaks."),
        ("b", "", "A last module speaks."),
    ]


def test_what_is_skipped(tmp_path: Path) -> None:
    folders = ["site-packages", "dist-packages", "test", "a/tests", "idlelib/idle_test", "config-3"]
    names = ["good", *(f"{folder}/x" for folder in folders)]
    root = tree(tmp_path, {name: f"'This module speaks of {name}.'" for name in names})
    (root / "broken.py").write_text("'This module is broken.'\nprint 'old'\n")
    (root / "zero.py").write_bytes(b"'This module has zeros.'\n\0")
    (root / "latin.py").write_bytes(b"# coding: latin-1\n'This module speaks fran\xe7ais.'\n")
    (root / "escape.py").write_text("'This module warns.'\nx = '\\d'\n")
    assert [d.sentences[0] for d in read_stdlib(root).docstrings] == [
        "This module warns.",
        "This module speaks of good.",
        "This module speaks français.",
    ]


def test_nothing_is_imported(tmp_path: Path) -> None:
    root = tree(tmp_path, {"a": "'This module must not run.'\nraise SystemExit(1)\n"})
    assert len(read_stdlib(root).docstrings) == 1
    assert "a" not in sys.modules


def test_repeated_sentences_are_left_out(tmp_path: Path) -> None:
    modules = {
        "a": "'Read at most 10 bytes. Close the file now.'",
        "b": "'Read at most 20 bytes. Close the File now! Open another one.'",
        "c": "'Close the file now.'",
    }
    assert [d.sentences for d in read_stdlib(tree(tmp_path, modules)).docstrings] == [
        ("Read at most 10 bytes.", "Close the file now."),
        ("Open another one.",),
    ]


def test_the_version_is_that_of_the_folder(tmp_path: Path, library: StdlibCorpus) -> None:
    speaks = {"a": "'This module speaks.'"}
    assert read_stdlib(tree(tmp_path / "python3.19", speaks)).python_version == "3.19"
    assert read_stdlib(tree(tmp_path / "Lib", speaks)).python_version == "unknown"
    assert library.python_version == ".".join(map(str, sys.version_info[:3]))


def test_a_library_without_sources(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "python311.zip", tree(tmp_path / "silent", {"a": "x = 1"})):
        with pytest.raises(InputError, match="full CPython") as caught:
            read_stdlib(root)
        assert str(root) in str(caught.value)


# Held-out modules


def library_of(sizes: dict[str, int]) -> StdlibCorpus:
    docstrings = [
        Docstring(module, f"f{i}", (f"Sentence {i} of {module}.", "More of it."))
        for module, size in sizes.items()
        for i in range(size)
    ]
    return StdlibCorpus(tuple(docstrings), "3")


def test_split_holds_out_whole_modules_and_their_twins() -> None:
    names = [f"m{i}" for i in range(50)]
    corpus = library_of(dict.fromkeys([*names, *(f"_py{n}" for n in names), *(f"_{n}.sub" for n in names)], 4))
    train, held_out = corpus.split(0.2)
    total = 3 * 50 * 4 * 2
    assert len(train) + sum(len(d.sentences) for d in held_out) == total
    assert 0.17 < sum(len(d.sentences) for d in held_out) / total <= 0.2
    modules = {d.module for d in held_out}
    for name in names:
        assert len({f"{prefix}{name}{sub}" in modules for prefix, sub in [("", ""), ("_py", ""), ("_", ".sub")]}) == 1
        assert (f"Sentence 0 of {name}." in train) == (name not in modules)


def test_split_is_not_taken_over_by_one_module() -> None:
    for large in ("large", "huge", "vast", "wide", "tall"):
        corpus = library_of({large: 200, **{f"m{i}": 4 for i in range(200)}})
        assert large not in {d.module for d in corpus.split(0.3)[1]}


def test_split_follows_from_names_alone() -> None:
    names = [f"m{i}" for i in range(100)]
    first = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:10]
    for modules in (names, names[::-1]):
        held_out = library_of(dict.fromkeys(modules, 4)).split(0.1)[1]
        assert {docstring.module for docstring in held_out} == set(first)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 15])
def test_split_share_out_of_range(library: StdlibCorpus, share: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        library.split(share)


def test_split_of_too_little() -> None:
    with pytest.raises(InputError, match="Hold out more"):
        library_of({"a": 10, "b": 10}).split(0.15)


def test_retrieval_pairs() -> None:
    docstrings = [
        Docstring("a", "f", ("What it is.", "More of it.", "And more.")),
        Docstring("a", "g", ("A lonely sentence.",)),
        Docstring("b", "f", ("What it is.", "Something else.")),
        Docstring("b", "g", ("Another thing.", "More of that.")),
    ]
    assert retrieval_pairs(docstrings) == (
        ["What it is.", "Another thing."],
        ["More of it. And more.", "More of that."],
    )
    assert retrieval_pairs([]) == ([], [])


# The real library


def check(library: StdlibCorpus) -> None:
    sentences = [sentence for docstring in library.docstrings for sentence in docstring.sentences]
    assert 12_000 < len(sentences) < 20_000
    assert len(sentences) == len(set(sentences)) == len(Corpus.from_sentences(sentences))
    assert Corpus.from_sentences(sentences).sha256 == library.sha256
    for sentence in sentences:
        assert sentence == normalise(sentence)
        assert len(sentence.split()) >= 3
        assert len(sentence) <= 400
        assert not re.search(r">>>|``|:\w+:`|\n|->| = |\{\}", sentence), sentence
    train, held_out = library.split()
    held_out_sentences = {sentence for docstring in held_out for sentence in docstring.sentences}
    assert 0.14 < len(held_out_sentences) / len(sentences) <= 0.15
    assert held_out_sentences.isdisjoint(train)
    assert len(train) + len(held_out_sentences) == len(sentences)
    assert len({docstring.module.split(".")[0] for docstring in held_out}) >= 20
    queries, documents = retrieval_pairs(held_out)
    assert len(queries) == len(documents) == len(set(queries)) >= 300
    assert all(documents)
    assert len(retrieval_pairs(library.docstrings)[0]) >= 2_000


def test_this_interpreter(library: StdlibCorpus) -> None:
    check(library)
    first = {(d.module, d.qualname): d.sentences[0] for d in library.docstrings}
    assert first["textwrap", "dedent"] == "Remove any common leading whitespace from every line in text."


@pytest.mark.parametrize("root", OTHER_VERSIONS, ids=lambda path: path.name)
def test_other_interpreters(root: Path, library: StdlibCorpus) -> None:
    other = read_stdlib(root)
    check(other)
    assert other.python_version == root.name.removeprefix("python")
    assert other.sha256 != library.sha256
