"""Three vectors for each text that only the texts themselves define: nothing is trained and no label is read.

- words: which rare words a text has (tf-idf with idf squared, then SVD: latent semantic analysis);
- characters: spelling, inflection, identifiers (tf-idf of 3 to 5 letters, then SVD);
- company: which words occur in the same texts (SVD of positive pointwise mutual information; Bullinaria and Levy, 2007;
  weights by frequency as in SIF, Arora et al., 2017).

In scripts without spaces between words, such as Chinese and Thai, two characters in a row count as a word.

Shape suffixes: N texts, V words, K numbers of a vector.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from diffcse.errors import InputError
from diffcse.text.near_duplicates import UNSPACED

_RUN = re.compile(f"[{UNSPACED}]+")
_WORD = rf"[{UNSPACED}]{{2}}|\b\w[\w+#.]*\b"
_SMOOTHED, _COMMON = 0.75, 1e-3
"""The exponent that makes rare words less surprising in PMI, and SIF's constant for frequent words."""
_WORDS, _PIECES = 30_000, 60_000
"""Most words and most character sequences that count."""

_CHARACTERS, _TOGETHER, _WORDS_OF_LONG = 30_000_000, 50_000_000, 4_000
"""Most characters of all texts; pairs of words in all texts above which only the most frequent words are counted."""

Vectors = npt.NDArray[np.float32]


def own_text_vectors(texts: Sequence[str], size: int, seed: int) -> Vectors:
    """Vectors of length 1 of all three models side by side: (N, K), where K is at most 3 * `size`.

    Args:
        size: dimensions of each model.
        seed: of the randomised SVD.

    Raises:
        InputError: too few words occur in more than one text.
    """
    texts = _bounded(texts)
    spaced = [_RUN.sub(_pairs, text) for text in texts]
    try:
        parts = [_by_words(spaced, size, seed), _by_characters(texts, size, seed), _by_company(spaced, size, seed)]
    except ValueError as error:  # scikit-learn: no term is left
        raise InputError(
            f"the corpus: {len(texts):,} texts share too few words to learn from ({error}). Give more text"
        ) from None
    return unit_rows(np.hstack(parts))


def _bounded(texts: Sequence[str]) -> Sequence[str]:
    """`texts`, each cut so that all together have at most `_CHARACTERS`: counting takes ten times that memory."""
    most = max(_CHARACTERS // max(len(texts), 1), 1)
    return [text if len(text) <= most else text[:most].rpartition(" ")[0] or text[:most] for text in texts]


def _pairs(run: re.Match[str]) -> str:
    """The characters of a run two by two: "abc" is " ab bc "."""
    characters = run[0]
    return f" {' '.join(a + b for a, b in pairwise(characters)) or characters} "


def unit_rows(rows: Any) -> Any:
    """`rows`, dense or sparse, each at length 1; a row of zeros stays."""
    if sp.issparse(rows):
        lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
        return sp.diags((1 / np.maximum(lengths, 1e-9)).astype(np.float32)) @ rows
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def _by_words(texts: Sequence[str], size: int, seed: int) -> Vectors:
    from sklearn.feature_extraction.text import TfidfVectorizer

    tfidf = TfidfVectorizer(sublinear_tf=True, min_df=2, token_pattern=_WORD, max_features=_WORDS, dtype=np.float32)
    weights_NV = tfidf.fit_transform(texts)
    return _reduced(unit_rows(weights_NV @ sp.diags(tfidf.idf_.astype(np.float32))), size, seed)


def _by_characters(texts: Sequence[str], size: int, seed: int) -> Vectors:
    from sklearn.feature_extraction.text import TfidfVectorizer

    tfidf = TfidfVectorizer(
        sublinear_tf=True, min_df=3, analyzer="char_wb", ngram_range=(3, 5), max_features=_PIECES, dtype=np.float32
    )
    return _reduced(tfidf.fit_transform(texts), size, seed)


def _by_company(texts: Sequence[str], size: int, seed: int) -> Vectors:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.utils.extmath import randomized_svd

    counter = CountVectorizer(token_pattern=_WORD, min_df=2, binary=True, max_features=_WORDS)
    has_NV = counter.fit_transform(texts).astype(np.float32)
    if float((np.diff(has_NV.indptr).astype(np.float64) ** 2).sum()) > _TOGETHER:
        # Long texts: nearly all words meet, and a table of all would not fit. The most frequent words stay.
        often = np.sort(np.argsort(-np.asarray(has_NV.sum(axis=0)).ravel(), kind="stable")[:_WORDS_OF_LONG])
        has_NV = has_NV[:, often]
    together = (has_NV.T @ has_NV).tocoo()
    other = together.row != together.col
    row, column, count = together.row[other], together.col[other], together.data[other]
    if not len(count):
        raise ValueError("no two words occur in one text")
    words = has_NV.shape[1]
    total = np.bincount(row, count, words)
    share = total**_SMOOTHED
    share /= share.sum()
    ppmi = np.maximum(np.log(count / (total[row] * share[column])), 0)
    ppmi_VV = sp.csr_matrix((ppmi, (row, column)), together.shape, dtype=np.float32)
    u_VK, s_K, _ = randomized_svd(ppmi_VV, min(size, words - 1), random_state=seed)
    frequency = np.asarray(has_NV.sum(axis=0)).ravel() / has_NV.sum()
    weights = sp.diags((_COMMON / (_COMMON + frequency)).astype(np.float32))
    return unit_rows(has_NV @ weights @ (u_VK * np.sqrt(s_K)).astype(np.float32))


def _reduced(rows_NV: Any, size: int, seed: int) -> Vectors:
    """The rows in the `size` directions in which they vary most."""
    from sklearn.utils.extmath import randomized_svd

    _, _, directions_KV = randomized_svd(rows_NV, min(size, min(rows_NV.shape) - 1), random_state=seed)
    return unit_rows(rows_NV @ directions_KV.T)
