"""What the survey counts, against plain loops, on texts with one trouble each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcse.errors import InputError
from diffcse.text import survey as survey_module
from diffcse.text.advice import advise
from diffcse.text.corpus import Corpus
from diffcse.text.survey import Limits, examine
from tests.text.samples import plain, spell


def test_a_clean_text() -> None:
    report = examine(Corpus.from_sentences(plain(2000)))
    assert next(iter(report.languages)) == "en"
    assert report.scripts == {"Latin": 1.0}
    assert (report.short, set(report.trouble.values())) == (0, {0})


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch) -> None:
    monkeypatch.setattr(survey_module, "find_spec", lambda name: None if name == "rensa" else True)
    with pytest.raises(InputError, match=r'rensa.*pip install "diffcse\[doctor\]"'):
        examine(Corpus.from_sentences(["One.", "Two."]))


def test_the_same_corpus_gets_the_same_report() -> None:
    corpus = Corpus.from_sentences(
        [*plain(500), *(f"Line {i} of the very same old list of things." for i in range(300))]
    )
    limits = Limits(sample=200, languages=50)
    one, other = (examine(corpus, limits=limits).to_dict() for _ in range(2))
    assert one == other
    assert (one["sampled"], one["languages_sampled"]) == (200, 50)


# Lengths and tokens


def test_lengths_in_tokens_and_what_is_cut() -> None:
    sentences = [" ".join(f"w{i}x{j}" for j in range(i)) for i in range(1, 101)]
    report = examine(Corpus.from_sentences(sentences), tokenize=spell, unknown_id=0, max_tokens=32)
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


def test_unknown_tokens() -> None:
    report = examine(Corpus.from_sentences(plain(400)), tokenize=spell, unknown_id=0)
    words = [word for sentence in plain(400) for word in sentence.split()]
    unknown = sum(word[0].isupper() for word in words)
    assert report.unknown == unknown / (len(words) + 800)
    assert report.unknown_sentences == 1


def test_sentences_in_a_line() -> None:
    sentences = plain(900)
    prose = [" ".join(sentences[i : i + 3]) for i in range(0, 900, 3)]
    assert examine(Corpus.from_sentences(prose)).sentences_per_line == 3


def test_phrases_that_many_sentences_share() -> None:
    report = examine(Corpus.from_sentences([*plain(400), *(f"The page was last edited on {i}" for i in range(60))]))
    assert report.prefixes == [("The page was last", 60)]
    assert report.suffixes == []


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
    assert set(list(report.languages)[:2]) == {"en", "ru"}


def test_documents() -> None:
    with_gaps = [line for i, line in enumerate(plain(60)) for line in ([""] if i % 6 == 0 else []) + [line]]
    report = examine(Corpus.from_sentences(with_gaps, documents=True))
    assert report.documents == 10
    assert report.followed == pytest.approx(50 / 60)
    assert examine(Corpus.from_sentences(with_gaps)).documents is None


@settings(max_examples=60)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=2, max_size=12))
def test_any_text_can_be_examined(lines: list[str]) -> None:
    if len({s for s in (" ".join(line.split()) for line in lines) if s}) < 3:
        return
    report = examine(Corpus.from_sentences(lines), tokenize=spell, limits=Limits(5, 3))
    assert report.sentences >= 2
    assert advise(report)
    assert all(np.isfinite([report.cut, report.lost, report.near_duplicates]))
