"""The words that tell a cluster from the others: class-based TF-IDF.

A word's weight in a cluster is its share of the cluster's words times log((A + 1) / (f + 0.5)). A is the mean number of
words of a cluster, f the word's count in all texts (Grootendorst, arXiv 2203.05794, with the weighting of BM25). A
word that is about as frequent in all texts as in the cluster, such as "the", is left out, in any language.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diffcse.text.near_duplicates import WORD

_PUNCTUATION = "\"'“”‘’«»()[]{}<>.,;:!?…。！？`*|/\\=-–—_"
_MOST = 8
_OWN = 2.0
"""A cluster's word makes up at least this many times the share of words that it has in the other clusters."""


def cluster_words(texts: Sequence[str], labels: npt.NDArray[np.int64], most: int = _MOST) -> list[list[str]]:
    """For each cluster at most `most` words, by falling weight."""
    from sklearn.feature_extraction.text import CountVectorizer

    clusters = int(labels.max()) + 1
    vectoriser = CountVectorizer(analyzer=words_of)
    try:
        counts_NW = vectoriser.fit_transform(texts)
    except ValueError:  # no text has a word
        return [[] for _ in range(clusters)]
    names = vectoriser.get_feature_names_out()
    chosen = []
    all_W = np.asarray(counts_NW.sum(0)).ravel()
    weight_W = np.log((all_W.sum() / clusters + 1) / (all_W + 0.5))
    for number in range(clusters):
        own_W = np.asarray(counts_NW[labels == number].sum(0)).ravel()
        share_W = own_W / max(own_W.sum(), 1)
        others_W = (all_W - own_W) / max(all_W.sum() - own_W.sum(), 1)
        weights_W = np.where(share_W >= _OWN * others_W, share_W * weight_W, 0)
        best = np.argsort(-weights_W, kind="stable")[:most]
        chosen.append([str(names[i]) for i in best if weights_W[i] > 0])
    return chosen


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation around them.

    >>> words_of("Is .NET (or C#) faster?")
    ['is', 'net', 'or', 'c#', 'faster']
    """
    return [word for raw in WORD.findall(text.lower()) if (word := raw.strip(_PUNCTUATION))]
