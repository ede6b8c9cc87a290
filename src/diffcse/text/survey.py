"""What is wrong with a text before hours are spent on it, what that does to training, and which option helps.

Contrastive training takes every other sentence of a batch for a negative, and sees a sentence's first `max_tokens`
tokens only. So what matters is what repeats, what is cut off, what the tokenizer does not know, and what is no
sentence at all. All of it is counted without a model; nothing is changed.

Looked at is the corpus as training gets it, normalised and without exact duplicates. Line lengths and signs of broken
encoding are counted in all sentences. The rest is counted in a sample of them (all, if there are no more): tokens,
scripts and boilerplate in `Limits.sample`, near-duplicates in as many, languages in `Limits.languages`. The sample is
drawn with a fixed seed, so the same corpus gets the same report.

Near-duplicates are pairs of sentences whose sets of words have a Jaccard similarity of at least 0.8. Candidates come
from MinHash signatures in bands (locality-sensitive hashing; Broder 1997; Leskovec et al., Mining of Massive Datasets,
chapter 3) and are then compared exactly; of large groups a sample of pairs is. The chance that two sentences drawn at
random are such a pair does not depend on the sample's size, so it holds for batches of the whole corpus.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from diffcse.text.corpus import Corpus
from diffcse.text.lines import split_sentences

Tokenize = Callable[[list[str]], list[list[int]]]
"""Sentences -> their token ids, special tokens included, not truncated."""

SIMILAR = 0.8
_BANDS, _ROWS = 21, 6  # two sets of similarity 0.8 meet in a band with probability 0.998, of 0.5 with 0.28
_PAIRS = 200  # compared at most in a group of sentences that share a band


@dataclass(frozen=True)
class Limits:
    """How many sentences are looked at where looking at all would take long."""

    sample: int = 100_000
    languages: int = 5_000


@dataclass(frozen=True)
class Finding:
    """One thing that training will feel."""

    key: str
    level: str
    """"warning": worth mending before training; "note": worth knowing; "good"."""
    found: str
    effect: str
    """What it does to training."""
    fix: str
    """The option to set or the command to run; empty where nothing is to be done."""


@dataclass(frozen=True)
class Report:
    """All that was counted. Shares are of 1; lists of (what, count) are in descending order."""

    sentences: int
    lines: int
    empty: int
    duplicates: int
    documents: int
    """Documents of at least two sentences are what pairs of neighbours come from."""
    followed: float
    """Share of sentences that have one following in their document."""
    repeated: list[tuple[str, int]]
    """The lines read most often, and how often."""
    sampled: int
    unit: str
    """What lengths are counted in: "tokens" of the tokenizer, special ones included, or "words"."""
    lengths: dict[str, int]
    """Quantiles: 50 %, 90 %, 95 %, 99 % and the longest."""
    histogram: list[tuple[int, int, int]]
    """(from, to, sentences), in `unit`, both ends included."""
    limit: int
    """Tokens (or words) a training sentence is cut to."""
    cut: float
    """Share of sentences that are longer."""
    lost: float
    """Share of all tokens (or words) that are cut off."""
    unknown: float | None
    """Share of tokens that the tokenizer does not know; None without one."""
    unknown_sentences: float | None
    """Share of sentences with at least one such token."""
    sentences_per_line: float
    """Sentences, by a splitter's rules, in a line."""
    scripts: dict[str, float]
    """Share of each script's letters."""
    languages: dict[str, float]
    """Share of sentences in each language, as guessed from one sentence at a time."""
    languages_sampled: int
    near_duplicates: float
    """Estimated number of near-duplicate pairs in a batch."""
    near_duplicate_sentences: float
    """Share of the sampled sentences that have a near-duplicate in the sample."""
    near_examples: list[tuple[str, str]]
    batch_size: int
    prefixes: list[tuple[str, int]]
    """Beginnings (of four words) that many sampled sentences share."""
    suffixes: list[tuple[str, int]]
    trouble: dict[str, int]
    """Sentences with each sign of trouble."""
    trouble_examples: dict[str, str]
    short: int
    """Sentences of one or two words."""
    findings: list[Finding] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; docs/text.md names the keys."""
        return asdict(self)


def examine(
    corpus: Corpus,
    *,
    tokenize: Tokenize | None = None,
    unknown_id: int | None = None,
    model_tokens: int | None = None,
    max_tokens: int = 32,
    batch_size: int = 64,
    language: str = "en",
    is_split: bool = False,
    limits: Limits = Limits(),
) -> Report:
    """Count everything and judge it.

    Args:
        corpus: read with ``documents=True`` where documents are to be judged.
        tokenize: the model's tokenizer; lengths are in words without one.
        unknown_id: the id of its unknown token, if it has one.
        model_tokens: the most tokens that the model takes.
        max_tokens: what training will cut to.
        batch_size: of training.
        language: whose rules tell sentences in a line apart.
        is_split: whether the lines were split into sentences already.
        limits: of the samples.
    """
    picked = _sample(len(corpus), limits.sample)
    sample = [corpus[i] for i in picked]
    words, trouble, examples = _scan(corpus)
    unknown = unknown_sentences = None
    if tokenize is None:
        unit, lengths = "words", words
    else:
        unit = "tokens"
        lengths, unknown, unknown_sentences = _tokens(sample, tokenize, unknown_id)
    near, near_sentences, near_examples = _near_duplicates(sample, batch_size)
    some = sample[:: max(1, math.ceil(len(sample) / limits.languages))]
    following = corpus.following
    prefixes, suffixes = _affixes(sample)
    per_line = [sum(bool(s.strip()) for s in split_sentences(line, language)) for line in some]
    report = Report(
        sentences=len(corpus),
        lines=corpus.counts.lines,
        empty=corpus.counts.empty,
        duplicates=corpus.counts.duplicates,
        documents=corpus.counts.documents or 0,
        followed=0.0 if following is None else float(np.mean(following >= 0)),
        repeated=[(corpus[index], times) for index, times in corpus.repeated],
        sampled=len(sample),
        unit=unit,
        lengths={
            **{f"{q}%": int(np.quantile(lengths, q / 100, method="higher")) for q in (50, 90, 95, 99)},
            "longest": int(lengths.max()),
        },
        histogram=_histogram(lengths),
        limit=max_tokens,
        cut=float(np.mean(lengths > max_tokens)),
        lost=float(np.maximum(lengths - max_tokens, 0).sum() / max(1, lengths.sum())),
        unknown=unknown,
        unknown_sentences=unknown_sentences,
        sentences_per_line=float(np.mean(per_line)),
        scripts=_scripts(sample),
        languages=_languages(some),
        languages_sampled=len(some),
        near_duplicates=near,
        near_duplicate_sentences=near_sentences,
        near_examples=near_examples,
        batch_size=batch_size,
        prefixes=prefixes,
        suffixes=suffixes,
        trouble=trouble,
        trouble_examples=examples,
        short=int(np.count_nonzero(words <= 2)),
    )
    report.findings.extend(_judge(report, corpus, lengths, model_tokens, language, is_split))
    return report


def _sample(sentences: int, most: int) -> npt.NDArray[np.int64]:
    if sentences <= most:
        return np.arange(sentences)
    return np.sort(np.random.default_rng(0).choice(sentences, most, replace=False))


# Every sentence

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")  # scripts without spaces: each character is one
_TROUBLE = {
    "replacement character": re.compile("\ufffd"),
    "mojibake": re.compile(  # UTF-8 that was read as Windows-1252: "Ã©", "â€™", "ðŸ˜€"
        r"[\u00c2\u00c3][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2122]"
        r"|â€[\u0080-\u00bf\u0152\u0153\u0161\u02c6\u02dc\u2013-\u2122]|ðŸ"
    ),
    "control character": re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u2060\ufeff\ue000-\uf8ff]"),
    "HTML entity": re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{2,6}|#x[0-9a-fA-F]{2,5});"),
    "HTML tag": re.compile(r"</?(?:a|b|i|p|br|div|span|em|strong|ref|table|td|tr|li|ul|h[1-6]|img|sup|sub)\b[^<>\n]*>"),
    "URL": re.compile(r"https?://|www\.\w"),
}


def _scan(corpus: Corpus) -> tuple[npt.NDArray[np.int64], dict[str, int], dict[str, str]]:
    """Words of each sentence (N,), sentences with each trouble, and one example of each."""
    words = np.empty(len(corpus), np.int64)
    trouble = dict.fromkeys(_TROUBLE, 0)
    examples: dict[str, str] = {}
    first = 0
    for window in _windows(corpus):
        words[first : first + len(window)] = [
            sentence.count(" ") + 1 if sentence.isascii() else len(_WORD.findall(sentence)) for sentence in window
        ]
        first += len(window)
        block = "\n".join(window)
        for name, pattern in _TROUBLE.items():
            last = -1
            for match in pattern.finditer(block):
                line = block.rfind("\n", 0, match.start()) + 1
                if line != last:  # one for a sentence
                    trouble[name] += 1
                    last = line
                    end = block.find("\n", line)
                    examples.setdefault(name, _around(block[line : end if end >= 0 else None], match.start() - line))
    return words, trouble, examples


def _windows(corpus: Corpus, size: int = 4096) -> Iterator[list[str]]:
    window: list[str] = []
    for sentence in corpus:
        window.append(sentence)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window


def _around(sentence: str, place: int) -> str:
    start = max(0, place - 30)
    return ("…" if start else "") + sentence[start : place + 40] + ("…" if place + 40 < len(sentence) else "")


def _histogram(lengths: npt.NDArray[np.int64]) -> list[tuple[int, int, int]]:
    edges = [1, 3, 5, 9, 17, 25, 33, 49, 65, 97, 129, 257, 513]
    shortest = int(np.searchsorted(edges, lengths.min(), side="right")) - 1
    edges = [edge for edge in edges[shortest:] if edge <= lengths.max()]
    ends = [edge - 1 for edge in edges[1:]] + [int(lengths.max())]
    counts = np.bincount(np.searchsorted(edges, lengths, side="right") - 1, minlength=len(edges))
    return [(a, b, int(count)) for a, b, count in zip(edges, ends, counts, strict=True)]


# The sample


def _tokens(
    sample: Sequence[str], tokenize: Tokenize, unknown_id: int | None
) -> tuple[npt.NDArray[np.int64], float | None, float | None]:
    lengths: list[int] = []
    unknown = with_unknown = 0
    for first in range(0, len(sample), 1024):
        for ids in tokenize(list(sample[first : first + 1024])):
            lengths.append(len(ids))
            if unknown_id is not None:
                count = ids.count(unknown_id)
                unknown += count
                with_unknown += count > 0
    found = np.array(lengths, np.int64)
    if unknown_id is None:  # such as tokenizers of bytes, which know everything
        return found, 0.0, 0.0
    return found, unknown / int(found.sum()), with_unknown / len(found)


_SCRIPTS = (
    *("Latin", "Cyrillic", "Greek", "Han", "Hiragana", "Katakana", "Hangul", "Arabic", "Hebrew", "Devanagari"),
    *("Bengali", "Tamil", "Telugu", "Kannada", "Malayalam", "Gujarati", "Gurmukhi", "Sinhala", "Thai", "Lao", "Khmer"),
    *("Myanmar", "Tibetan", "Georgian", "Armenian", "Ethiopic"),
)


def _scripts(sample: Sequence[str]) -> dict[str, float]:
    letters: Counter[str] = Counter()
    for first in range(0, len(sample), 4096):
        letters.update("".join(sample[first : first + 4096]))
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        if letter.isalpha():
            scripts[_script(letter)] += count
    return _shares(scripts)


@cache
def _script(letter: str) -> str:
    import regex

    return next((name for name in _SCRIPTS if regex.match(rf"\p{{Script={name}}}", letter)), "other")


def _languages(sentences: Sequence[str]) -> dict[str, float]:
    identify = _identifier()
    return _shares(Counter(identify(sentence)[0] for sentence in sentences))


@cache
def _identifier() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE).classify


def _shares(counts: Counter[str]) -> dict[str, float]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {name: count / counts.total() for name, count in ordered}


def _affixes(sample: Sequence[str]) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Beginnings and ends, of four words (or eight characters of scripts without spaces), that many share."""
    starts: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for sentence in sample:
        words = sentence.split(" ", 4)
        if len(words) > 4:
            starts[" ".join(words[:4])] += 1
            ends[" ".join(sentence.rsplit(" ", 4)[1:])] += 1
        elif len(sentence) > 16 and not sentence.isascii() and re.search(f"[{_UNSPACED}]", sentence):
            starts[sentence[:8]] += 1
            ends[sentence[-8:]] += 1
    least = max(5, len(sample) // 1000)
    return tuple(  # type: ignore[return-value]
        sorted(((text, count) for text, count in counter.items() if count >= least), key=lambda one: (-one[1], one[0]))[
            :10
        ]
        for counter in (starts, ends)
    )


# Near-duplicates


def _near_duplicates(sample: Sequence[str], batch_size: int) -> tuple[float, float, list[tuple[str, str]]]:
    """Expected pairs in a batch, share of sentences in a pair, and examples."""
    from rensa import RMinHash

    n = len(sample)
    signatures = np.empty((n, _BANDS * _ROWS), np.uint32)
    for first in range(0, n, 2048):
        words = [_words(sentence) for sentence in sample[first : first + 2048]]
        rows = RMinHash.digest_matrix_from_token_sets([sorted(w) for w in words], _BANDS * _ROWS, 0).to_rows()
        signatures[first : first + len(rows)] = rows
    bands = np.stack([_group(signatures[:, b * _ROWS : (b + 1) * _ROWS]) for b in range(_BANDS)], axis=1)
    rng = np.random.default_rng(0)
    pairs = 0.0
    paired = np.zeros(n, np.bool_)
    examples: dict[tuple[str, str], None] = {}
    for band in range(_BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        edges = np.flatnonzero(np.diff(bands[order, band])) + 1
        for members in np.split(order, edges):
            if len(members) < 2:
                continue
            i, j, weight = _some_pairs(members, rng)
            new = ~(bands[i, :band] == bands[j, :band]).any(axis=1)  # else an earlier band has compared them
            for a, b in zip(i[new].tolist(), j[new].tolist(), strict=True):
                if _jaccard(sample[a], sample[b]) >= SIMILAR:
                    pairs += weight
                    paired[[a, b]] = True
                    if len(examples) < 5:
                        examples[(sample[min(a, b)], sample[max(a, b)])] = None
            if weight > 1:  # not every member was drawn; each has a near-duplicate if its neighbour is one
                for a, b in zip(members[:-1].tolist(), members[1:].tolist(), strict=True):
                    if not (paired[a] and paired[b]) and _jaccard(sample[a], sample[b]) >= SIMILAR:
                        paired[[a, b]] = True
    chance = pairs / (n * (n - 1) / 2)
    return chance * batch_size * (batch_size - 1) / 2, float(paired.mean()), list(examples)


def _words(sentence: str) -> set[str]:
    return set(_WORD.findall(sentence.lower()))


def _jaccard(one: str, other: str) -> float:
    a, b = _words(one), _words(other)
    return len(a & b) / len(a | b)


def _group(rows: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """(N,) a number for each row, equal for equal rows."""
    key = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    return np.unique(key, return_inverse=True)[1]


def _some_pairs(
    members: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], float]:
    """All pairs of a small group, or some drawn from a large one, and how many each of them stands for."""
    size = len(members)
    every = size * (size - 1) // 2
    if every <= _PAIRS:
        i, j = np.triu_indices(size, 1)
        return members[i], members[j], 1.0
    i = rng.integers(0, size, _PAIRS)
    j = (i + rng.integers(1, size, _PAIRS)) % size
    return members[i], members[j], every / _PAIRS


# The verdict


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _judge(
    r: Report,
    corpus: Corpus,
    lengths: npt.NDArray[np.int64],
    model_tokens: int | None,
    language: str,
    is_split: bool,
) -> Iterator[Finding]:
    yield _size(r)
    read = r.duplicates + r.sentences
    if r.duplicates:
        yield Finding(
            "duplicates",
            "note",
            f"{r.duplicates:,} of {read:,} sentences ({r.duplicates / read:.1%}) repeat an earlier one",
            "none: they are left out when the corpus is read",
            "",
        )
    yield _near(r)
    yield from _length(r, lengths, model_tokens, language, is_split)
    if r.unknown is not None and r.unknown > 0.002:
        yield Finding(
            "unknown_tokens",
            "warning" if r.unknown > 0.01 else "note",
            f"{r.unknown:.1%} of tokens, in {r.unknown_sentences:.0%} of sentences, are unknown to the tokenizer",
            "unknown words all look the same: sentences that differ in them alone cannot be told apart",
            "start from a checkpoint that knows the text's language and script: --model NAME",
        )
    yield from _mix(r)
    yield from _boilerplate(r)
    yield from _troubles(r)
    if r.short > 0.02 * r.sentences:
        yield Finding(
            "short",
            "warning" if r.short > 0.1 * r.sentences else "note",
            f"{r.short:,} sentences ({r.short / r.sentences:.1%}) are of one or two words: headings, names, captions",
            "they teach little: masking leaves no context to guess from",
            "leave them out; in plain text: awk 'NF > 2' text.txt > longer.txt",
        )
    if corpus.following is not None:
        yield _followers(r, is_split)


def _size(r: Report) -> Finding:
    batches = r.sentences // r.batch_size
    if r.sentences < 10_000:
        return Finding(
            "size",
            "warning" if r.sentences < 1_000 else "note",
            f"{r.sentences:,} different sentences: {batches:,} batches of {r.batch_size}",
            "little text; published results come from a million sentences",
            "add text of the same kind, or make more passes over it (--epochs) and watch the dev score",
        )
    return Finding(
        "size", "good", f"{r.sentences:,} different sentences: {batches:,} batches of {r.batch_size}", "", ""
    )


def _near(r: Report) -> Finding:
    found = (
        f"{r.near_duplicates:.2g} near-duplicate pairs in an average batch of {r.batch_size}; "
        f"{r.near_duplicate_sentences:.1%} of {r.sampled:,} sentences looked at have one among them"
    )
    if r.near_duplicates < 0.05:
        return Finding("near_duplicates", "good", found, "", "")
    # Pairs grow with the square of the batch: this size has a twentieth of one.
    smaller = max(2, 2 ** int(math.log2(r.batch_size * math.sqrt(0.05 / r.near_duplicates))))
    return Finding(
        "near_duplicates",
        "warning" if r.near_duplicates >= 0.5 else "note",
        found,
        "each is a false negative: training pushes two sentences apart that say the same",
        "remove near-duplicates from the text (templates, numbered lines), keeping one of each"
        + (f"; or --batch-size {smaller}" if 8 <= smaller < r.batch_size else ""),
    )


def _length(
    r: Report, lengths: npt.NDArray[np.int64], model_tokens: int | None, language: str, is_split: bool
) -> Iterator[Finding]:
    in_words = " (counted in words; name a model with --model for its tokens)" if r.unit == "words" else ""
    is_prose = not is_split and r.sentences_per_line > 1.3
    if is_prose:
        code = "" if language == "en" else f" --language {language}"
        yield Finding(
            "prose",
            "warning" if r.sentences_per_line > 1.7 else "note",
            f"{r.sentences_per_line:.1f} sentences in an average line",
            "an embedding is learned for whole lines, of which all that is cut off is never seen",
            f"--split-sentences{code}",
        )
    found = f"{r.cut:.1%} of sentences are longer than {r.limit} {r.unit}, {r.lost:.1%} of all {r.unit} are cut off"
    if r.cut < 0.05:
        yield Finding("length", "good", found + in_words, "", "")
        return
    enough = int(math.ceil(int(np.quantile(lengths, 0.95, method="higher")) / 8) * 8)
    enough = min(enough, model_tokens or enough)
    yield Finding(
        "length",
        "warning" if r.cut > 0.2 else "note",
        found + in_words,
        "what is cut off is never seen, so sentences with the same beginning look alike",
        ("--split-sentences first, then look again" if is_prose else f"--max-tokens {enough} (slower in proportion)"),
    )


def _mix(r: Report) -> Iterator[Finding]:
    scripts = [f"{name} {share:.1%}" for name, share in r.scripts.items() if share >= 0.005]
    second = sorted(r.scripts.values(), reverse=True)[1:2]
    found = f"scripts: {', '.join(scripts) or 'none (no letters)'}"
    japanese = {"Han", "Hiragana", "Katakana"}
    if second and second[0] > 0.05 and not set(list(r.scripts)[:3]) <= japanese:
        yield Finding(
            "scripts",
            "note",
            found,
            "script alone tells such sentences apart, so they are easy negatives for each other",
            "start from a multilingual checkpoint (--model), or train each language for itself",
        )
    else:
        yield Finding("scripts", "good", found, "", "")
    share, *others = r.languages.values()
    listed = ", ".join(f"{name} {part:.1%}" for name, part in list(r.languages.items())[:4])
    found = f"languages, guessed in {r.languages_sampled:,} sentences: {listed}"
    if share < 0.8 and sum(others[:2]) > 0.1:
        yield Finding(
            "languages",
            "note",
            found,
            "a checkpoint of one language knows little of the others (short sentences are often guessed wrong)",
            "start from a multilingual checkpoint (--model), or keep one language",
        )
    else:
        yield Finding("languages", "good", found, "", "")


def _boilerplate(r: Report) -> Iterator[Finding]:
    for key, what, found in (("prefixes", "begin", r.prefixes), ("suffixes", "end", r.suffixes)):
        shared = sum(count for _, count in found)
        text, count = found[0] if found else ("", 0)
        if count > 0.02 * r.sampled or shared > 0.1 * r.sampled:
            yield Finding(
                key,
                "warning" if count > 0.05 * r.sampled else "note",
                f"{shared / r.sampled:.1%} of sentences {what} with one of {len(found)} phrases, "
                f"{count / r.sampled:.1%} with '{text}'",
                "what all share tells nothing apart, and takes the place of what would under the token limit",
                "cut it off, or leave such lines out",
            )


def _troubles(r: Report) -> Iterator[Finding]:
    effects = {
        "replacement character": ("letters are lost for good", "decode the source again, with the encoding it has"),
        "mojibake": ("words become rare junk tokens", "convert it back, e.g. with the ftfy library"),
        "control character": (
            "invisible, but changes the tokens",
            "remove them: tr -d '\\000-\\010\\016-\\037' < text.txt > clean.txt",
        ),
        "HTML entity": (
            "tokens are spent on markup",
            "python -c 'import html, sys; print(html.unescape(sys.stdin.read()))'",
        ),
        "HTML tag": ("tokens are spent on markup", "extract the text from the pages first"),
        "URL": ("tokens are spent on addresses", "remove them, if your texts later come without"),
    }
    for name, count in r.trouble.items():
        share = count / r.sentences
        if count and (share > 0.0005 or name in ("replacement character", "mojibake")):
            effect, fix = effects[name]
            level = "warning" if share > 0.01 and name != "URL" else "note"
            article = "an" if name.startswith("HTML") else "a"
            what = name if name == "mojibake" else f"{article} {name}"
            found = f"{_many(count, 'sentence')} ({share:.2%}) with {what}, e.g. {r.trouble_examples[name]}"
            yield Finding(name.replace(" ", "_").lower(), level, found, effect, fix)


def _followers(r: Report, is_split: bool) -> Finding:
    found = (
        f"{r.documents:,} document{'s' * (r.documents != 1)}; {r.followed:.1%} of sentences have a neighbour after them"
    )
    if r.documents == 1 and r.sentences > 1000:
        return Finding(
            "documents",
            "note",
            found,
            "only matters to training with neighbours (--positives, --pairing): lines of different documents would be "
            "taken for them",
            "end each document with an empty line, or name its column: --document COLUMN",
        )
    if r.followed < 0.5:
        return Finding(
            "documents",
            "note",
            found,
            "only matters to training with neighbours (--positives, --pairing), which would see few",
            "",
        )
    return Finding("documents", "good", found, "", "")
