"""A corpus of one sentence a line, for training on more text than fits in memory.

Why not a list of strings: ten gigabytes of text would need far more than that as Python objects, and every worker
of a data loader would hold its own copy. So the text is read once, in blocks, cleaned, and written to a cache folder;
what is used afterwards are memory maps of that folder, shared by all processes and open at once. Building holds about
30 bytes of memory for each line, however long.

What happens to a line, and nothing else does:

- it ends at ``\\n``, ``\\r\\n`` or a lone ``\\r``; every other Unicode line break counts as white space;
- it is put into Unicode normal form C, so that one word has one spelling in bytes;
- each run of white space (tabs, no-break spaces, U+2028, ...) becomes one space, and both ends are stripped;
- if nothing is left, or the same sentence came before, it is counted and left out.

Sentences are compared by 64-bit hashes: among 100 million distinct ones, the chance that any is mistaken for a
duplicate is 1 in 3,700.

A cache folder belongs to one list of source files, told by path, size and modification time:

- ``sentences.bin``  the kept sentences, UTF-8, joined by ``\\n``; `Corpus.sha256` is this file's SHA-256
- ``offsets.npy``    (N + 1,) int64: sentence i is bytes ``offsets[i] : offsets[i + 1] - 1``
- ``corpus.json``    format, hash, counts, sources
"""

from __future__ import annotations

import difflib
import errno
import glob
import gzip
import hashlib
import io
import json
import lzma
import mmap
import operator
import os
import shlex
import shutil
import time
import unicodedata
import uuid
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import xxhash

from diffcse.errors import InputError

_FORMAT = 1  # part of the cache key: raise it when the normalisation or the files change
_BLOCK_BYTES = 1 << 18
_WINDOW = 4096  # sentences handled at once when duplicates are cut out and when a corpus is iterated

_UNPACK = {".gz": "gzip -dc", ".xz": "xz -dc"}
_PACKED = ((b"\x1f\x8b", ".gz"), (b"\xfd7zX", ".xz"))  # how packed files begin
_BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_PRINT = "[print(*row['text'].split()) for row in {rows}]"
_CONVERTERS = {  # what is not one sentence a line, each with a command that makes it so
    ".csv": f'python -c "import csv, sys; {_PRINT.format(rows="csv.DictReader(sys.stdin)")}"',
    ".tsv": f'python -c "import csv, sys; {_PRINT.format(rows="csv.DictReader(sys.stdin, dialect=csv.excel_tab)")}"',
    ".json": f'python -c "import json, sys; {_PRINT.format(rows="json.load(sys.stdin)")}"',
    ".jsonl": f'python -c "import json, sys; {_PRINT.format(rows="map(json.loads, sys.stdin)")}"',
    ".ndjson": f'python -c "import json, sys; {_PRINT.format(rows="map(json.loads, sys.stdin)")}"',
    ".zst": "zstd -dc",
    ".bz2": "bzip2 -dc",
    ".zip": "funzip",
    ".parquet": None,
    ".arrow": None,
    ".tar": None,
    ".tgz": None,
    ".7z": None,
    ".html": None,
    ".xml": None,
    ".pdf": None,
    ".docx": None,
    ".xlsx": None,
}


@dataclass(frozen=True)
class CorpusCounts:
    """What was read and what became of it: ``lines == empty + duplicates + sentences``."""

    files: int
    bytes: int
    """Bytes of text read: after unpacking, line ends included, byte order marks not."""
    lines: int
    empty: int
    """Lines of white space only."""
    duplicates: int
    """Lines that, once normalised, equal an earlier one."""
    sentences: int
    crlf: int
    """Lines ended by ``\\r\\n``."""
    cr: int
    """Lines ended by a lone ``\\r``."""


@dataclass(frozen=True)
class SourceFile:
    """A file that was read: its name without folders, and its size in bytes on disk (packed, if it is)."""

    name: str
    bytes: int


@dataclass(frozen=True, eq=False)
class Corpus:
    """Distinct, normalised sentences in their first order of appearance; made by `read_corpus` or `from_sentences`.

    Pickling one that has a folder passes the folder's name and opens the memory maps again on the other side.
    """

    counts: CorpusCounts
    sha256: str
    """SHA-256 (hex) of the sentences joined by newlines: the same for the same text in whatever files it came."""
    sources: tuple[SourceFile, ...]
    folder: Path | None
    """The cache folder; None for a corpus in memory."""
    _text: mmap.mmap | bytes = field(repr=False)
    _offsets: npt.NDArray[np.int64] = field(repr=False)

    @classmethod
    def from_sentences(cls, sentences: Sequence[str]) -> Corpus:
        """A corpus in memory; each string is one line, normalised and counted as `read_corpus` does it.

        Line breaks inside a string are white space like any other.

        Raises:
            InputError: not a sequence of strings, or fewer than two distinct sentences.

        >>> corpus = Corpus.from_sentences(["A  dog.", "", "A cat.", "A dog. "])
        >>> list(corpus), corpus.counts.duplicates, corpus.counts.empty
        (['A dog.', 'A cat.'], 1, 1)
        """
        if isinstance(sentences, str):
            raise InputError("sentences: one string was given. Give a list of strings, one a sentence.")
        for index, sentence in enumerate(sentences):
            if not isinstance(sentence, str):
                raise InputError(
                    f"sentences[{index}] is a {type(sentence).__name__}, not a string. Leave it out or convert it."
                )
            if not sentence.isascii() and any("\ud800" <= c <= "\udfff" for c in sentence):
                raise InputError(
                    f"sentences[{index}] holds half of a surrogate pair, which is no character. "
                    "Decode the text again, as UTF-8."
                )
        memory = io.BytesIO()
        builder = _Builder(memory)
        builder.add(list(sentences))
        builder.bytes = sum(len(sentence.encode()) for sentence in sentences)
        counts, sha256, offsets = builder.finish("The list")
        return cls(counts, sha256, (), None, memory.getvalue(), offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> str:
        """Sentence `index`; negative ones count from the end. IndexError outside the corpus."""
        i = operator.index(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"sentence {i} of a corpus of {len(self)}")
        i %= len(self)
        return self._text[int(self._offsets[i]) : int(self._offsets[i + 1]) - 1].decode()

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _WINDOW):
            end = min(first + _WINDOW, len(self))
            yield from self._text[int(self._offsets[first]) : int(self._offsets[end]) - 1].decode().split("\n")

    def __reduce__(self) -> tuple[Callable[..., Corpus], tuple[Any, ...]]:
        if self.folder is not None:
            return _open, (self.folder,)
        return Corpus, (self.counts, self.sha256, self.sources, self.folder, self._text, self._offsets)

    def summary(self) -> str:
        """One line for people: sentences, files, and what was left out."""
        c = self.counts
        origin = f"{c.files:,} file{'s' * (c.files != 1)}" if c.files else "memory"
        left_out = f"{c.empty:,} blank and {c.duplicates:,} duplicate left out"
        return f"{c.sentences:,} sentences from {origin} ({c.lines:,} lines, {c.bytes / 1e6:,.1f} MB; {left_out})"


def normalise(line: str) -> str:
    """Unicode normal form C, runs of white space made one space, ends stripped; letter case stays.

    >>> normalise("  Cafe\\u0301\\u00a0\\t society ")
    'Café society'
    """
    return " ".join(unicodedata.normalize("NFC", line).split())


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/diffcse/corpora``, or ``~/.cache/diffcse/corpora`` where that is not an absolute path."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "diffcse" / "corpora"


def read_corpus(
    patterns: Sequence[str | Path], *, cache_dir: Path | None = None, max_line_bytes: int = 100_000
) -> Corpus:
    """Read text files of one sentence a line; a second call with unchanged files opens the cached result.

    Args:
        patterns: files or globs (``**`` goes into folders). A glob's files are sorted; each file is read once.
            Plain UTF-8 text, or the same packed as ``.gz`` or ``.xz``.
        cache_dir: where cache folders are kept; `default_cache_dir` when None. Needs about the size of the text.
        max_line_bytes: the longest line accepted. Longer ones mean that lines are not sentences.

    Raises:
        InputError: no such file, not plain UTF-8 text, a line too long, fewer than two distinct sentences, or a
            cache that cannot be written.
    """
    if max_line_bytes < 1:
        raise InputError(f"max_line_bytes = {max_line_bytes}: must be at least 1.")
    try:
        paths = _find_files([patterns] if isinstance(patterns, (str, Path)) else patterns)
    except OSError as error:  # such as a folder that may not be entered
        raise InputError(f"{error.filename} cannot be read: {error.strerror}. Check its permissions.") from error
    stamps = [_stamp(path) for path in paths]
    cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser().absolute()
    key = hashlib.sha256(json.dumps([_FORMAT, max_line_bytes, stamps]).encode()).hexdigest()[:32]
    folder = cache_dir / key
    try:
        return _open(folder)
    except InputError:  # not there yet, or torn
        return _build(folder, paths, stamps, max_line_bytes)


# Which files


def _find_files(patterns: Sequence[str | Path]) -> list[Path]:
    files: dict[Path, Path] = {}  # where it really is -> as it was named; in order, each once
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.exists() or not any(c in "*?[" for c in str(pattern)):
            found = [path]
        else:
            names = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
            found = [Path(name) for name in sorted(names) if not Path(name).is_dir()]
            if not found:
                raise InputError(
                    f"{pattern}: no file matches. Check the spelling; relative paths start at {Path.cwd()}."
                )
        for path in found:
            _check_file(path)
            files.setdefault(path.resolve(), path)
    if not files:
        raise InputError("No text file was given. Name one or more files or globs, such as 'text/*.txt'.")
    return list(files.values())


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder. Name the files in it: '{path / '*.txt'}'.")
    if not path.exists():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        advice = f"Did you mean {path.parent / near[0]}?" if near else f"Relative paths start at {Path.cwd()}."
        raise InputError(f"{path} does not exist. {advice}")
    if not path.is_file():
        raise InputError(f"{path} is not a regular file. Write its text to a file first: cat {path} > text.txt")
    suffix = _text_suffix(path)
    if suffix in _CONVERTERS:
        command = _CONVERTERS[suffix]
        advice = f": {_shell(path, command)}" if command else "."
        column = " (the column is taken to be called 'text')" if command and "'text'" in command else ""
        raise InputError(
            f"{path}: only plain text, one sentence a line, is read so far (.txt, .txt.gz, .txt.xz), not {suffix}. "
            f"Convert it{column}{advice}"
        )


def _text_suffix(path: Path) -> str:
    """The suffix that tells what is in the file, any packing aside."""
    inner = path.with_suffix("") if path.suffix.lower() in _UNPACK else path
    return inner.suffix.lower()


def _shell(path: Path, command: str) -> str:
    """A shell line that sends the file, unpacked, through `command` into a text file beside it."""
    unpack = _UNPACK.get(path.suffix.lower())
    inner = path.with_suffix("") if unpack else path
    foreign = inner.suffix.lower() in _CONVERTERS
    stem = (inner.with_suffix("") if foreign else inner).name.removesuffix(".txt")
    target = path.with_name(stem + (".txt" if foreign else ".utf8.txt"))
    name = shlex.quote(str(path))
    start = f"{unpack} {name} | {command}" if unpack else f"{command} < {name}"
    return f"{start} > {shlex.quote(str(target))}"


def _stamp(path: Path) -> tuple[str, int, int]:
    """What tells one state of a file from another: absolute path, bytes, modification time in ns."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    return str(path.absolute()), status.st_size, status.st_mtime_ns


# Files -> lines


def _read_blocks(path: Path, max_line_bytes: int) -> Iterator[bytes]:
    """Whole lines, about a block of them at a time, line ends included; the byte order mark is dropped.

    A line that passes the limit comes cut off: the caller refuses it, and the rest of it need not be read.
    """
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
    opener = openers.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") as file:
            head = file.read(4)
            for start, suffix in _PACKED:
                if head.startswith(start):
                    name = shlex.quote(str(path))
                    raise InputError(f"{path}, byte 0: packed text without its suffix: mv {name} {name}{suffix}")
            for mark, encoding in _BYTE_ORDER_MARKS:
                if head.startswith(mark):
                    raise InputError(
                        f"{path}, byte 0: the text is {encoding}, not UTF-8. Convert it: "
                        f"{_shell(path, f'iconv -f {encoding} -t UTF-8')}"
                    )
            carry = head.removeprefix(b"\xef\xbb\xbf")
            while data := file.read(_BLOCK_BYTES):
                data = carry + data
                end = max(data.rfind(b"\n"), data.rfind(b"\r", 0, -1)) + 1  # a last \r may be half of a \r\n
                if end == 0 and len(data) > max_line_bytes + 1:
                    end = len(data)
                if end:
                    yield data[:end]
                carry = data[end:]
            if carry:
                yield carry
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        tool = _UNPACK[path.suffix.lower()].split()[0]
        raise InputError(
            f"{path}: the {tool} data is cut off or damaged ({error}). Copy or download the file again; "
            f"'{tool} -t {path}' checks it. If it is not packed at all, take {path.suffix} off its name."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error


def _read_lines(path: Path, max_line_bytes: int, builder: _Builder) -> None:
    done = 0  # lines before the block
    for block in _read_blocks(path, max_line_bytes):
        lines = block.splitlines()  # of bytes: at \n, \r\n and \r only
        if (at := block.find(b"\0")) >= 0:
            number = done + len((block[:at] + b".").splitlines())
            fix = _shell(path, "tr -d '\\000'")
            raise InputError(
                f"{path}, line {number}: a zero byte, so this is a binary file or UTF-16 without its mark, not UTF-8 "
                f"text. Give a plain text file; if only stray zeros are wrong: {fix}"
            )
        if max(map(len, lines)) > max_line_bytes:
            index, line = next((i, line) for i, line in enumerate(lines) if len(line) > max_line_bytes)
            cut_off = index == len(lines) - 1 and not block.endswith((b"\n", b"\r"))
            raise InputError(
                f"{path}, line {done + index + 1}: {'at least ' * cut_off}{len(line):,} bytes long, more than "
                f"max_line_bytes = {max_line_bytes:,}. Put one sentence on a line: split the text into sentences first."
            )
        joined = b"\n".join(lines)
        try:
            text = joined.decode()
        except UnicodeDecodeError as error:
            number = done + joined.count(b"\n", 0, error.start) + 1
            byte = error.start - joined.rfind(b"\n", 0, error.start)
            raise InputError(
                f"{path}, line {number}, byte {byte}: 0x{joined[error.start]:02X} is not UTF-8 here ({error.reason}). "
                f"If the text is Western European: {_shell(path, 'iconv -f WINDOWS-1252 -t UTF-8')}"
            ) from error
        builder.add(text.split("\n"))
        builder.bytes += len(block)
        crlf = block.count(b"\r\n")
        builder.crlf += crlf
        builder.cr += block.count(b"\r") - crlf
        done += len(lines)


# Lines -> cache folder


class _Builder:
    """Takes lines, writes the normalised ones to `file`, and at the end cuts the duplicates out of it again.

    A sentence is written with the newline *before* it: the first sentence of all is never a duplicate, so any of the
    others can be cut out and what stays is still "joined by newlines".
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.hashes = array("Q")
        self.sizes = array("I")  # bytes written for each sentence
        self.files = self.bytes = self.lines = self.crlf = self.cr = self.written = 0

    def add(self, lines: list[str]) -> None:
        encoded = [sentence.encode() for sentence in map(normalise, lines) if sentence]
        self.lines += len(lines)
        if not encoded:
            return
        data = b"\n".join([b"", *encoded] if self.hashes else encoded)
        self.written += len(data)
        self.file.write(data)
        self.hashes.extend(map(xxhash.xxh3_64_intdigest, encoded))
        self.sizes.extend([len(sentence) + 1 for sentence in encoded])

    def finish(self, origin: str) -> tuple[CorpusCounts, str, npt.NDArray[np.int64]]:
        """Counts, SHA-256 and offsets of what `file` then holds; `origin` begins the sentence of an error."""
        read = len(self.hashes)
        keep = _first_occurrences(np.frombuffer(self.hashes, np.uint64))
        sentences = int(np.count_nonzero(keep))
        if sentences < 2:
            what = "only 1 distinct sentence" if read else "only blank lines" if self.lines else "no text at all"
            raise InputError(f"{origin} holds {what}. Training compares sentences: give at least 2 different ones.")
        sizes = np.frombuffer(self.sizes, np.uint32)
        sizes[0] -= 1  # no newline before the first
        digest = hashlib.sha256()
        source = target = 0
        for first in range(0, read, _WINDOW):
            window = slice(first, first + _WINDOW)
            self.file.seek(source)
            data = self.file.read(int(sizes[window].sum()))
            source += len(data)
            if not keep[window].all():
                data = np.frombuffer(data, np.uint8)[np.repeat(keep[window], sizes[window])].tobytes()
            digest.update(data)
            if target + len(data) < source:
                self.file.seek(target)
                self.file.write(data)
            target += len(data)
        self.file.truncate(target)
        counts = CorpusCounts(
            files=self.files,
            bytes=self.bytes,
            lines=self.lines,
            empty=self.lines - read,
            duplicates=read - sentences,
            sentences=sentences,
            crlf=self.crlf,
            cr=self.cr,
        )
        offsets = np.ones(sentences + 1, np.int64)
        offsets[0] = 0
        offsets[1:] += np.cumsum(sizes[keep], dtype=np.int64)
        return counts, digest.hexdigest(), offsets


def _first_occurrences(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    order = np.argsort(hashes, kind="stable")  # stable: the earliest of equal hashes comes first
    ordered = hashes[order]
    is_first = np.ones(len(hashes), np.bool_)
    is_first[order[1:]] = ordered[1:] != ordered[:-1]
    return is_first


def _build(folder: Path, paths: list[Path], stamps: list[tuple[str, int, int]], max_line_bytes: int) -> Corpus:
    """Read `paths` into `folder`, which appears complete or not at all."""
    for leftover in folder.parent.glob("*.partial"):
        # A build that was killed; one that is a day old is not running any more.
        if time.time() - leftover.stat().st_mtime > 86_400:
            shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    builder = None
    try:
        temporary.mkdir(parents=True)
        with (temporary / "sentences.bin").open("w+b") as file:
            builder = _Builder(file)
            for path, stamp in zip(paths, stamps, strict=True):
                if stamp[1]:
                    _read_lines(path, max_line_bytes, builder)
                if _stamp(path) != stamp:
                    raise InputError(f"{path} changed while it was read. Wait until it is complete, then read again.")
                builder.files += 1
            origin = str(paths[0]) if len(paths) == 1 else f"The text in {paths[0]} and {len(paths) - 1} more"
            counts, sha256, offsets = builder.finish(origin)
        np.save(temporary / "offsets.npy", offsets)
        sources = [SourceFile(path.name, stamp[1]) for path, stamp in zip(paths, stamps, strict=True)]
        record = {"format": _FORMAT, "sha256": sha256, "counts": asdict(counts), "sources": list(map(asdict, sources))}
        (temporary / "corpus.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return _move_into_place(temporary, folder)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        so_far = f" ({builder.written:,} bytes needed so far)" if full and builder else ""
        raise InputError(
            f"{folder.parent}: the corpus cache cannot be written there: {error.strerror or error}{so_far}. "
            f"{'Free some space, or keep' if full else 'Keep'} the cache elsewhere: pass cache_dir, or set the "
            "environment variable XDG_CACHE_HOME."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_into_place(temporary: Path, folder: Path) -> Corpus:
    try:
        temporary.rename(folder)
    except OSError:  # something is there: what another process has just finished, or a torn folder
        try:
            return _open(folder)
        except InputError:
            shutil.rmtree(folder)
            temporary.rename(folder)
    return _open(folder)


def _open(folder: Path) -> Corpus:
    try:
        record = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        counts = CorpusCounts(**record["counts"])
        sources = tuple(SourceFile(**source) for source in record["sources"])
        offsets = np.asarray(np.load(folder / "offsets.npy", mmap_mode="r"))
        with (folder / "sentences.bin").open("rb") as file:
            text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if (record["format"], offsets.shape, int(offsets[-1])) != (_FORMAT, (counts.sentences + 1,), len(text) + 1):
            raise ValueError("the parts do not belong together")
        return Corpus(counts, record["sha256"], sources, folder, text, offsets)
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{folder}: the cached corpus is gone or damaged ({error}). Read its files again.") from error
