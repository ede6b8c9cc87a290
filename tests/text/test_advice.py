"""Advice on texts that have one fault each."""

from __future__ import annotations

from typing import Any

import pytest

from diffcse.text.advice import Finding, advise, advise_adapt
from diffcse.text.corpus import Corpus
from diffcse.text.survey import examine
from tests.text.samples import plain, spell


def findings(
    sentences: list[str], *, documents: bool = False, advice: dict[str, Any] | None = None, **options: Any
) -> dict[str, Finding]:
    survey = examine(Corpus.from_sentences(sentences, documents=documents), **options)
    return {finding.key: finding for finding in advise(survey, **(advice or {}))}


def keys(found: dict[str, Finding], level: str) -> set[str]:
    return {finding.key for finding in found.values() if finding.level == level}


def test_a_clean_text_has_no_warning() -> None:
    found = findings(plain(2000))
    assert keys(found, "warning") == set()
    assert {"near_duplicates", "length", "scripts", "languages"} <= keys(found, "good")


def test_a_template_is_a_warning() -> None:
    found = findings([*plain(1400), *(f"The page was last edited on day {i} and is kept for now." for i in range(600))])
    assert {"near_duplicates", "prefixes", "suffixes"} <= keys(found, "warning")


def test_a_smaller_batch_is_advised_where_that_helps() -> None:
    sentences = [*plain(3000), *(f"The page number {i} of this very old river site" for i in range(60))]
    assert "--batch-size 16" in findings(sentences)["near_duplicates"].fix


@pytest.mark.parametrize("most", [64, 200])
def test_a_limit_for_long_sentences(most: int) -> None:
    sentences = [" ".join(f"w{i}x{j}" for j in range(i)) for i in range(1, 101)]
    found = findings(sentences, tokenize=spell, unknown_id=0, max_tokens=32, advice={"model_tokens": most})
    assert found["length"].level == "warning"
    assert f"--max-tokens {min(most, 104)}" in found["length"].fix  # 95 % have at most 98 tokens


def test_running_prose_is_to_be_split() -> None:
    sentences = plain(900)
    prose = [" ".join(sentences[i : i + 3]) for i in range(0, 900, 3)]
    found = findings(prose, max_tokens=16)
    assert {"prose", "length"} <= keys(found, "warning")
    assert (found["prose"].fix, "--split-sentences" in found["length"].fix) == ("--split-sentences", True)
    german = findings(prose, language="de", advice={"language": "de"})
    assert german["prose"].fix == "--split-sentences --language de"
    split = findings(prose, max_tokens=16, advice={"is_split": True})
    assert "prose" not in split
    assert "--max-tokens" in split["length"].fix


def test_unknown_tokens_short_lines_and_duplicates() -> None:
    found = findings([*plain(100), *["Contents", "See also"] * 30, *(f"Part {i}" for i in range(20))])
    assert found["duplicates"].level == "note"
    assert {"short", "size"} <= keys(found, "warning")
    assert "unknown_tokens" in keys(findings(plain(400), tokenize=spell, unknown_id=0), "warning")


@pytest.mark.parametrize("key", ["replacement_character", "html_tag"])
def test_signs_of_trouble(key: str) -> None:
    line = {"replacement_character": "Letters are los\ufffd here", "html_tag": "A line with <br/> in it"}[key]
    assert findings([*plain(180), *(f"{line} {i}" for i in range(20))])[key].level == "warning"
    assert key not in findings(plain(180))


def test_scripts_and_languages_that_are_mixed() -> None:
    russian = [f"Дом номер {i} стоит на берегу реки и смотрит на старый город." for i in range(100)]
    assert {"scripts", "languages"} <= keys(findings([*plain(150), *russian]), "note")


def test_documents() -> None:
    with_gaps = [line for i, line in enumerate(plain(60)) for line in ([""] if i % 6 == 0 else []) + [line]]
    assert findings(with_gaps, documents=True)["documents"].level == "good"
    assert "documents" not in findings(with_gaps)
    assert "--document COLUMN" in findings(plain(1500), documents=True)["documents"].fix


def adapt_findings(sentences: list[str], **options: Any) -> dict[str, Finding]:
    survey = examine(Corpus.from_sentences(sentences), **options)
    return {finding.key: finding for finding in advise_adapt(survey, files="a.csv --column body")}


def test_adapt_judges_size_duplicates_and_what_the_encoder_cuts_off() -> None:
    assert [adapt_findings(plain(n))["size"].level for n in (150, 300, 1200)] == ["warning", "note", "good"]
    found = adapt_findings([*plain(1400), *(f"The page was last edited on day {i} and is kept." for i in range(600))])
    assert found["near_duplicates"].level == "warning"
    assert found["near_duplicates"].fix.startswith("diffcse dedup a.csv --column body --output ")
    sentences = plain(900)
    prose = [" ".join(sentences[i : i + 3]) for i in range(0, 900, 3)]
    assert "--split-sentences" in adapt_findings(prose, max_tokens=16)["length"].fix
    assert adapt_findings(prose, max_tokens=500)["length"].level == "good"
    assert not {"prose", "documents", "short", "prefixes"} & adapt_findings(prose).keys()


def test_words_without_spaces_are_named() -> None:
    chinese = [f"第{i}条河从山上流到海里，两岸有许多古老的村庄和桥梁" for i in range(300)]
    assert "unspaced" in adapt_findings(chinese)
    assert "unspaced" not in adapt_findings(plain(300))
