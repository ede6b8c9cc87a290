"""Rows -> what a corpus is built from: sentences as bytes, their hashes, and where documents begin.

This takes most of the time, so several processes can share it. Each process gets a block and knows nothing else. The
pieces are joined in the order of the files, so the number of processes changes neither the result nor the error.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import xxhash

from diffcse.errors import InputError
from diffcse.machine import cores, use_cores
from diffcse.text.formats import Block, Rows, Wanted, parse, read
from diffcse.text.lines import Note, Notes, normalise
from diffcse.text.prose import split_sentences
from diffcse.text.sources import Source, stamp

# Measured: reading and joining take a third of the time (a sixth for .jsonl), and one process does them for all others.
# So more processes do not pay on two cores, and no more than about eight can be kept busy.
_WORTH_PROCESSES = 1 << 27  # bytes of text
_FEWEST_CORES, _MOST_PROCESSES = 4, 8


@dataclass(frozen=True)
class Plan:
    """What becomes of a row."""

    wanted: Wanted
    language: str | None = None
    """Split cells into sentences by the rules of this language."""
    documents: bool = False
    """Record where documents begin."""

    @property
    def is_examples(self) -> bool:
        """Whether a row is an example of several cells, not a line of text."""
        return len(self.wanted.columns) > 1


@dataclass
class Piece:
    """The result for a block. Sentences are in order; those of an example stand together."""

    data: bytes = b""
    """The sentences, joined by newlines."""
    hashes: bytes = b""
    """uint64 of each."""
    sizes: bytes = b""
    """uint32 of each: its bytes and the newline before it."""
    starts: bytes = b""
    """uint8 of each: whether it begins a document, as far as the block tells."""
    break_after: bool = False
    """Whether a document ends after the block's last sentence (or in the block, if it has no sentence)."""
    first_document: str | None = None
    last_document: str | None = None
    file_ends: bool = False
    lines: int = 0
    """See `Rows.lines`."""
    rows: int = 0
    empty: int = 0
    equal: int = 0
    contradictory: int = 0
    bytes: int = 0
    line_notes: Notes = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    """`line_notes` with the name of the file."""


def digest(rows: Rows, plan: Plan, name: str = "", unit: str = "line") -> Piece:
    """Normalise, split and hash the cells of some rows.

    Raises:
        InputError: a sentence of the prose is too long.
    """
    piece = Piece(rows=len(rows), lines=rows.lines, bytes=rows.bytes, line_notes=rows.notes)
    if plan.is_examples:
        sentences = _examples(rows, piece)
    elif plan.language is None and not plan.documents:
        sentences = [sentence for sentence in map(normalise, rows.cells[0]) if sentence]
        piece.empty = len(rows) - len(sentences)
    else:
        sentences = _running_text(rows, plan, piece)
    encoded = [sentence.encode() for sentence in sentences]
    if plan.language is not None and encoded and max(map(len, encoded)) > plan.wanted.max_bytes:
        _refuse_long(rows, plan, name, unit)
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
    """The sentences; `piece` records where documents begin.

    A document ends where the value of the column that names it changes. Without such a column, it ends after each row
    of prose that is split, or else at each row without text.
    """
    names = rows.documents
    sentences: list[str] = []
    starts = bytearray()
    is_break = False
    previous: str | None = None
    for index, cell in enumerate(rows.cells[0]):
        parts = [cell] if plan.language is None else split_sentences(cell, plan.language)
        new = [sentence for sentence in map(normalise, parts) if sentence]
        piece.empty += not new
        if names is not None:
            is_break |= index > 0 and (names[index] != previous or not names[index])
            previous = names[index]
        elif plan.language is not None or not new:
            is_break = True
        for sentence in new:
            sentences.append(sentence)
            starts.append(is_break)
            is_break = False
    if names:
        piece.first_document, piece.last_document = names[0], names[-1]
    piece.break_after = is_break
    piece.starts = bytes(starts) if plan.documents else b""
    return sentences


def _refuse_long(rows: Rows, plan: Plan, name: str, unit: str) -> None:
    for number, cell in zip(rows.numbers, rows.cells[0], strict=True):
        for sentence in split_sentences(cell, plan.language or "en"):
            size = len(normalise(sentence).encode())
            if size > plan.wanted.max_bytes:
                raise InputError(
                    f"{name}, {unit} {number}: after splitting, a sentence is still {size:,} bytes long, more than "
                    f"max_line_bytes = {plan.wanted.max_bytes:,}. This is not prose: leave it out."
                )


# Blocks of many files, in one process or several


def processes_for(sources: Iterable[Source], asked: int | None) -> int:
    """Number of processes: `asked`, or as many as pay (one for little text or few cores).

    Raises:
        InputError: fewer than one.
    """
    if asked is not None:
        if asked < 1:
            raise InputError(f"processes = {asked}: must be at least 1.")
        return asked
    size = sum(1 << 27 if source.format == "hub" else source.unpacked_bytes for source in sources)
    return min(len(cores()), _MOST_PROCESSES) if size >= _WORTH_PROCESSES and len(cores()) >= _FEWEST_CORES else 1


def digest_sources(sources: Iterable[Source], plan: Plan, processes: int = 1) -> Iterator[Piece]:
    """The pieces of all sources in order; an empty piece with `file_ends` follows each file.

    Raises:
        InputError: a source cannot be read, is malformed, or changes while it is read.
    """
    first = 1  # number of the next block's first line in its file
    for block, piece in _in_order(_blocks(sources, plan), plan, processes):
        if isinstance(block, Source):
            if block.format != "hub" and stamp(block.path) != block.stamp:
                raise InputError(f"{block.path} changed while it was read. Wait until it is complete, then read again.")
            first = 1
            yield Piece(file_ends=True)
            continue
        before = 0 if block.first or piece is None else first - 1  # other processes count from line 1 of the block
        if piece is None:
            piece = _digest_block(dataclasses.replace(block, first=block.first or first), plan)
        piece.notes = [
            Note(kind, count, f"{block.source.short_name}, {block.source.unit} {before + line}")
            for kind, (count, line) in piece.line_notes.items()
        ]
        first += piece.lines
        yield piece


def _blocks(sources: Iterable[Source], plan: Plan) -> Iterator[Block | Source]:
    """The blocks of each source, then the source itself."""
    for source in sources:
        if source.stamp[1] or source.format != "text":
            yield from read(source, plan.wanted)
        yield source


def _digest_block(block: Block, plan: Plan) -> Piece:
    return digest(parse(block, plan.wanted), plan, block.source.name, block.source.unit)


def _in_order(
    blocks: Iterator[Block | Source], plan: Plan, processes: int
) -> Iterator[tuple[Block | Source, Piece | None]]:
    """Each block with its piece; None if the caller must digest it, because only the caller knows its line numbers."""
    if processes == 1:
        for block in blocks:
            yield block, None
        return
    from loky import ProcessPoolExecutor  # its processes do not import the caller's script, unlike the standard ones

    problem: BaseException | None = None
    waiting: deque = deque()
    with ProcessPoolExecutor(processes, initializer=use_cores, initargs=(cores(),)) as pool:
        while problem is None or waiting:
            while problem is None and len(waiting) < 4 * processes:
                try:
                    block = next(blocks)
                except (InputError, StopIteration) as error:  # an earlier block may hold an error of its own
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
        return None  # the caller digests it again and names the line
