"""Embeddings that another program made, measured like any encoder.

They are in `vectors.npy`, (n, d), beside `vectors.txt` with the n sentences, one a line. Or they are in one
`vectors.parquet` with the columns `sentence` (or `text`, as `diffcse embed` writes) and `embedding`. `diffcse evaluate
--list-sentences FILE` writes the sentences that the tasks need.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from diffcse.errors import InputError
from diffcse.evaluation.embeddings import as_matrix
from diffcse.evaluation.lines import hash_files, read_bytes, split_lines
from diffcse.files import sha256_of

SUFFIXES = (".npy", ".parquet")


class StoredEmbeddings:
    """An `Encode` that looks sentences up in a file.

    Raises:
        InputError: the file cannot be read, is not a table of finite real numbers, or lacks rows for some sentences.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        sentences, rows = _read_npy(self.path) if self.path.suffix == ".npy" else _read_parquet(self.path)
        if len(sentences) != len(rows):
            raise InputError(f"{self.path}: {len(rows)} embeddings for {len(sentences)} sentences; give one for each")
        rows = np.asarray(as_matrix(rows))
        broken = ~np.isfinite(rows).all(axis=1)
        if broken.any():
            raise InputError(f"{self.path}, row {int(broken.argmax()) + 1}: holds NaN or infinity")
        self._rows = rows
        self._place = {sentence: i for i, sentence in enumerate(sentences)}
        beside = self.path.with_suffix(".txt")
        parts = [(self.path.suffix, sha256_of(self.path).encode())]
        if self.path.suffix == ".npy":
            parts.append((".txt", sha256_of(beside).encode()))
        self.fingerprint = hash_files(parts)

    @property
    def width(self) -> int:
        """d, the embedding's dimension."""
        return int(self._rows.shape[1])

    def __call__(self, sentences: list[str]) -> np.ndarray:
        """Rows for `sentences`, (n, d).

        Raises:
            InputError: a sentence has no embedding in the file.
        """
        missing = [sentence for sentence in sentences if sentence not in self._place]
        if missing:
            raise InputError(
                f"{self.path}: has no embedding for {len(missing)} of the sentences, first {missing[0]!r}. "
                "diffcse evaluate --list-sentences FILE --data DIR writes all sentences that are needed"
            )
        return self._rows[[self._place[sentence] for sentence in sentences]]


def _read_npy(path: Path) -> tuple[list[str], np.ndarray]:
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        raise InputError(f"{path}: needs its sentences beside it, one a line, as {beside.name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged header
            rows = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))  # a map takes no more than the file
    except Exception as error:  # a damaged header raises errors of many kinds
        raise InputError(f"{path}: cannot be read as a numpy array: {error}") from error
    return split_lines(read_bytes(beside, "one sentence a line"), beside), rows


def _read_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{path}: reading .parquet needs pyarrow: pip install pyarrow, or give a .npy file") from error
    try:
        # `diffcse embed` calls the column "text".
        names = pyarrow.parquet.read_schema(path).names
        column = "text" if "sentence" not in names and "text" in names else "sentence"
        table = pyarrow.parquet.read_table(path, columns=[column, "embedding"])
        sentences = table.column(column).to_pylist()
        vectors = table.column("embedding").to_pylist()
    except Exception as error:  # a damaged file raises errors of many kinds
        raise InputError(f'{path}: cannot be read with the columns "sentence" and "embedding": {error}') from error
    widths = {len(vector) if isinstance(vector, list) else None for vector in vectors}
    if not all(isinstance(sentence, str) for sentence in sentences) or len(widths) != 1 or None in widths:
        raise InputError(f'{path}: "sentence" must be text and "embedding" lists of numbers, all of one length')
    with np.errstate(over="ignore"):  # the caller refuses infinity
        return sentences, np.array(vectors, dtype=np.float32)
