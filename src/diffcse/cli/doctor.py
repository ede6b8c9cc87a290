"""`diffcse doctor`."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from rich.console import Console
from tyro.conf import Positional, arg

from diffcse.cli.paths import check_files, check_model
from diffcse.config import ADAPT_FEWEST, Config, Text, load_recipe
from diffcse.errors import InputError

if TYPE_CHECKING:
    from diffcse.text.advice import Finding
    from diffcse.text.corpus import Corpus
    from diffcse.text.survey import Survey


@dataclass(frozen=True)
class Doctor:
    """Check a text before training: what repeats, what is cut off, what is broken, and which option helps. The last
    line is the command that trains on this text."""

    COMMON: ClassVar = ("model", "recipe", "text.column", "text.encoding", "text.split_sentences", "json")

    corpus: Annotated[Positional[tuple[str, ...]], arg(metavar="CORPUS...", help_behavior_hint="")]
    """Files or globs: .txt .csv .tsv .jsonl .json .parquet, also .gz .xz .zst; or hub:OWNER/NAME."""
    model: str | None = None
    """The encoder that training starts from: a folder, a hub id, or "mini". Unset: mini; with a recipe for another
    start, lengths are then in words."""
    recipe: str = "adapt"
    """Advise for this recipe of `diffcse train`."""
    max_tokens: int | None = None
    """Recipes that train weights: sentences are cut to this many tokens; the recipe's own if not given."""
    batch_size: int | None = None
    """Recipes that train weights: sentences in a batch; the recipe's own if not given."""
    text: Text = field(default_factory=Text)
    json: Path | None = None
    """Also write all facts and findings to this file."""

    @classmethod
    def defaults(cls, arguments: Sequence[str]) -> Doctor:
        """The text options of the recipe that `arguments` name. The other options override them."""
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--recipe")
        recipe = first.parse_known_args(arguments)[0].recipe or cls.recipe
        return cls(corpus=(), recipe=recipe, text=load_recipe(recipe).text)

    def __call__(self, console: Console) -> None:
        recipe = load_recipe(self.recipe)
        self._check(recipe)
        from diffcse.files import write_json
        from diffcse.terminal import say
        from diffcse.text.advice import advise, advise_adapt
        from diffcse.text.survey import examine, require_extra

        require_extra()  # before the corpus is read, which can take long
        adapts, language, is_split = recipe.method.learn == "map", self.text.language, self.text.split_sentences
        model = self.model or (recipe.method.model if recipe.method.model == "mini" else None)
        tokens: dict[str, Any] = {} if model is None else _tokenizer(model)
        model_tokens = tokens.pop("model_tokens", None)
        training = recipe.training
        limit = (model_tokens or _NO_LIMIT) if adapts else self.max_tokens or training.max_tokens
        batch_size = self.batch_size or training.batch_size
        corpus = self._read(console, documents=not adapts)
        survey = examine(corpus, max_tokens=limit, batch_size=batch_size, language=language, **tokens)
        if adapts:
            findings = advise_adapt(
                survey, files=self._files("column", "encoding", "quoting", "columns", least=Text()), is_split=is_split
            )
        else:
            findings = advise(survey, model_tokens=model_tokens, language=language, is_split=is_split)
        _show_survey(survey, console, model, adapts)
        _show_findings(findings, console)
        if self.json:
            notes = [str(note) for note in corpus.counts.notes]
            facts = {"corpus": list(self.corpus), "sha256": corpus.sha256, "notes": notes, **survey.to_dict()}
            write_json(self.json, facts | {"findings": [dataclasses.asdict(finding) for finding in findings]})
            say(console, f"written  {self.json}")
        if not adapts or survey.sentences >= ADAPT_FEWEST:
            console.print(f"\n{self._command(recipe)}", markup=False, highlight=False, soft_wrap=True)

    def _check(self, recipe: Config) -> None:
        if not self.corpus:
            raise InputError("no corpus: give one or more text files, e.g. diffcse doctor sentences.txt")
        adapts = recipe.method.learn == "map"
        for name, least in (("max_tokens", 4), ("batch_size", 2)):
            value, option = getattr(self, name), f"--{name.replace('_', '-')}"
            if value is not None and value < least:
                raise InputError(f"{option} {value}: must be at least {least}")
            if value is not None and adapts:
                raise InputError(f"{option}: goes with a recipe that trains weights, such as --recipe mini_cpu")
        if adapts and self.text.supervised:
            raise InputError(
                "--anchor: the recipe adapt reads plain text. Pairs train with, for example, --recipe mini_cpu"
            )
        check_files(self.corpus)
        check_model(self.model, "--model")

    def _read(self, console: Console, *, documents: bool) -> Corpus:
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
        corpus = read_corpus(self.corpus, text=text, documents=documents)
        say(console, f"corpus   {corpus.summary()}")
        return corpus

    def _files(self, *names: str, least: Text) -> str:
        """The corpus and those of the options `names` that differ from `least`, as a command line has them."""
        words = list(self.corpus)
        for name in names:
            value, option = getattr(self.text, name), name.replace("_", "-")
            if value is True or value is False:
                words += [] if value is getattr(least, name) else [f"--{'' if value else 'no-'}{option}"]
            elif value is not None and value != getattr(least, name):
                words += [f"--{option}", str(value)]
        return shlex.join(words)

    def _command(self, recipe: Config) -> str:
        """The `diffcse train` of this text."""
        names = [each.name for each in dataclasses.fields(Text)]
        if not self.text.split_sentences:
            names.remove("language")  # the reader refuses it
        words = [] if self.recipe == "adapt" else ["--recipe", self.recipe]
        for name in ("model", "max_tokens", "batch_size"):
            if (value := getattr(self, name)) is not None:
                words += [f"--{name.replace('_', '-')}", str(value)]
        return (
            f"diffcse train {self._files(*names, least=recipe.text)} {shlex.join([*words, '--output', 'my-encoder'])}"
        )


_NO_LIMIT = 1_000_000


def _tokenizer(model: str) -> dict[str, Any]:
    """How `model` counts tokens, and how many it reads, with its own settings; None without a limit."""
    from diffcse.encoder.load import start_layout
    from diffcse.method.loading import load_tokenizer

    layout = start_layout(model)
    tokenizer = load_tokenizer(layout.transformer)

    def tokenize(sentences: list[str]) -> list[list[int]]:
        return tokenizer(sentences, truncation=False, verbose=False)["input_ids"]

    most = min(layout.limit or _NO_LIMIT, tokenizer.model_max_length)
    return {
        "tokenize": tokenize,
        "unknown_id": tokenizer.unk_token_id,
        "model_tokens": most if most < _NO_LIMIT else None,
    }


_COLOURS = {"warning": "red", "note": "yellow", "good": "green"}


def _show_survey(survey: Survey, console: Console, model: str | None, adapts: bool) -> None:
    from diffcse.terminal import say, table

    items = "texts" if adapts else "sentences"
    if survey.sampled < survey.sentences:
        say(console, f"sample   {survey.sampled:,} of {survey.sentences:,} {items}")
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
    console.print(table("", [f"length in {unit}", items, "share"], rows, caption=quantiles))
    groups = [("line", survey.repeated)]
    groups += [] if adapts else [("beginning", survey.prefixes), ("end", survey.suffixes)]
    rows = [[f"{kind:<9}  {_cut(text)}", f"{times:,}"] for kind, phrases in groups for text, times in phrases[:5]]
    if rows:
        console.print(
            table(
                "", ["what repeats" if adapts else "what repeats (beginnings and ends: in the sample)", "times"], rows
            )
        )
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
