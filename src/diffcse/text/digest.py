"""Rows -> what a corpus is built from: sentences as bytes, their hashes, and where documents begin.

This is the part that takes time, so several processes may share it. Each is given a block and knows nothing else; the
results are put together in the order of the files, so that their number changes nothing, errors included.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import xxhash

from diffcse.errors import InputError
from diffcse.machine import cores, use_cores
from diffcse.text.formats import Block, Rows, Wanted, parse, read, unit
from diffcse.text.lines import normalise, split_sentences
from diffcse.text.sources import Source, stamp, unpacked_bytes

# Reading alone, and putting together, takes a third of what all takes (a sixth for .jsonl): one process does that for
# all others. Measured: with two cores it does not pay to start them, and more than about eight cannot be fed.
_WORTH_PROCESSES = 1 << 27  # bytes of text
_FEWEST_CORES, _MOST_PROCESSES = 4, 8


@dataclass(frozen=True)
class Plan:
    """What becomes of a row."""

    wanted: Wanted
    language: str | None = None
    """Split cells into sentences by this language's rules."""
    documents: bool = False
    """Note where documents begin."""

    @property
    def examples(self) -> bool:
        """Whether a row is an example of several cells, not a line of text."""
        return len(self.wanted.columns) > 1


@dataclass
class Piece:
    """What a block gives. Sentences are in order; an example's stand together."""

    data: bytes = b""
    """The sentences, joined by newlines."""
    hashes: bytes = b""
    """uint64 of each."""
    sizes: bytes = b""
    """uint32 of each: bytes, the newline before it included."""
    starts: bytes = b""
    """uint8 of each: whether a document begins with it. What came before the block is not known here."""
    break_after: bool = False
    """Whether a document ends after the last sentence of the block (or in it, if it has none)."""
    first_document: str | None = None
    last_document: str | None = None
    file_ends: bool = False
    lines: int = 0
    """Lines of the file, for numbering; see `Rows.lines`."""
    rows: int = 0
    empty: int = 0
    equal: int = 0
    contradictory: int = 0
    bytes: int = 0
    crlf: int = 0
    cr: int = 0


def digest(rows: Rows, plan: Plan, name: str = "", what: str = "line") -> Piece:
    """Normalise, split and hash the cells of some rows.

    Raises:
        InputError: a sentence, split off from prose, that is too long.
    """
    piece = Piece(rows=len(rows), lines=rows.lines, bytes=rows.bytes, crlf=rows.crlf, cr=rows.cr)
    if plan.examples:
        sentences = _examples(rows, piece)
    elif plan.language is None and not plan.documents:
        sentences = [sentence for sentence in map(normalise, rows.cells[0]) if sentence]
        piece.empty = len(rows) - len(sentences)
    else:
        sentences = _running_text(rows, plan, piece)
    encoded = [sentence.encode() for sentence in sentences]
    if plan.language is not None and encoded and max(map(len, encoded)) > plan.wanted.max_bytes:
        _refuse_long(rows, plan, name, what)
    piece.data = b"\n".join(encoded)
    piece.hashes = array("Q", map(xxhash.xxh3_64_intdigest, encoded)).tobytes()
    piece.sizes = array("I", [len(sentence) + 1 for sentence in encoded]).tobytes()
    return piece


def _examples(rows: Rows, piece: Piece) -> list[str]:
    sentences: list[str] = []
    for cells in zip(*rows.cells, strict=True):
        example = [normalise(cell) for cell in cells]
        if not all(example):
            piece.empty += 1
        elif example[2:] and example[2] in example[:2]:
            piece.contradictory += 1
        else:
            piece.equal += example[0] == example[1]
            sentences += example
    return sentences


def _running_text(rows: Rows, plan: Plan, piece: Piece) -> list[str]:
    """Sentences, and for each whether a document begins with it.

    A document ends where the value of the column that names it changes. Without such a column it ends with each row
    of prose that is to be split, else at each row without text.
    """
    named = rows.documents
    sentences: list[str] = []
    starts = bytearray()
    pending = False
    previous: str | None = None
    for index, cell in enumerate(rows.cells[0]):
        if plan.language is None:
            found = [normalise(cell)]
        else:
            found = [normalise(sentence) for sentence in split_sentences(cell, plan.language)]
        found = [sentence for sentence in found if sentence]
        piece.empty += not found
        if named is not None:
            pending |= index > 0 and (named[index] != previous or not named[index])
            previous = named[index]
        elif plan.language is not None or not found:
            pending = True
        for sentence in found:
            sentences.append(sentence)
            starts.append(pending)
            pending = False
    if named:
        piece.first_document, piece.last_document = named[0], named[-1]
    piece.break_after = pending
    piece.starts = bytes(starts) if plan.documents else b""
    return sentences


def _refuse_long(rows: Rows, plan: Plan, name: str, what: str) -> None:
    for number, cell in zip(rows.numbers, rows.cells[0], strict=True):
        for sentence in split_sentences(cell, plan.language or "en"):
            size = len(normalise(sentence).encode())
            if size > plan.wanted.max_bytes:
                raise InputError(
                    f"{name}, {what} {number}: split into sentences, one is still {size:,} bytes long, more than "
                    f"max_line_bytes = {plan.wanted.max_bytes:,}. It is no prose: leave it out."
                )


# Blocks of many files, by one process or several


def processes_for(sources: Iterable[Source], asked: int | None) -> int:
    """How many processes to read with: as asked, else as many as pay, which is one for little text or few cores.

    Raises:
        InputError: fewer than one.
    """
    if asked is not None:
        if asked < 1:
            raise InputError(f"processes = {asked}: must be at least 1.")
        return asked
    much = sum(map(unpacked_bytes, sources)) >= _WORTH_PROCESSES or any(source.format == "hub" for source in sources)
    return min(len(cores()), _MOST_PROCESSES) if much and len(cores()) >= _FEWEST_CORES else 1


def digest_sources(sources: Iterable[Source], plan: Plan, processes: int = 1) -> Iterator[Piece]:
    """The pieces of all sources in order; the last of each file says so.

    Raises:
        InputError: a source that cannot be read, is malformed, or changes while it is read.
    """
    first = 1  # number of the next block's first line in its file
    for block, found in _in_order(_blocks(sources, plan), plan, processes):
        if isinstance(block, Source):
            if block.format != "hub" and stamp(block.path) != block.stamp:
                raise InputError(f"{block.path} changed while it was read. Wait until it is complete, then read again.")
            first = 1
            yield Piece(file_ends=True)
            continue
        if found is None:
            found = _digest_block(dataclasses.replace(block, first=block.first or first), plan)
        first += found.lines
        yield found


def _blocks(sources: Iterable[Source], plan: Plan) -> Iterator[Block | Source]:
    """The blocks of each source, then the source itself."""
    for source in sources:
        if source.stamp[1] or source.format != "text":
            yield from read(source, plan.wanted)
        yield source


def _digest_block(block: Block, plan: Plan) -> Piece:
    return digest(parse(block, plan.wanted), plan, block.source.name, unit(block.source))


def _in_order(
    blocks: Iterator[Block | Source], plan: Plan, processes: int
) -> Iterator[tuple[Block | Source, Piece | None]]:
    """Each block with its piece; None where the caller must digest it, because only he knows its line numbers."""
    if processes == 1:
        for block in blocks:
            yield block, None
        return
    from loky import ProcessPoolExecutor  # its processes do not import the caller's script, as the stock ones do

    problem: BaseException | None = None
    waiting: deque = deque()
    with ProcessPoolExecutor(processes, initializer=use_cores, initargs=(cores(),)) as pool:
        while problem is None or waiting:
            while problem is None and len(waiting) < 4 * processes:
                try:
                    block = next(blocks)
                except (InputError, StopIteration) as error:  # blocks before it may hold an error of their own
                    problem = error
                    break
                waiting.append((block, None if isinstance(block, Source) else pool.submit(_try_block, block, plan)))
            if waiting:
                block, future = waiting.popleft()
                yield block, None if future is None else future.result()
    if isinstance(problem, InputError):
        raise problem


def _try_block(block: Block, plan: Plan) -> Piece | None:
    try:
        return _digest_block(dataclasses.replace(block, first=block.first or 1), plan)
    except InputError:
        return None  # found again by the process that can name the line
