"""A search that text makes of itself: can a sentence's first half find its second half among all others?

`training.selection` chooses the best step by it where no graded pairs are given (measured in docs/log/). An encoder
that maps everything to one point scores nothing, because equal cosines count against the search.

Halves are of words, or of characters in a text that is written without spaces.
"""

from __future__ import annotations

import numpy as np

from diffcse.evaluation.embeddings import EmbeddingMatrix, cosine_blocks

_FEWEST = 6  # words of a sentence that is cut in two
_TIE = 1e-6


def pieces(sentence: str) -> tuple[list[str], str]:
    """The words of `sentence`, or its characters where it has hardly any spaces, and the string that joins them.

    >>> pieces("A dog barks."), pieces("犬が吠えている。")[0][:3]
    ((['A', 'dog', 'barks.'], ' '), ['犬', 'が', '吠'])
    """
    words = sentence.split()
    return (list(sentence), "") if len(sentence) > 12 * len(words) or len(words) == 1 else (words, " ")


def halves(sentence: str) -> tuple[str, str] | None:
    """The first and the second half of a sentence's words; None where the sentence is too short.

    >>> halves("One two three four five six seven.")
    ('One two three', 'four five six seven.')
    """
    words, joint = pieces(sentence)
    middle = len(words) // 2
    return (joint.join(words[:middle]), joint.join(words[middle:])) if len(words) >= _FEWEST else None


def reciprocal_ranks(x: EmbeddingMatrix, y: EmbeddingMatrix) -> np.ndarray:
    """1 / rank of row i of `y` (N, d) when row i of `x` searches all of `y`: (N,). Of equal cosines the own ranks last.

    >>> reciprocal_ranks(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.1], [1.0, 0.0]])).tolist()
    [0.5, 0.5]
    """
    ranks = []
    for rows, block in cosine_blocks(x, y):
        own = block[np.arange(len(block)), np.arange(y.shape[0])[rows]]
        ranks.append((block >= own[:, None] - _TIE).sum(1))  # the own one counts too, so this is the rank
    return 1 / np.concatenate(ranks)
