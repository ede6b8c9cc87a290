"""What the doctor counts, against plain loops, and what it advises, on texts with one trouble each."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcse.text import survey as doctor
from diffcse.text.corpus import Corpus
from diffcse.text.survey import Limits, Report, examine

NOUNS = [
    *("river", "house", "train", "garden", "letter", "window", "engine", "village", "bottle"),
    *("teacher", "winter", "museum", "planet", "forest", "harbour", "ladder", "market", "orange"),
    *("pencil", "rocket", "school", "silver", "tailor", "uncle", "valley", "wagon", "yellow"),
    *("zebra", "bridge", "candle"),
]
VERBS = [
    *("crossed", "painted", "followed", "opened", "watched", "repaired", "carried", "described", "measured"),
    *("visited", "sheltered", "counted", "ordered", "praised", "reached", "stored", "touched", "warned"),
]
JOINTS = [
    *("near", "behind", "without", "before", "after", "against", "under", "across", "beside"),
    *("along"),
]


def plain(number: int, seed: int = 0) -> list[str]:
    """Different English sentences that share few words with each other."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < number:
        a, b, c, d, e, f = rng.choice(NOUNS, 6, replace=False)
        v, w = rng.choice(VERBS, 2, replace=False)
        found[f"{a.title()} and {b} {v} a {c} that {w} {d} {rng.choice(JOINTS)} {e} {rng.choice(JOINTS)} {f}."] = None
    return list(found)


def keys(report: Report, level: str | None = None) -> set[str]:
    return {finding.key for finding in report.findings if level in (None, finding.level)}


def test_a_clean_text_has_no_warning() -> None:
    report = examine(Corpus.from_sentences(plain(2000)))
    assert keys(report, "warning") == set()
    assert {"near_duplicates", "length", "scripts", "languages"} <= keys(report, "good")
    assert next(iter(report.languages)) == "en"
    assert report.scripts == {"Latin": 1.0}
    assert (report.short, set(report.trouble.values())) == (0, {0})


def test_the_same_corpus_gets_the_same_report() -> None:
    corpus = Corpus.from_sentences(
        [*plain(500), *(f"Line {i} of the very same old list of things." for i in range(300))]
    )
    limits = Limits(sample=200, languages=50)
    one, other = (examine(corpus, limits=limits).to_dict() for _ in range(2))
    assert one == other
    assert (one["sampled"], one["languages_sampled"]) == (200, 50)


# Near-duplicates


def near_pairs(sentences: list[str]) -> int:
    sets = [set(sentence.lower().split()) for sentence in sentences]
    return sum(len(a & b) / len(a | b) >= 0.8 for a, b in itertools.combinations(sets, 2))


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=9), min_size=2, max_size=60))
def test_near_duplicates_are_those_of_a_loop(lists) -> None:
    sentences = list(dict.fromkeys(" ".join(words) for words in lists))
    if len(sentences) < 2:
        return
    expected, share, examples = doctor._near_duplicates(sentences, 8)
    pairs = near_pairs(sentences)
    found = expected * math.comb(len(sentences), 2) / math.comb(8, 2)
    # Of pairs exactly at the threshold 0.2 % are missed; large groups are estimated from 200 pairs.
    assert found == pytest.approx(pairs, rel=0.15, abs=2)
    assert (share > 0) == (found > 0) == bool(examples)
    for a, b in examples:
        assert near_pairs([a, b]) == 1


def test_pairs_in_a_large_group_are_estimated() -> None:
    numbered = [f"The page was last edited on day number {i} and is kept for reference only." for i in range(600)]
    sentences = [*plain(1400), *numbered]
    expected, share, _ = doctor._near_duplicates(sentences, 64)
    in_group = math.comb(600, 2) / math.comb(2000, 2) * math.comb(64, 2)
    assert expected == pytest.approx(in_group, rel=0.02)
    assert share == pytest.approx(0.3, abs=0.005)
    rng = np.random.default_rng(1)
    drawn = [sum(s.startswith("The page") for s in rng.choice(sentences, 64, replace=False)) for _ in range(300)]
    assert np.mean([math.comb(k, 2) for k in drawn]) == pytest.approx(in_group, rel=0.15)
    report = examine(Corpus.from_sentences(sentences))
    assert "near_duplicates" in keys(report, "warning")
    assert "prefixes" in keys(report, "warning")
    assert report.prefixes[0] == ("The page was last", 600)


def test_a_smaller_batch_is_advised_where_that_helps() -> None:
    sentences = [*plain(3000), *(f"The page number {i} of this very old river site" for i in range(60))]
    report = examine(Corpus.from_sentences(sentences))
    finding = next(finding for finding in report.findings if finding.key == "near_duplicates")
    assert 0.05 <= report.near_duplicates < 3.2
    assert "--batch-size 16" in finding.fix


# Lengths and tokens


def spell(sentences: list[str]) -> list[list[int]]:
    """A tokenizer: a token for each word, 0 for those with a capital, and two special ones."""
    return [[1, *(0 if word[0].isupper() else 2 for word in s.split()), 1] for s in sentences]


def test_lengths_in_tokens_and_what_is_cut() -> None:
    sentences = [" ".join(f"w{i}x{j}" for j in range(i)) for i in range(1, 101)]
    report = examine(Corpus.from_sentences(sentences), tokenize=spell, unknown_id=0, max_tokens=32, model_tokens=64)
    lengths = np.arange(3, 103)
    assert report.unit == "tokens"
    assert report.cut == np.mean(lengths > 32)
    assert report.lost == pytest.approx(np.maximum(lengths - 32, 0).sum() / lengths.sum())
    assert report.lengths == {"50%": 53, "90%": 93, "95%": 98, "99%": 102, "longest": 102}
    assert [sum(first <= n <= last for n in lengths) for first, last, _ in report.histogram] == [
        count for *_, count in report.histogram
    ]
    assert sum(count for *_, count in report.histogram) == 100
    assert report.unknown == 0
    finding = next(finding for finding in report.findings if finding.key == "length")
    assert (finding.level, finding.fix) == ("warning", "--max-tokens 64 (slower in proportion)")


def test_unknown_tokens() -> None:
    report = examine(Corpus.from_sentences(plain(400)), tokenize=spell, unknown_id=0)
    words = [word for sentence in plain(400) for word in sentence.split()]
    unknown = sum(word[0].isupper() for word in words)
    assert report.unknown == unknown / (len(words) + 800)
    assert report.unknown_sentences == 1
    assert "unknown_tokens" in keys(report, "warning")


def test_running_prose_is_to_be_split() -> None:
    sentences = plain(900)
    prose = [" ".join(sentences[i : i + 3]) for i in range(0, 900, 3)]
    report = examine(Corpus.from_sentences(prose), max_tokens=16)
    assert report.sentences_per_line == 3
    assert {"prose", "length"} <= keys(report, "warning")
    assert {f.fix for f in report.findings if f.key == "prose"} == {"--split-sentences"}
    assert "prose" not in keys(examine(Corpus.from_sentences(prose), is_split=True))


# Trouble


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("Letters are los\ufffd here for good", "replacement_character"),
        ("Le cafÃ© est fermÃ© le lundi matin", "mojibake"),
        ("It isnâ€™t what it seems to be", "mojibake"),
        ("A bell \x07 rings in the text", "control_character"),
        ("Black &amp; white and &#8217; more", "html_entity"),
        ("A line with <br/> and <b>bold</b> words", "html_tag"),
        ("See https://example.org/page for more of it", "url"),
    ],
)
def test_signs_of_trouble_are_counted_once_a_sentence(line: str, key: str) -> None:
    report = examine(Corpus.from_sentences([*plain(180), *(f"{line} {line} {i}" for i in range(20))]))
    counted = {name: count for name, count in report.trouble.items() if count}
    assert {name.replace(" ", "_").lower(): count for name, count in counted.items()} == {key: 20}
    assert key in keys(report)
    assert all(example in f"{line} {line} 0…" or "…" in example for example in report.trouble_examples.values())


@pytest.mark.parametrize("line", ["Ça coûte 5 € à Ålesund – « déjà vu » naïve", "Größe: 5 < 6 & 7 > 3", "Â la carte ð"])
def test_good_text_is_no_trouble(line: str) -> None:
    report = examine(Corpus.from_sentences([line, *plain(50)]))
    assert not any(report.trouble.values())


def test_short_lines_repeats_and_duplicates() -> None:
    corpus = Corpus.from_sentences([*plain(100), *["Contents", "See also"] * 30, *(f"Part {i}" for i in range(20))])
    report = examine(corpus)
    assert report.short == 22
    assert report.repeated == [("Contents", 30), ("See also", 30)]
    assert report.duplicates == 58
    assert "duplicates" in keys(report, "note")
    assert "short" in keys(report, "warning")


def test_characters_are_words_where_there_are_no_spaces() -> None:
    corpus = Corpus.from_sentences([f"今天天气很好，我们去公园玩{chr(0x4E00 + i)}。" for i in range(200)])
    report = examine(corpus)
    assert report.short == 0
    assert report.lengths["50%"] > 10
    assert report.scripts == {"Han": 1.0}
    assert next(iter(report.languages)) in ("zh", "wuu", "yue", "ja")


def test_scripts_and_languages_that_are_mixed() -> None:
    russian = [f"Дом номер {i} стоит на берегу реки и смотрит на старый город." for i in range(100)]
    report = examine(Corpus.from_sentences([*plain(150), *russian]))
    assert set(report.scripts) == {"Latin", "Cyrillic"}
    assert {"scripts", "languages"} <= keys(report, "note")
    assert set(list(report.languages)[:2]) == {"en", "ru"}


def test_documents() -> None:
    sentences = plain(60)
    with_gaps = [line for i, line in enumerate(sentences) for line in ([""] if i % 6 == 0 else []) + [line]]
    report = examine(Corpus.from_sentences(with_gaps, documents=True))
    assert report.documents == 10
    assert report.followed == pytest.approx(50 / 60)
    assert "documents" in keys(report, "good")
    assert "documents" not in keys(examine(Corpus.from_sentences(with_gaps)))
    one = examine(Corpus.from_sentences(plain(1500), documents=True))
    assert "--document COLUMN" in next(f.fix for f in one.findings if f.key == "documents")


@settings(max_examples=60)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=2, max_size=12))
def test_any_text_can_be_examined(lines: list[str]) -> None:
    if len({s for s in (" ".join(line.split()) for line in lines) if s}) < 3:
        return
    report = examine(Corpus.from_sentences(lines), tokenize=spell, limits=Limits(5, 3))
    assert report.sentences >= 2
    assert all(np.isfinite([report.cut, report.lost, report.near_duplicates]))
