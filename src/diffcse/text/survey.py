"""What is in a text: the facts that `diffcse doctor` shows before training.

The survey reads the corpus as training gets it: normalised and without exact duplicates. It uses no model and changes
nothing. `advice` says what the facts mean for training.

Line lengths and signs of broken text are counted in all sentences. Everything else is counted in a sample with a fixed
seed, so the same corpus gives the same survey: `Limits.sample` sentences for tokens, scripts, shared phrases and
near-duplicates, `Limits.languages` for languages. A smaller corpus is counted as a whole.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from diffcse.errors import InputError
from diffcse.text.corpus import Corpus
from diffcse.text.near_duplicates import UNSPACED, WORD, find_near_duplicates
from diffcse.text.prose import split_sentences

Tokenize = Callable[[list[str]], list[list[int]]]
"""Sentences -> their token ids, special tokens included, not truncated."""


@dataclass(frozen=True)
class Limits:
    """Number of sentences in each sample."""

    sample: int = 100_000
    languages: int = 5_000


@dataclass(frozen=True)
class Survey:
    """The facts. Shares are between 0 and 1; lists and dicts of counts are in descending order."""

    sentences: int
    lines: int
    empty: int
    duplicates: int
    documents: int | None
    """Documents with a sentence; None if the corpus does not record documents."""
    followed: float
    """Share of sentences with a next sentence in their document."""
    repeated: list[tuple[str, int]]
    """The most frequent lines, and their counts."""
    sampled: int
    unit: str
    """Unit of lengths: "tokens" of the tokenizer, special ones included, or "words"."""
    lengths: dict[str, int]
    """Quantiles 50 %, 90 %, 95 %, 99 % and the longest."""
    histogram: list[tuple[int, int, int]]
    """(from, to, sentences), in `unit`, both ends included."""
    limit: int
    """Training cuts a sentence to this many tokens (or words)."""
    cut: float
    """Share of sentences above the limit."""
    lost: float
    """Share of all tokens (or words) above the limit."""
    unknown: float | None
    """Share of unknown tokens; None without a tokenizer."""
    unknown_sentences: float | None
    """Share of sentences with an unknown token."""
    sentences_per_line: float
    """Mean number of sentences that a splitter finds in a line."""
    scripts: dict[str, float]
    """Share of each script among the letters."""
    unspaced: float
    """Share of the letters whose script puts no space between words."""
    languages: dict[str, float]
    """Share of sentences in each language, guessed for each sentence alone."""
    languages_sampled: int
    near_duplicates: float
    """Expected number of near-duplicate pairs in a batch."""
    near_duplicate_sentences: float
    """Share of sampled sentences with a near-duplicate in the sample."""
    near_examples: list[tuple[str, str]]
    batch_size: int
    prefixes: list[tuple[str, int]]
    """Beginnings of four words that many sampled sentences share."""
    suffixes: list[tuple[str, int]]
    trouble: dict[str, int]
    """Number of sentences with each sign of trouble."""
    trouble_examples: dict[str, str]
    short: int
    """Sentences of one or two words."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; docs/text.md describes the keys."""
        return asdict(self)


def require_extra() -> None:
    """Check that the packages of the extra `doctor` are installed.

    Raises:
        InputError: names a missing package and the command that installs it.
    """
    for package in ("regex", "rensa", "py3langid"):
        if find_spec(package) is None:
            raise InputError(f'diffcse doctor needs the package {package}. Install it: pip install "diffcse[doctor]"')


def examine(
    corpus: Corpus,
    *,
    tokenize: Tokenize | None = None,
    unknown_id: int | None = None,
    max_tokens: int = 32,
    batch_size: int = 64,
    language: str = "en",
    limits: Limits = Limits(),
) -> Survey:
    """Count everything.

    Args:
        corpus: read with ``documents=True`` to count documents.
        tokenize: the model's tokenizer; without it, lengths are in words.
        unknown_id: id of the tokenizer's unknown token, if it has one.
        max_tokens: training's limit.
        batch_size: training's batch size.
        language: the rules that split a line into sentences.
        limits: sample sizes.

    Raises:
        InputError: a package of the extra `doctor` is missing.
    """
    require_extra()
    sample = [corpus[i] for i in _sample(len(corpus), limits.sample)]
    subsample = sample[:: max(1, math.ceil(len(sample) / limits.languages))]
    words, trouble, trouble_examples = _scan(corpus)
    letters = _letters(sample)
    near = find_near_duplicates(sample)
    prefixes, suffixes = _affixes(sample)
    return Survey(
        sentences=len(corpus),
        lines=corpus.counts.lines,
        empty=corpus.counts.empty,
        duplicates=corpus.counts.duplicates,
        documents=corpus.counts.documents,
        followed=0.0 if corpus.following is None else float(np.mean(corpus.following >= 0)),
        repeated=[(corpus[index], times) for index, times in corpus.repeated],
        sampled=len(sample),
        **_length_facts(sample, words, tokenize, unknown_id, max_tokens),
        sentences_per_line=float(np.mean([_count_sentences(line, language) for line in subsample])),
        scripts=_scripts(letters),
        unspaced=sum(n for letter, n in letters.items() if re.match(f"[{UNSPACED}]", letter)) / (letters.total() or 1),
        languages=_languages(subsample),
        languages_sampled=len(subsample),
        near_duplicates=near.pairs_in_batch(batch_size),
        near_duplicate_sentences=float(near.is_paired.mean()),
        near_examples=list(near.examples),
        batch_size=batch_size,
        prefixes=prefixes,
        suffixes=suffixes,
        trouble=trouble,
        trouble_examples=trouble_examples,
        short=int(np.count_nonzero(words <= 2)),
    )


def _sample(sentences: int, most: int) -> npt.NDArray[np.int64]:
    """Indices of the sampled sentences, in ascending order."""
    if sentences <= most:
        return np.arange(sentences)
    return np.sort(np.random.default_rng(0).choice(sentences, most, replace=False))


# Every sentence

_TROUBLE = {
    "replacement character": re.compile("\ufffd"),
    "mojibake": re.compile(  # UTF-8 that was read as Windows-1252: "Ã©", "â€™", "ðŸ˜€"
        r"[\u00c2\u00c3][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2122]"
        r"|â€[\u0080-\u00bf\u0152\u0153\u0161\u02c6\u02dc\u2013-\u2122]|ðŸ"
    ),
    "control character": re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ue000-\uf8ff]"),
    "HTML entity": re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{2,6}|#x[0-9a-fA-F]{2,5});"),
    "HTML tag": re.compile(r"</?(?:a|b|i|p|br|div|span|em|strong|ref|table|td|tr|li|ul|h[1-6]|img|sup|sub)\b[^<>\n]*>"),
    "URL": re.compile(r"https?://|www\.\w"),
}


def _scan(corpus: Corpus) -> tuple[npt.NDArray[np.int64], dict[str, int], dict[str, str]]:
    """Words of each sentence (N,), number of sentences with each trouble, and an example of each."""
    words: list[int] = []
    trouble = dict.fromkeys(_TROUBLE, 0)
    examples: dict[str, str] = {}
    for window in _batches(corpus, 4096):
        words += [s.count(" ") + 1 if s.isascii() else len(WORD.findall(s)) for s in window]
        block = "\n".join(window)
        for name, pattern in _TROUBLE.items():
            counted = -1
            for match in pattern.finditer(block):
                start = block.rfind("\n", 0, match.start()) + 1
                if start != counted:  # each sentence counts once
                    trouble[name] += 1
                    counted = start
                    sentence = block[start:].partition("\n")[0] if name not in examples else ""
                    examples.setdefault(name, _excerpt(sentence, match.start() - start))
    return np.array(words, np.int64), trouble, examples


def _excerpt(sentence: str, place: int) -> str:
    """The characters around `place`."""
    start = max(0, place - 30)
    return ("…" if start else "") + sentence[start : place + 40] + ("…" if place + 40 < len(sentence) else "")


# Lengths


def _length_facts(
    sample: Sequence[str],
    words: npt.NDArray[np.int64],
    tokenize: Tokenize | None,
    unknown_id: int | None,
    limit: int,
) -> dict[str, Any]:
    """The fields of `Survey` about lengths and unknown tokens; `words` (N,) counts the words of all sentences."""
    unknown = unknown_sentences = None
    lengths = words
    if tokenize is not None:
        ids = [ids for batch in _batches(sample, 1024) for ids in tokenize(batch)]
        lengths = np.array([len(sentence) for sentence in ids], np.int64)
        # Tokenizers of bytes have no unknown token.
        counts = np.array([0 if unknown_id is None else sentence.count(unknown_id) for sentence in ids])
        unknown, unknown_sentences = float(counts.sum() / lengths.sum()), float(np.mean(counts > 0))
    quantiles = {f"{q}%": int(np.quantile(lengths, q / 100, method="higher")) for q in (50, 90, 95, 99)}
    return {
        "unit": "words" if tokenize is None else "tokens",
        "lengths": quantiles | {"longest": int(lengths.max())},
        "histogram": _histogram(lengths),
        "limit": limit,
        "cut": float(np.mean(lengths > limit)),
        "lost": float(np.maximum(lengths - limit, 0).sum() / max(1, lengths.sum())),
        "unknown": unknown,
        "unknown_sentences": unknown_sentences,
    }


def _histogram(lengths: npt.NDArray[np.int64]) -> list[tuple[int, int, int]]:
    edges = [1, 3, 5, 9, 17, 25, 33, 49, 65, 97, 129, 257, 513]
    shortest = int(np.searchsorted(edges, lengths.min(), side="right")) - 1
    edges = [edge for edge in edges[shortest:] if edge <= lengths.max()]
    ends = [edge - 1 for edge in edges[1:]] + [int(lengths.max())]
    counts = np.bincount(np.searchsorted(edges, lengths, side="right") - 1, minlength=len(edges))
    return [(a, b, int(count)) for a, b, count in zip(edges, ends, counts, strict=True)]


def _count_sentences(line: str, language: str) -> int:
    return sum(bool(sentence.strip()) for sentence in split_sentences(line, language))


# Scripts and languages

_SCRIPTS = (
    *("Latin", "Cyrillic", "Greek", "Han", "Hiragana", "Katakana", "Hangul", "Arabic", "Hebrew", "Devanagari"),
    *("Bengali", "Tamil", "Telugu", "Kannada", "Malayalam", "Gujarati", "Gurmukhi", "Sinhala", "Thai", "Lao", "Khmer"),
    *("Myanmar", "Tibetan", "Georgian", "Armenian", "Ethiopic"),
)


def _letters(sample: Sequence[str]) -> Counter[str]:
    characters: Counter[str] = Counter()
    for batch in _batches(sample, 4096):
        characters.update("".join(batch))
    return Counter({character: count for character, count in characters.items() if character.isalpha()})


def _scripts(letters: Counter[str]) -> dict[str, float]:
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[_script(letter)] += count
    return _shares(scripts)


@cache
def _script(letter: str) -> str:
    import regex

    return next((name for name in _SCRIPTS if regex.match(rf"\p{{Script={name}}}", letter)), "other")


def main_language(sentences: Corpus) -> str | None:
    """The code of the language of at least nine tenths of 500 sentences; None if none has that or it cannot be told."""
    if find_spec("py3langid") is None:
        return None
    step = max(1, len(sentences) // 500)
    code, share = next(iter(_languages([sentences[i] for i in range(0, len(sentences), step)]).items()))
    return code if share >= 0.9 else None


def _languages(sentences: Sequence[str]) -> dict[str, float]:
    identify = _identifier()
    return _shares(Counter(identify(sentence)[0] for sentence in sentences))


@cache
def _identifier() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE).classify


def _batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _shares(counts: Counter[str]) -> dict[str, float]:
    return {name: count / counts.total() for name, count in _descending(counts.items())}


def _descending(counts: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    return sorted(counts, key=lambda item: (-item[1], item[0]))


# Shared phrases


def _affixes(sample: Sequence[str]) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """The ten most frequent beginnings and ends of four words, or of eight characters in scripts without spaces."""
    starts, ends = Counter(_pieces(sample, 0)), Counter(_pieces(sample, 1))
    least = max(5, len(sample) // 1000)
    prefixes, suffixes = (
        _descending((text, count) for text, count in counter.items() if count >= least)[:10]
        for counter in (starts, ends)
    )
    return prefixes, suffixes


def _pieces(sample: Sequence[str], end: int) -> Iterator[str]:
    """The beginning (`end` 0) or the end (1) of each sentence that has more than that."""
    for sentence in sample:
        if sentence.count(" ") >= 4:
            yield " ".join(sentence.rsplit(" ", 4)[1:]) if end else " ".join(sentence.split(" ", 4)[:4])
        elif len(sentence) > 16 and not sentence.isascii() and re.search(f"[{UNSPACED}]", sentence):
            yield sentence[-8:] if end else sentence[:8]
