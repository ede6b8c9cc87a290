"""`diffcse doctor`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from tyro.conf import Positional, arg

from diffcse.config import Text
from diffcse.errors import InputError

if TYPE_CHECKING:
    from diffcse.text.survey import Report


@dataclass(frozen=True)
class Doctor:
    """Look at a text before training on it: what repeats, what is cut off, what is broken, and which option helps."""

    corpus: Annotated[Positional[tuple[str, ...]], arg(metavar="CORPUS...", help_behavior_hint="")]
    """Files or globs: .txt .csv .tsv .jsonl .parquet, also .gz .xz .zst; or hub:OWNER/NAME."""
    model: str | None = None
    """Count lengths in the tokens of this checkpoint: a folder, a hub id, or "mini". Words, if not given."""
    max_tokens: int = 32
    """What training will cut sentences to."""
    batch_size: int = 64
    """Of training: how many sentences are negatives of each other."""
    text: Text = field(default_factory=Text)
    json: Path | None = None
    """Also write everything counted to this file."""

    def __call__(self, console: Console) -> None:
        if not self.corpus:
            raise InputError("no corpus: give one or more text files, e.g. diffcse doctor sentences.txt")
        for name, least in (("max_tokens", 4), ("batch_size", 2)):
            if getattr(self, name) < least:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {least}")
        from diffcse.files import write_json
        from diffcse.terminal import say
        from diffcse.text.corpus import Corpus, read_corpus
        from diffcse.text.examples import read_examples
        from diffcse.text.lines import check_language
        from diffcse.text.survey import examine

        options: dict[str, Any] = {} if self.model is None else _tokenizer(self.model)
        if self.text.supervised:
            examples = read_examples(self.corpus, text=self.text)
            say(console, f"examples {examples.summary()}")
            corpus = Corpus.from_sentences(list(examples.sentences))
        else:
            # A corpus that is not split has no language; the doctor wants it to tell prose from sentences.
            check_language(self.text.language)
            text = self.text if self.text.split_sentences else dataclasses.replace(self.text, language=Text.language)
            corpus = read_corpus(self.corpus, text=text, documents=True)
            say(console, f"corpus   {corpus.summary()}")
        report = examine(
            corpus,
            max_tokens=self.max_tokens,
            batch_size=self.batch_size,
            language=self.text.language,
            is_split=self.text.split_sentences,
            **options,
        )
        _show(report, console, self.model)
        if self.json:
            write_json(self.json, {"corpus": list(self.corpus), "sha256": corpus.sha256, **report.to_dict()})
            say(console, f"written  {self.json}")


def _tokenizer(model: str) -> dict[str, Any]:
    from diffcse.method.build import load_tokenizer, named

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


def _show(report: Report, console: Console, model: str | None) -> None:
    from rich.markup import escape

    from diffcse.terminal import say, table

    if report.sampled < report.sentences:
        say(console, f"sample   {report.sampled:,} of {report.sentences:,} sentences, where not all were looked at")
    most = max(count for *_, count in report.histogram)
    rows = [
        [
            f"{f'{first} to {last}' if first != last else first:>12}  {_bar(count / most)}",
            f"{count:,}",
            f"{count / report.sampled if model else count / report.sentences:.1%}",
        ]
        for first, last, count in report.histogram
    ]
    unit = f"tokens of {model}, special ones included" if model else "words"
    quantiles = "  ".join(f"{name} {value}" for name, value in report.lengths.items())
    console.print(table("", [f"length in {unit}", "sentences", "share"], rows, caption=quantiles))
    repeats = [
        *(("line", text, times) for text, times in report.repeated[:5]),
        *(("beginning", text, times) for text, times in report.prefixes[:5]),
        *(("end", text, times) for text, times in report.suffixes[:5]),
    ]
    if repeats:
        rows = [[f"{kind:<9}  {_cut(text)}", f"{times:,}"] for kind, text, times in repeats]
        console.print(table("", ["what repeats (beginnings and ends in the sample)", "times"], rows))
    if report.near_examples:
        say(console, "Near-duplicates, e.g.")
        for pair in report.near_examples[:2]:
            for text in pair:
                say(console, f"  {_cut(text, 150)}")
            say(console, "")
    order = list(_COLOURS)
    for finding in sorted(report.findings, key=lambda finding: order.index(finding.level)):
        colour = _COLOURS[finding.level]
        console.print(f"[{colour}]{finding.level:<8}[/] {escape(finding.found)}", highlight=False, soft_wrap=True)
        if finding.effect:
            say(console, f"         effect: {finding.effect}")
        if finding.fix:
            say(console, f"         to do:  {finding.fix}")


def _bar(share: float) -> str:
    return "█" * round(24 * share) or "▏" * (share > 0)


def _cut(text: str, width: int = 90) -> str:
    return text if len(text) <= width else f"{text[: width - 2]} …"
