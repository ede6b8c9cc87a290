"""The quickstart's corpus: the documentation inside Python's own standard library.

A first run needs no download: the docstrings hold about fifteen thousand sentences of technical English. They also give
a search task: the first sentence of a docstring should find the rest of it among all others.

Source files are parsed and never imported. Docstrings mix prose with signatures, doctests, tables and field lists. Only
prose is kept, and a doubtful sentence is dropped.
"""

from __future__ import annotations

import ast
import hashlib
import math
import platform
import re
import string
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import sentencex

from diffcse.errors import InputError
from diffcse.text.lines import INVISIBLE

_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "pgen2"}


@dataclass(frozen=True)
class Docstring:
    """The prose of a docstring, in sentences; `qualname` is empty for a module's docstring."""

    module: str
    qualname: str
    sentences: tuple[str, ...]

    @property
    def subject(self) -> str:
        """The top-level module. `_pydecimal` has the subject of `decimal`, whose documentation it repeats."""
        return re.sub("^_(py)?", "", self.module.partition(".")[0])


@dataclass(frozen=True)
class StdlibCorpus:
    """The docstrings in the order of modules and lines; no sentence occurs twice."""

    docstrings: tuple[Docstring, ...]
    python_version: str

    @cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) of all sentences joined by newlines, as in `Corpus.sha256`."""
        sentences = (sentence for docstring in self.docstrings for sentence in docstring.sentences)
        return hashlib.sha256("\n".join(sentences).encode()).hexdigest()

    def split(self, held_out: float = 0.15) -> tuple[list[str], list[Docstring]]:
        """Training sentences, and the docstrings of the held-out modules.

        Whole top-level modules are held out, so no subject is on both sides. They are taken in the order of a hash of
        their names as long as they fit: the same modules on every machine with the same library.

        Args:
            held_out: share of the sentences to hold out, between 0 and 1. A module fits if it has at most an eighth.

        Raises:
            InputError: a share outside (0, 1), or no module fits.
        """
        held = self._held_out_subjects(held_out)
        train = [sentence for d in self.docstrings if d.subject not in held for sentence in d.sentences]
        return train, [d for d in self.docstrings if d.subject in held]

    def documents(self, held_out: float = 0.15) -> list[str]:
        """The training sentences of `split`, with an empty string after each docstring."""
        held = self._held_out_subjects(held_out)
        return [line for d in self.docstrings if d.subject not in held for line in (*d.sentences, "")]

    def _held_out_subjects(self, held_out: float) -> set[str]:
        if not 0 < held_out < 1:
            raise InputError(f"held_out = {held_out}: must be between 0 and 1, such as 0.15.")
        sizes: Counter[str] = Counter()
        for docstring in self.docstrings:
            sizes[docstring.subject] += len(docstring.sentences)
        room = held_out * sizes.total()
        largest = room / 8
        chosen = set()
        for subject in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
            if sizes[subject] <= min(largest, room):
                chosen.add(subject)
                room -= sizes[subject]
        if not chosen:
            raise InputError(f"held_out = {held_out}: every module of this library is larger. Hold out more of it.")
        return chosen


def read_stdlib(root: Path | None = None) -> StdlibCorpus:
    """Read the docstrings under `root`, a standard library's folder; None: this interpreter's.

    Raises:
        InputError: it has no docstrings, as in interpreters with a zipped library or without its sources.
    """
    folder = Path(sysconfig.get_paths()["stdlib"]) if root is None else Path(root)
    seen: set[str] = set()
    docstrings = []
    for module, qualname, text in _read_docstrings(folder):
        sentences = []
        for sentence in _prose(INVISIBLE.sub("", text)):
            key = " ".join(re.findall("[a-z]+", sentence.lower()))  # numbers, case and punctuation do not count
            if key not in seen:
                seen.add(key)
                sentences.append(sentence)
        if sentences:
            docstrings.append(Docstring(module, qualname, tuple(sentences)))
    if not docstrings:
        raise InputError(
            f"{folder}: no Python source file with a docstring. Use a full CPython (from python.org, conda, uv or "
            "pyenv), or give text files of your own."
        )
    name = re.search(r"python(\d+\.\d+)", folder.name)
    version = platform.python_version() if root is None else name[1] if name else "unknown"
    return StdlibCorpus(tuple(docstrings), version)


def retrieval_pairs(docstrings: Iterable[Docstring]) -> tuple[list[str], list[str]]:
    """Queries and their documents: the first sentence of each docstring, and the rest of it.

    Docstrings of one sentence are left out. Of equal queries, the first is kept.
    """
    documents: dict[str, str] = {}
    for docstring in docstrings:
        query, *rest = docstring.sentences
        if rest:
            documents.setdefault(query, " ".join(rest))
    return list(documents), list(documents.values())


# Source files -> docstrings


def _read_docstrings(root: Path) -> Iterator[tuple[str, str, str]]:
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not _SKIPPED_FOLDERS.isdisjoint(parts) or not all(part.isidentifier() for part in parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old sources hold escapes that are deprecated now
                tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):
            continue  # written for another version, or a test of the parser
        module = ".".join(parts).removesuffix(".__init__")
        for qualname, node in [("", tree), *_definitions(tree, "")]:
            if text := ast.get_docstring(node):
                yield module, qualname, text


_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, _Definition]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Definition):
            name = prefix + child.name
            yield name, child
            yield from _definitions(child, f"{name}." if isinstance(child, ast.ClassDef) else f"{name}.<locals>.")
        elif isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield from _definitions(child, prefix)


# Docstring -> sentences

_BULLET = re.compile(r"(?:[-*+•o]|\(?(?:\d{1,2}|[a-z])\)|\d{1,2}(?:\.\d+)*\.)\s+(?=\S)")
_UNDERLINE = re.compile(r"[^\w\s]{3,}")
_TERMINATED = re.compile(r"""(?<!['"])[.!?]["')\]]*$""")
_FIELD_OR_ROW = re.compile(r"[:@]\w+|\.\.\s|\||\+-|.*\S(?: {3,}|\t)\S")  # field list, directive, table row
_LISTING = re.compile(  # lines that are not prose, where a sentence could begin
    r"""[$%#<{=/\\&!~]             # shell, comments, templates
    |[\w.]+\(.*\)(?:\s*(?:->|--|:).*|[.:;]?$)  # a signature, perhaps with its description
    |[\w.]+\s*=                    # an assignment
    |\S.{,40}\s--?\s               # name -- description
    |[a-z_][\w.,\ ]{,25}:(?:\s|$)  # name: description
    |\d+(?:\.\d+)+\s               # 3.2 Section title
    """,
    re.VERBOSE,
)
_USAGE = re.compile(r"[^A-Z].{,50}[^.!?]")  # the beginning of a command's docstring: "unalias name"
_MARKUP = (
    (re.compile(r":[\w:]+:`[~!]?([^`<]*?)(?:\s*<[^>`]*>)?`"), r"\1"),  # :role:`text <target>`
    (re.compile(r"``(.+?)``"), r"\1"),
    (re.compile(r"`([^`'(]+)'(?!\w)"), r"\1"),  # `quotes like these'
    (re.compile(r"`([^`]+)`_?"), r"\1"),
    (re.compile(r"(?<![\w*])(\*{1,2})(\w(?:[^*]*\w)?)\1(?![\w*])"), r"\2"),  # *text*, **text**
)
_GAP = "{}"  # replaces lines dropped inside a sentence; `_NOT_PROSE` takes it for code and drops the sentence
_NOT_PROSE = re.compile(
    r"""\s=+\s|[=!]=|:=|::|->|>>|\.\.\.|\ \|\ |[{}\\]|\'\'\'|https?:  # code
    |^\w+:\s[a-z]|^\S+\s--?\s                               # name: description
    |XXX|TODO|FIXME|gencodec|\([Cc]\)\ \d|Copyright          # notes and notices
    """,
    re.VERBOSE,
)
_PLAIN_WORD = re.compile(r"""["'(]*[A-Za-z][a-z]*(?:['-][a-z]+)*["').,;:!?]*""")
_OPENING = frozenset(string.ascii_letters + "\"'(")


def _prose(text: str) -> Iterator[str]:
    is_summary, is_cut = True, False
    for paragraph in _paragraphs(text):
        for pattern, replacement in _MARKUP:
            paragraph = pattern.sub(replacement, paragraph)
        for sentence in _segment(paragraph):
            is_rest = is_cut and sentence[0].islower()
            is_cut = not _TERMINATED.search(sentence)
            # Only a summary may lack a full stop. Elsewhere, dropped lines went on with the sentence.
            if not is_rest and (is_summary or not is_cut) and _is_prose(sentence):
                yield sentence
            is_summary = False


def _segment(paragraph: str) -> Iterator[str]:
    """Split into sentences at white space only: `concurrent.futures.Future` is one word."""
    start = ""
    for piece in [*sentencex.segment("en", paragraph), " "]:
        start += piece
        if piece[-1:].isspace() and start.strip():
            yield " ".join(start.split())
            start = ""


def _paragraphs(text: str) -> Iterator[str]:
    """Unwrapped paragraphs and list items; indented text is dropped, because it is mostly code or tables."""
    lines: list[str] = []
    margin = math.inf  # lines indented further belong to the paragraph, as in list items
    in_doctest = in_listing = False
    for line in map(str.rstrip, [*text.splitlines(), ""]):
        body = line.lstrip()
        indent = len(line) - len(body)
        in_doctest = bool(body) and (in_doctest or body.startswith(">>>"))
        if _UNDERLINE.fullmatch(body):
            lines = []  # the line before is a title
            continue
        is_inside = bool(lines) and not _TERMINATED.search(lines[-1]) and lines[-1][-1] != ":"
        bullet = None if in_doctest else _BULLET.match(body)
        is_dropped = (
            in_doctest
            or (indent > 0 and indent <= margin and not bullet)
            or _FIELD_OR_ROW.match(body)
            or (not is_inside and not bullet and _LISTING.match(body))
            or (in_listing and body[:1].islower())
        )
        if is_dropped and is_inside:
            lines.append(_GAP)
        elif body and not is_dropped and not bullet:
            margin = margin if lines else math.inf
            lines.append(body)
            in_listing = False
        else:
            if lines:
                yield _unwrap(lines)
            lines = [body[bullet.end() :]] if bullet and not is_dropped else []
            margin = indent if bullet else math.inf
            in_listing = bool(is_dropped)


def _unwrap(lines: list[str]) -> str:
    if len(lines) > 1 and _USAGE.fullmatch(lines[0]) and re.match("[A-Z][a-z]", lines[1]):
        lines = lines[1:]
    return re.sub(r"(?<=[a-z]-)\n(?=[a-z])(?!(?:and|or|to)\b)", "", "\n".join(lines))


def _is_prose(sentence: str) -> bool:
    words = sentence.split()
    plain = sum(bool(_PLAIN_WORD.fullmatch(word)) for word in words)
    return (
        len(words) >= 3
        and len(sentence) <= 400
        and plain >= max(3, 0.6 * len(words))
        and sentence[0] in _OPENING
        and sentence[-1] not in ":,;-"
        and sentence.count(",") <= 0.4 * len(words)
        and sentence.count("(") == sentence.count(")")
        and sentence.count('"') % 2 == 0
        and not _NOT_PROSE.search(sentence)
    )
