"""`diffcse doctor`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from rich.console import Console
from tyro.conf import Positional, arg

from diffcse.config import Text
from diffcse.errors import InputError

if TYPE_CHECKING:
    from diffcse.text.advice import Finding
    from diffcse.text.corpus import Corpus
    from diffcse.text.survey import Survey


@dataclass(frozen=True)
class Doctor:
    """Check a text before training: what repeats, what is cut off, what is broken, and which option helps."""

    COMMON: ClassVar = (
        *("model", "max_tokens", "batch_size", "text.column", "text.split_sentences", "text.language", "json"),
    )

    corpus: Annotated[Positional[tuple[str, ...]], arg(metavar="CORPUS...", help_behavior_hint="")]
    """Files or globs: .txt .csv .tsv .jsonl .json .parquet, also .gz .xz .zst; or hub:OWNER/NAME."""
    model: str | None = None
    """Count lengths in the tokens of this checkpoint: a folder, a hub id, or "mini". Unset: in words."""
    max_tokens: int = 32
    """Training cuts a sentence to this many tokens."""
    batch_size: int = 64
    """Sentences in a training batch; each is a negative for all others."""
    text: Text = field(default_factory=Text)
    json: Path | None = None
    """Also write all facts and findings to this file."""

    def __call__(self, console: Console) -> None:
        self._check()
        from diffcse.files import write_json
        from diffcse.terminal import say
        from diffcse.text.advice import advise
        from diffcse.text.survey import examine, require_extra

        require_extra()  # before the corpus is read, which can take long
        tokens: dict[str, Any] = {} if self.model is None else _tokenizer(self.model)
        model_tokens = tokens.pop("model_tokens", None)
        corpus = self._read(console)
        language = self.text.language
        survey = examine(corpus, max_tokens=self.max_tokens, batch_size=self.batch_size, language=language, **tokens)
        findings = advise(survey, model_tokens=model_tokens, language=language, is_split=self.text.split_sentences)
        _show_survey(survey, console, self.model)
        _show_findings(findings, console)
        if self.json:
            notes = [str(note) for note in corpus.counts.notes]
            facts = {"corpus": list(self.corpus), "sha256": corpus.sha256, "notes": notes, **survey.to_dict()}
            write_json(self.json, facts | {"findings": [dataclasses.asdict(finding) for finding in findings]})
            say(console, f"written  {self.json}")

    def _check(self) -> None:
        if not self.corpus:
            raise InputError("no corpus: give one or more text files, e.g. diffcse doctor sentences.txt")
        for name, least in (("max_tokens", 4), ("batch_size", 2)):
            if getattr(self, name) < least:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {least}")

    def _read(self, console: Console) -> Corpus:
        from diffcse.terminal import say
        from diffcse.text.corpus import Corpus, read_corpus
        from diffcse.text.examples import read_examples
        from diffcse.text.prose import check_language

        if self.text.supervised:
            examples = read_examples(self.corpus, text=self.text)
            say(console, f"examples {examples.summary()}")
            return Corpus.from_sentences(list(examples.sentences))
        # Without --split-sentences the reader refuses a language, but the survey needs it to recognise prose.
        check_language(self.text.language)
        text = self.text if self.text.split_sentences else dataclasses.replace(self.text, language=Text.language)
        corpus = read_corpus(self.corpus, text=text, documents=True)
        say(console, f"corpus   {corpus.summary()}")
        return corpus


def _tokenizer(model: str) -> dict[str, Any]:
    from diffcse.method.loading import load_tokenizer, named

    tokenizer = load_tokenizer(named(model))

    def tokenize(sentences: list[str]) -> list[list[int]]:
        return tokenizer(sentences, truncation=False, verbose=False)["input_ids"]

    most = tokenizer.model_max_length
    return {
        "tokenize": tokenize,
        "unknown_id": tokenizer.unk_token_id,
        "model_tokens": most if most < 1_000_000 else None,
    }


_COLOURS = {"warning": "red", "note": "yellow", "good": "green"}


def _show_survey(survey: Survey, console: Console, model: str | None) -> None:
    from diffcse.terminal import say, table

    if survey.sampled < survey.sentences:
        say(console, f"sample   {survey.sampled:,} of {survey.sentences:,} sentences")
    most = max(count for *_, count in survey.histogram)
    counted = survey.sampled if model else survey.sentences
    rows = [
        [
            f"{f'{first} to {last}' if first != last else first:>12}  {_bar(count / most)}",
            f"{count:,}",
            f"{count / counted:.1%}",
        ]
        for first, last, count in survey.histogram
    ]
    unit = f"tokens of {model}, special ones included" if model else "words"
    quantiles = "  ".join(f"{name} {value}" for name, value in survey.lengths.items())
    console.print(table("", [f"length in {unit}", "sentences", "share"], rows, caption=quantiles))
    groups = (("line", survey.repeated), ("beginning", survey.prefixes), ("end", survey.suffixes))
    rows = [[f"{kind:<9}  {_cut(text)}", f"{times:,}"] for kind, phrases in groups for text, times in phrases[:5]]
    if rows:
        console.print(table("", ["what repeats (beginnings and ends: in the sample)", "times"], rows))
    if survey.near_examples:
        say(console, "Near-duplicates, e.g.")
        for pair in survey.near_examples[:2]:
            for text in pair:
                say(console, f"  {_cut(text, 150)}")
            say(console, "")


def _show_findings(findings: list[Finding], console: Console) -> None:

    from diffcse.terminal import say

    order = list(_COLOURS)
    for finding in sorted(findings, key=lambda finding: order.index(finding.level)):
        say(console, f"{finding.level:<8} {finding.fact}", _COLOURS[finding.level])
        if finding.effect:
            say(console, f"         effect: {finding.effect}")
        if finding.fix:
            say(console, f"         to do:  {finding.fix}")


def _bar(share: float) -> str:
    return "█" * round(24 * share) or "▏" * (share > 0)


def _cut(text: str, width: int = 90) -> str:
    return text if len(text) <= width else f"{text[: width - 2]} …"
