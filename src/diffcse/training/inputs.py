"""What a run trains on: text -> examples of the kind that its recipe names, and the text that is held out from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffcse.config import Config
from diffcse.errors import InputError
from diffcse.evaluation.own_pairs import Answers, read_answers
from diffcse.evaluation.own_texts import LabelledTexts, read_labelled
from diffcse.evaluation.sts import PairSet, named_pairs, read_pairs
from diffcse.text.corpus import Corpus, read_corpus
from diffcse.text.examples import Examples, read_examples
from diffcse.text.sources import find_sources
from diffcse.training.collate import Neighbours, sentences_seen, updates_per_epoch
from diffcse.training.selection import HeldOut, Without, hold_out

Dev = PairSet | LabelledTexts | Answers
"""What `training.dev` names: graded pairs, labelled texts, or questions with answers."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Everything that a run reads besides its models."""

    corpus: Corpus | Examples
    examples: Sequence[Any]
    """Sentences, tuples of columns, or sentences with their next ones; without those held out."""
    held_out: HeldOut | None
    dev: Dev | None
    notes: list[str]
    """Why nothing is held out."""
    steps: int
    """Weight updates of the run."""
    sentences_seen: int
    """Examples that `steps` updates read, repeated ones included."""

    def facts(self, config: Config) -> dict[str, Any]:
        """What the record says about the text."""
        facts = {
            "sha256": self.corpus.sha256,
            "sources": [dataclasses.asdict(source) for source in self.corpus.sources],
            **dataclasses.asdict(self.corpus.counts),
        }
        if isinstance(self.corpus, Corpus) and config.method.reads_next:
            facts["following_sha256"] = self.corpus.following_sha256
        if self.dev is not None:
            facts["dev_sha256"] = self.dev.sha256
        if self.held_out is not None:
            facts["held_out"] = len(self.held_out.left_out)
        return facts


def read_dev(config: Config) -> Dev | None:
    """The data that `training.dev` names.

    Raises:
        InputError: the file cannot be read.
    """
    training = config.training
    if training.dev is None:
        return None
    if training.dev_label is not None:
        return read_labelled(training.dev, training.dev_column or config.text.column, training.dev_label, roles=_LABEL)
    if training.dev_answer is not None:
        return read_answers(training.dev, training.dev_column or "question", training.dev_answer, roles=_ANSWER)
    if _is_table(training.dev):
        raise InputError(
            f"{training.dev} is a table: name its label column with --dev-label NAME (or the answers with --dev-answer "
            "NAME)"
        )
    return read_pairs(named_pairs(training.dev))


_LABEL, _ANSWER = ("dev_column", "dev_label"), ("dev_column", "dev_answer")


def _is_table(name: str) -> bool:
    """Whether a file has columns, and a first line that is no graded pair: it has not three or four cells."""
    try:
        source = find_sources([name])[0]
        with source.path.open("rb") as file:
            return source.has_columns and file.readline(1 << 16).count(b"\t") not in (2, 3)
    except (InputError, OSError):
        return False


def read_text(config: Config, corpus: Corpus | Examples | Sequence[str | Path]) -> Corpus | Examples:
    """The text of a run; `corpus` itself if it was already read.

    Raises:
        InputError: it cannot be read, or is of another kind than the recipe trains on.
    """
    if not isinstance(corpus, Corpus | Examples):
        if config.text.supervised:
            return read_examples(corpus, text=config.text)
        corpus = read_corpus(corpus, text=config.text, documents=config.method.reads_next)
    if isinstance(corpus, Examples):
        _check_columns(config, corpus)
    elif config.text.supervised:
        raise InputError("text.anchor: is set, but the corpus has plain sentences. Give diffcse.read_examples(...).")
    elif config.method.reads_next:
        _check_documents(config, corpus)
    return corpus


def _check_columns(config: Config, examples: Examples) -> None:
    wanted = [name for name in (config.text.anchor, config.text.positive, config.text.hard_negative) if name]
    if list(examples.columns) != wanted:
        raise InputError(
            f"text.anchor, text.positive, text.hard_negative: name the columns {wanted or 'none'}, but the examples "
            f"have {list(examples.columns)}. Set them to those columns."
        )


def _check_documents(config: Config, corpus: Corpus) -> None:
    name = "pairing" if config.method.pairing != "same" else "positives"
    setting = f'method.{name} = "{getattr(config.method, name)}"'
    if corpus.following is None:
        raise InputError(
            f"{setting}: needs to know which sentence follows which. Read the corpus with "
            "read_corpus(..., documents=True)."
        )
    if int(np.max(corpus.following)) < 0:
        raise InputError(
            f"{setting}: no sentence of this text has a next one, because a blank line follows each, or every document "
            f"is one sentence. Give running text, or remove method.{name}."
        )


def prepare(config: Config, corpus: Corpus | Examples, dev: Dev | None) -> Inputs:
    """Hold out text, and count the updates.

    Raises:
        InputError: too little text, or `training.select` needs text or pairs that are missing.
    """
    training = config.training
    held_out, notes = hold_out(config, corpus)
    by_labels = dev is not None and training.select in ("auto", "labels")
    if training.patience is not None and held_out is None and not by_labels:
        raise InputError(
            f"training.patience = {training.patience}: no judge selects the step of this run. Give a dev file (--dev), "
            "or remove training.patience"
        )
    left_out = np.zeros(0, dtype=np.int64) if held_out is None else held_out.left_out
    examples: Any = corpus
    if isinstance(corpus, Corpus) and config.method.reads_next:
        examples = Neighbours(corpus, left_out.tolist())
    if held_out is not None:
        examples = Without(examples, left_out)
    size, batch = len(examples), training.batch_size
    if size < batch:
        smaller = 2 ** int(math.log2(max(size, 1)))
        option = f", or --batch-size {smaller}" if smaller >= _SMALL_BATCH else ": each needs many others beside it"
        raise InputError(
            f"training.batch_size = {batch}: the corpus has only {size} distinct {example_name(config)}. Give more "
            f"text{option}."
        )
    per_epoch = updates_per_epoch(size, batch, training.accumulation)
    steps = training.max_steps or max(1, round(training.epochs * per_epoch))
    seen = sentences_seen(steps, size, batch, training.accumulation)
    notes = [*notes, *(dev.notes if dev is not None else ())]
    return Inputs(corpus, examples, held_out, dev, notes, steps, seen)


_SMALL_BATCH = 8
"""The smallest batch that a message recommends: a sentence is compared with the others of its batch."""


def example_name(config: Config) -> str:
    """What one example of this recipe is called, in the plural."""
    return "sentences" if not config.text.supervised else "triplets" if config.text.hard_negative else "pairs"
