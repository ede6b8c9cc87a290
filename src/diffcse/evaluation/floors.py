"""Baselines that have learned nothing about sentences: the floors of a table.

A trained encoder that scores below TF-IDF (shared words, weighted by their rarity) has shown nothing. The same holds
for one below SIF, a weighted mean of static word vectors, if it started from vectors as good.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from diffcse.errors import InputError
from diffcse.evaluation.embeddings import EmbeddingMatrix, Encode, cosine_blocks, embed_once, normalise
from diffcse.text.lines import STRICT, read_blocks

if TYPE_CHECKING:
    from diffcse.encoder.encode import Encoder


_BLOCK = 2**22  # scores held at once: 32 MB in float64


class TfIdf:
    """Sparse TF-IDF rows of unit length: an `Encode` fitted on the distinct sentences of `corpus`.

    Words are lower-cased runs of two or more word characters. A count c weighs 1 + ln c. A word in f of n sentences
    weighs 1 + ln((1 + n) / (1 + f)). Fitted on the sentences of STS-B dev it scores 75.7 there ("all").

    Raises:
        InputError: no sentence of the corpus has such a word.
    """

    def __init__(self, corpus: Sequence[str]) -> None:
        # STS sets repeat some sentences many times. Counted each time, their words would look common.
        distinct = list(dict.fromkeys(corpus))
        self._vectoriser = TfidfVectorizer(sublinear_tf=True)
        try:
            self._vectoriser.fit(distinct)
        except ValueError as error:  # scikit-learn's "empty vocabulary", also for an empty corpus
            raise InputError(f"TF-IDF: no word of two or more letters in the {len(distinct)} sentences") from error

    def __call__(self, sentences: list[str]) -> EmbeddingMatrix:
        """Rows for `sentences`: (n, words) sparse float64; a sentence of unknown words is a zero row."""
        return self._vectoriser.transform(sentences)


class Bm25:
    """BM25 (Robertson and Zaragoza, 2009; k1 = 1.2, b = 0.75): the rank of a document by the words of a query.

    Words are lower-cased runs of two or more word characters. A query's word counts once.

    Raises:
        InputError: no document has such a word.
    """

    _K1, _B = 1.2, 0.75

    def blocks(self, queries: Sequence[str], documents: Sequence[str]) -> Iterator[tuple[slice, np.ndarray]]:
        """Scores of all documents for some queries at a time, as `embeddings.cosine_blocks` yields cosines."""
        words = CountVectorizer()
        try:
            counts_MV = words.fit_transform(documents).astype(np.float64)
        except ValueError as error:
            raise InputError(f"BM25: no word of two or more letters in the {len(documents)} documents") from error
        lengths = np.asarray(counts_MV.sum(axis=1)).ravel()
        held = np.bincount(counts_MV.indices, minlength=counts_MV.shape[1])
        idf = np.log1p((len(documents) - held + 0.5) / (held + 0.5))
        rows = np.repeat(np.arange(len(documents)), np.diff(counts_MV.indptr))
        norms = self._K1 * (1 - self._B + self._B * lengths / max(lengths.mean(), 1e-9))
        counts_MV.data *= idf[counts_MV.indices] * (self._K1 + 1) / (counts_MV.data + norms[rows])
        asked_QV = words.transform(queries)
        asked_QV.data[:] = 1
        step = max(1, _BLOCK // len(documents))
        for start in range(0, len(queries), step):
            part = slice(start, min(start + step, len(queries)))
            yield part, (asked_QV[part] @ counts_MV.T).toarray()


def similarity_blocks(
    encode: Encode | Bm25, queries: Sequence[str], documents: Sequence[str]
) -> Iterator[tuple[slice, np.ndarray]]:
    """Similarities of some queries at a time with all documents: (rows, (len(rows), M)), in order.

    Raises:
        InputError: as `embed_once` and `Bm25` do.
    """
    if isinstance(encode, Bm25):
        return encode.blocks(queries, documents)
    return cosine_blocks(*embed_once(encode, queries, documents))


class Pca:
    """The first `size` principal components of an encoder's embeddings of length 1, fitted on `texts`.

    Args:
        encode: called again for each text; give one that keeps what it has embedded.
    """

    def __init__(self, encode: Encode, texts: Sequence[str], size: int) -> None:
        rows_NH = np.asarray(normalise(embed_once(encode, texts)[0]), dtype=np.float64)
        self._encode, self._mean = encode, rows_NH.mean(axis=0)
        covariance = np.cov(rows_NH.T)
        self._directions = np.linalg.eigh(covariance)[1][:, ::-1][:, :size]

    def __call__(self, sentences: list[str]) -> np.ndarray:
        """Rows for `sentences`: (n, size) float64."""
        rows = np.asarray(normalise(self._encode(sentences)), dtype=np.float64)
        return np.asarray((rows - self._mean) @ self._directions)


class Sif:
    """A weighted mean of static word vectors without their common direction (Arora, Liang & Ma, ICLR 2017).

    A word of probability p in `corpus` weighs a / (a + p), a = 1e-3. The first `components` singular vectors of the
    corpus's sentence vectors (not centred) are then projected out, of every sentence. Rows have unit length, as TF-IDF
    rows have, so that a penalised classifier can use them; a sentence without known words is a zero row.

    Args:
        words: sentences -> the ids of their words, one list each.
        vectors: (words, d), a row an id.
        corpus: what word probabilities and common directions are fitted on.

    Raises:
        InputError: no sentence of the corpus holds a known word.
    """

    def __init__(
        self,
        words: Callable[[list[str]], list[list[int]]],
        vectors: np.ndarray,
        corpus: Sequence[str],
        *,
        a: float = 1e-3,
        components: int = 1,
    ) -> None:
        distinct = list(dict.fromkeys(corpus))
        self._words, self._vectors = words, vectors
        counts = Counter(word for sentence in words(distinct) for word in sentence)
        total = sum(counts.values())
        if not total:
            raise InputError(
                f"SIF: none of the words of {len(distinct)} sentences has a vector. Are the vectors of this language?"
            )
        # A word that the corpus lacks has probability 0, and so the full weight.
        self._weights = np.ones(len(vectors))
        for word, count in counts.items():
            self._weights[word] = a / (a + count / total)
        self._common = np.zeros((0, vectors.shape[1]))
        means = self._means(distinct)
        self._common = np.linalg.svd(means, full_matrices=False)[2][:components]

    def __call__(self, sentences: list[str]) -> np.ndarray:
        """Rows for `sentences`: (n, d) float64."""
        means = self._means(sentences)
        return np.asarray(normalise(means - (means @ self._common.T) @ self._common))

    def _means(self, sentences: list[str]) -> np.ndarray:
        rows = np.zeros((len(sentences), self._vectors.shape[1]))
        for i, words in enumerate(self._words(sentences)):
            if words:
                rows[i] = (self._weights[words, None] * self._vectors[words]).mean(axis=0)
        return rows


def input_embeddings(encoder: Encoder) -> tuple[Callable[[list[str]], list[list[int]]], np.ndarray]:
    """The static part of a model for `Sif`: its tokens, special ones aside, and its table of token vectors (V, H)."""

    def words(sentences: list[str]) -> list[list[int]]:
        ids = encoder.tokenizer(sentences, add_special_tokens=False, truncation=True, max_length=encoder.max_tokens)[
            "input_ids"
        ]
        return [list(row) for row in ids]

    table: Any = encoder.model.get_input_embeddings()
    return words, table.weight.detach().cpu().float().numpy().astype(np.float64)


_LONGEST_VECTOR = 1 << 18
"""Bytes of the longest line: a word and some thousands of numbers."""


def read_vectors(
    path: str | Path, sentences: Sequence[str]
) -> tuple[Callable[[list[str]], list[list[int]]], np.ndarray]:
    """Word vectors from a text file of `word number number ...` lines (GloVe, word2vec, fastText), for `Sif`.

    Only the words of `sentences` are kept, so that a file of millions fits in memory. A first line of two numbers
    (words, width) is skipped. `.gz`, `.xz` and `.zst` are unpacked.
    Words are runs of word characters or single punctuation marks. A word
    that the file lacks is looked up in lower case.

    Raises:
        InputError: the file cannot be read, a line has too few numbers, or a value is not a finite number.
    """
    path = Path(path)
    wanted = {form for sentence in sentences for word in _split(sentence) for form in (word, word.lower())}
    places: dict[str, int] = {}
    rows: list[np.ndarray] = []
    width, i = None, 0
    try:
        for block in read_blocks(path, _LONGEST_VECTOR, STRICT, {}):
            for raw in block.removesuffix(b"\n").split(b"\n"):
                i += 1
                if len(raw) > _LONGEST_VECTOR:
                    raise InputError(f"{path}, line {i}: more than {_LONGEST_VECTOR:,} bytes long")
                fields = raw.decode(errors="replace").rstrip().split(" ")
                if (i == 1 and len(fields) == 2) or fields == [""]:
                    continue
                width = width or len(fields) - 1
                if len(fields) <= width:
                    raise InputError(f"{path}, line {i}: has {len(fields) - 1} numbers, the lines before {width}")
                # Some files have words with spaces, so the numbers are counted from the end.
                word = " ".join(fields[:-width])
                if word not in wanted or word in places:
                    continue
                try:
                    row = np.array(fields[-width:], dtype=np.float64)
                except ValueError as error:
                    raise InputError(f"{path}, line {i}: is not a word and {width} numbers") from error
                if not np.isfinite(row).all():
                    raise InputError(f"{path}, line {i}: holds NaN or infinity")
                places[word] = len(rows)
                rows.append(row)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not rows:
        raise InputError(f"{path}: has no vector for any word of the text. Each line must be: word number number ...")

    def words(batch: list[str]) -> list[list[int]]:
        ids = ((places.get(word, places.get(word.lower())) for word in _split(sentence)) for sentence in batch)
        return [[place for place in row if place is not None] for row in ids]

    return words, np.stack(rows)


def _split(sentence: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", sentence)
