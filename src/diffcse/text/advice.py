"""What the facts of a text mean for training, and which option helps.

The recipe `adapt` learns from the words that texts share. So it matters how many texts there are, what the encoder
cuts off or does not know, and whether words can be told apart.

Contrastive training uses all other sentences of a batch as negatives and reads the first `max_tokens` tokens of each.
So it also matters what repeats and what is not a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from diffcse.config import ADAPT_FEWEST, ADAPT_MOST
from diffcse.text.survey import Survey

Level = Literal["warning", "note", "good"]


@dataclass(frozen=True)
class Finding:
    """A fact, its effect on training, and what to do."""

    key: str
    level: Level
    """"warning": fix it before training; "note": worth knowing; "good": nothing to do."""
    fact: str
    effect: str = ""
    """The effect on training."""
    fix: str = ""
    """An option or a step; empty if nothing is to be done."""


def advise(
    survey: Survey, *, model_tokens: int | None = None, language: str = "en", is_split: bool = False
) -> list[Finding]:
    """Judge a survey for the training of all weights.

    Args:
        survey: the facts.
        model_tokens: the model's longest input in tokens.
        language: the rules that split lines into sentences.
        is_split: whether the lines were split into sentences already.
    """
    return [
        _size(survey),
        *_duplicates(survey),
        _near_duplicates(survey),
        *_prose(survey, language, is_split),
        _length(survey, model_tokens, is_split),
        *_unknown(survey),
        _scripts(survey),
        _languages(survey),
        *_shared_phrases(survey),
        *_trouble(survey),
        *_short(survey),
        *_documents(survey),
    ]


def advise_adapt(survey: Survey, *, files: str, is_split: bool = False) -> list[Finding]:
    """Judge a survey for the recipe `adapt`; `survey.limit` is what the encoder reads.

    Args:
        survey: the facts.
        files: the corpus with its options, as a command line has them.
        is_split: whether the lines were split into sentences already.
    """
    return [
        _adapt_size(survey),
        *_duplicates(survey),
        _adapt_near_duplicates(survey, files),
        _adapt_length(survey, is_split),
        *_unknown(survey),
        *_unspaced(survey),
        _scripts(survey),
        _languages(survey),
        *_trouble(survey),
    ]


def _adapt_size(s: Survey) -> Finding:
    fact = f"{s.sentences:,} different texts"
    if s.sentences < ADAPT_FEWEST:
        effect = f"training refuses a text of fewer than {ADAPT_FEWEST}"
        return Finding("size", "warning", fact, effect, "add similar texts")
    if s.sentences < 1_000:
        return Finding("size", "note", fact, "so few teach little: expect a small gain", "add similar texts")
    if s.sentences <= ADAPT_MOST:
        return Finding("size", "good", f"{fact}: all are used")
    return Finding("size", "good", f"{fact}: {ADAPT_MOST:,} of them are used, which --seed draws")


def _adapt_near_duplicates(s: Survey, files: str) -> Finding:
    share = s.near_duplicate_sentences
    fact = f"{share:.1%} of {s.sampled:,} sampled texts have a near-duplicate"
    if share < 0.05:
        return Finding("near_duplicates", "good", fact)
    effect = "words of texts that repeat count too often"
    level: Level = "warning" if share > 0.2 else "note"
    return Finding("near_duplicates", level, fact, effect, f"diffcse dedup {files} --output unique.csv")


def _adapt_length(s: Survey, is_split: bool) -> Finding:
    fact = f"{s.cut:.1%} of texts are longer than the {s.limit} {s.unit} that the encoder reads, {s.lost:.1%} of all "
    fact += f"{s.unit} are cut off"
    if s.cut < 0.05:
        return Finding("length", "good", fact)
    effect = "the encoder never sees what is cut off: texts with the same beginning look alike"
    fix = "--split-sentences, also for what you search later" if _is_prose(s, is_split) else "a model that reads more"
    return Finding("length", "warning" if s.cut > 0.2 else "note", fact, effect, fix)


def _unspaced(s: Survey) -> Iterator[Finding]:
    if s.unspaced > 0.05:
        fact = f"{s.unspaced:.1%} of letters are of a script without spaces between words"
        yield Finding("unspaced", "note", fact, "training takes two characters in a row for a word")


def _size(s: Survey) -> Finding:
    fact = f"{s.sentences:,} different sentences: {s.sentences // s.batch_size:,} batches of {s.batch_size}"
    if s.sentences >= 10_000:
        return Finding("size", "good", fact)
    return Finding(
        "size",
        "warning" if s.sentences < 1_000 else "note",
        fact,
        "this is little text; published results use a million sentences",
        "add similar text, or train for more --epochs and watch the dev score",
    )


def _duplicates(s: Survey) -> Iterator[Finding]:
    if s.duplicates:
        total = s.duplicates + s.sentences
        share = f"{s.duplicates / total:.1%}"
        fact = f"{s.duplicates:,} of {total:,} sentences ({share}) repeat an earlier one"
        yield Finding("duplicates", "note", fact, "none: the reader drops repeated sentences")


def _near_duplicates(s: Survey) -> Finding:
    fact = (
        f"{s.near_duplicates:.2g} near-duplicate pairs in an average batch of {s.batch_size}; "
        f"{s.near_duplicate_sentences:.1%} of {s.sampled:,} sampled sentences have a near-duplicate"
    )
    if s.near_duplicates < 0.05:
        return Finding("near_duplicates", "good", fact)
    # The number of pairs grows with the square of the batch size; this size has 0.05 pairs.
    smaller = max(2, 2 ** int(math.log2(s.batch_size * math.sqrt(0.05 / s.near_duplicates))))
    option = f", or set --batch-size {smaller}" if 8 <= smaller < s.batch_size else ""
    return Finding(
        "near_duplicates",
        "warning" if s.near_duplicates >= 0.5 else "note",
        fact,
        "each pair is a false negative: training pushes two sentences of the same meaning apart",
        f"keep one sentence of each template or numbered list{option}",
    )


def _is_prose(s: Survey, is_split: bool) -> bool:
    return not is_split and s.sentences_per_line > 1.3


def _prose(s: Survey, language: str, is_split: bool) -> Iterator[Finding]:
    if _is_prose(s, is_split):
        yield Finding(
            "prose",
            "warning" if s.sentences_per_line > 1.7 else "note",
            f"{s.sentences_per_line:.1f} sentences in an average line",
            "training learns one embedding for a whole line and never reads what is cut off",
            "--split-sentences" + (f" --language {language}" if language != "en" else ""),
        )


def _length(s: Survey, model_tokens: int | None, is_split: bool) -> Finding:
    hint = " (--model NAME counts the tokens of a model)" if s.unit == "words" else ""
    fact = (
        f"{s.cut:.1%} of sentences are longer than {s.limit} {s.unit}, {s.lost:.1%} of all {s.unit} are cut off{hint}"
    )
    if s.cut < 0.05:
        return Finding("length", "good", fact)
    enough = math.ceil(s.lengths["95%"] / 8) * 8
    enough = min(enough, model_tokens or enough)
    return Finding(
        "length",
        "warning" if s.cut > 0.2 else "note",
        fact,
        "training never reads what is cut off, so sentences with the same beginning look alike",
        "use --split-sentences first, then run doctor again"
        if _is_prose(s, is_split)
        else f"--max-tokens {enough} (slower in proportion)",
    )


def _unknown(s: Survey) -> Iterator[Finding]:
    if s.unknown is not None and s.unknown > 0.002:
        yield Finding(
            "unknown_tokens",
            "warning" if s.unknown > 0.01 else "note",
            f"{s.unknown:.1%} of tokens, in {s.unknown_sentences:.0%} of sentences, are unknown to the tokenizer",
            "all unknown words look the same to the model",
            "start from a checkpoint for the text's language and script: --model NAME",
        )


def _scripts(s: Survey) -> Finding:
    names = [f"{name} {share:.1%}" for name, share in s.scripts.items() if share >= 0.005]
    fact = f"scripts: {', '.join(names) or 'none (no letters)'}"
    second = [*s.scripts.values(), 0.0, 0.0][1]
    is_japanese = set(list(s.scripts)[:3]) <= {"Han", "Hiragana", "Katakana"}
    if second <= 0.05 or is_japanese:
        return Finding("scripts", "good", fact)
    return Finding(
        "scripts",
        "note",
        fact,
        "the script alone tells such sentences apart, so they are easy negatives",
        "start from a multilingual checkpoint (--model NAME), or train one model per language",
    )


def _languages(s: Survey) -> Finding:
    first, *others = s.languages.values()
    names = ", ".join(f"{name} {share:.1%}" for name, share in list(s.languages.items())[:4])
    fact = f"languages, guessed in {s.languages_sampled:,} sentences: {names}"
    if first >= 0.8 or sum(others[:2]) <= 0.1:
        return Finding("languages", "good", fact)
    return Finding(
        "languages",
        "note",
        fact,
        "a checkpoint for one language knows little of the others (the guess is often wrong for short sentences)",
        "start from a multilingual checkpoint (--model NAME), or keep one language",
    )


def _shared_phrases(s: Survey) -> Iterator[Finding]:
    for key, verb, phrases in (("prefixes", "begin", s.prefixes), ("suffixes", "end", s.suffixes)):
        total = sum(count for _, count in phrases)
        text, most = phrases[0] if phrases else ("", 0)
        if most > 0.02 * s.sampled or total > 0.1 * s.sampled:
            yield Finding(
                key,
                "warning" if most > 0.05 * s.sampled else "note",
                f"{total / s.sampled:.1%} of sentences {verb} with one of {len(phrases)} phrases, "
                f"{most / s.sampled:.1%} with '{text}'",
                "a shared phrase tells no sentences apart and uses up tokens of the limit",
                "remove the phrase, or leave such lines out",
            )


_TROUBLE = {  # sign -> (with article, effect, fix)
    "replacement character": ("a replacement character", "letters are lost", "decode the source with its encoding"),
    "mojibake": ("mojibake", "words become rare junk tokens", "repair the text, for example with the library ftfy"),
    "control character": ("a control character", "it is invisible but changes the tokens", "remove these characters"),
    "HTML entity": ("an HTML entity", "markup uses up tokens", "unescape the text (html.unescape in Python)"),
    "HTML tag": ("an HTML tag", "markup uses up tokens", "extract the text from the pages first"),
    "URL": ("a URL", "addresses use up tokens", "remove them if your later texts have none"),
}


def _trouble(s: Survey) -> Iterator[Finding]:
    for name, count in s.trouble.items():
        share = count / s.sentences
        if count and (share > 0.0005 or name in ("replacement character", "mojibake")):
            what, effect, fix = _TROUBLE[name]
            sentences = f"{count:,} sentence{'s' * (count != 1)}"
            fact = f"{sentences} ({share:.2%}) with {what}, e.g. {s.trouble_examples[name]}"
            level: Level = "warning" if share > 0.01 and name != "URL" else "note"
            yield Finding(name.replace(" ", "_").lower(), level, fact, effect, fix)


def _short(s: Survey) -> Iterator[Finding]:
    if s.short > 0.02 * s.sentences:
        yield Finding(
            "short",
            "warning" if s.short > 0.1 * s.sentences else "note",
            f"{s.short:,} sentences ({s.short / s.sentences:.1%}) have one or two words: headings, names, captions",
            "they teach little: masking leaves no context to guess from",
            "leave them out",
        )


def _documents(s: Survey) -> Iterator[Finding]:
    if s.documents is None:
        return
    documents = f"{s.documents:,} document{'s' * (s.documents != 1)}"
    fact = f"{documents}; {s.followed:.1%} of sentences have a next sentence in their document"
    effect = "this matters only to training with neighbours (--positives, --pairing)"
    if s.documents == 1 and s.sentences > 1000:
        effect += ": it would pair lines of different documents"
        yield Finding(
            "documents", "note", fact, effect, "end each document with an empty line, or set --document COLUMN"
        )
    elif s.followed < 0.5:
        yield Finding("documents", "note", fact, f"{effect}: it would find few")
    else:
        yield Finding("documents", "good", fact)
