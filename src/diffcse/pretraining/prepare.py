"""Files -> sentences -> tokens -> batches: everything of the text that is settled before the first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from diffcse.config import PlainText, Text
from diffcse.encoder.save import save_tokenizer
from diffcse.errors import InputError
from diffcse.files import staged_folder
from diffcse.method.edits import Vocabulary
from diffcse.method.loading import load_tokenizer, named, quiet, read_vocabulary
from diffcse.pretraining.batches import Batches, Numbers, Pairs, following_pairs, split, spread
from diffcse.pretraining.config import Pretraining
from diffcse.pretraining.tokens import Tokens, tokenise, train_wordpiece
from diffcse.record import Record
from diffcse.text.corpus import Corpus, read_corpus

Phase = Callable[[str, str], AbstractContextManager[None]]
"""Announces and times a long piece of work: (name of its seconds in the record, label)."""

_TOKENIZER_SENTENCES = 1_000_000
"""Sentences that a tokenizer is trained on, at most, evenly spread over the text."""
_MANY_PASSES = 20
"""Passes over the text from which on the run warns that a model learns it by heart."""


def read(config: Pretraining, corpus: Corpus | Sequence[str | Path], text: Text) -> tuple[Corpus, dict[str, Any]]:
    """(the corpus, facts about it for the record)."""
    if isinstance(corpus, Corpus):
        options = {}
    else:
        corpus = read_corpus(corpus, text=text, documents=config.reads_next)
        options = {"text": {field.name: getattr(text, field.name) for field in dataclasses.fields(PlainText)}}
    data = {
        "sha256": corpus.sha256,
        "sources": [dataclasses.asdict(source) for source in corpus.sources],
        **dataclasses.asdict(corpus.counts),
        **({"following_sha256": corpus.following_sha256} if config.reads_next else {}),
        **options,
    }
    return corpus, data


def check_text(config: Pretraining, corpus: Corpus) -> None:
    """Check that the corpus can serve the recipe.

    Raises:
        InputError: it does not know which sentence follows which, or it has too few sentences.
    """
    if config.reads_next and corpus.following is None:
        raise InputError(
            "next_weight and start_embeddings = next_sentences learn from next sentences, but this corpus does not "
            "know which sentence follows which. Read it with read_corpus(..., documents=True)"
        )
    if len(corpus) < 2 * config.held_out:
        own = config.model is None and config.tokenizer is None
        smaller = ". A vocabulary from so little text may have to be smaller too: --vocabulary" if own else ""
        raise InputError(
            f"held_out = {config.held_out:,}: is more than half of the {len(corpus):,} distinct sentences of this "
            f"text. Give more text, or --held-out {max(1, len(corpus) // 20)}{smaller}"
        )


@dataclass(frozen=True)
class Prepared:
    """The text of a run, ready for its loop."""

    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    tokens: Tokens
    lengths: Numbers
    """(N,) tokens of each sentence, special tokens included, when cut to max_tokens."""
    held_out: Numbers
    training: Numbers
    pairs_P2: Numbers | None
    """Training sentences and their followers, if the recipe learns from them."""
    batches: Batches | Pairs
    steps: int
    """Weight updates of the run."""

    @property
    def passes(self) -> float:
        """Passes over the text in the whole run."""
        return self.steps / self.batches.per_epoch


def prepare(config: Pretraining, corpus: Corpus, tokenizer_folder: Path, record: Record, phase: Phase) -> Prepared:
    """Split and tokenise the corpus and plan the batches; facts and warnings go to the record.

    Args:
        tokenizer_folder: keeps a tokenizer trained here, for a resumed run.

    Raises:
        InputError: the tokenizer or the text cannot serve the recipe.
    """
    held_out, training = split(len(corpus), config.held_out, config.seed)
    pairs_P2 = following_pairs(corpus, training) if config.reads_next else None
    tokenizer = _tokenizer(config, corpus, training, tokenizer_folder, phase)
    vocabulary = read_vocabulary(tokenizer, masks=config.objective == "mlm")
    with phase("tokenise_seconds", "tokenising the text"):
        tokens = tokenise(corpus, tokenizer)
    _check_tokens(config, tokenizer, tokens)
    lengths = tokens.lengths(config.max_tokens)
    batches: Batches | Pairs
    if config.next_weight and pairs_P2 is not None:
        batches = Pairs(lengths, pairs_P2, config.batch_tokens, config.seed)
    else:
        batches = Batches(lengths, training, config.batch_tokens, config.seed)
    steps = config.max_steps or max(1, round(config.epochs * batches.per_epoch))
    prepared = Prepared(tokenizer, vocabulary, tokens, lengths, held_out, training, pairs_P2, batches, steps)
    if prepared.passes > _MANY_PASSES:
        record.warnings.append(
            f"{prepared.passes:,.0f} passes over so little text learn it by heart. Give more text, or fewer steps "
            "(--max-steps)"
        )
    special = len(tokens.prefix) + len(tokens.suffix)
    record.data |= {
        "held_out_sentences": len(held_out),
        "tokens": int(lengths[training].sum()),
        "truncated": int(np.count_nonzero(np.diff(tokens.offsets) > lengths - special)),
    }
    return prepared


def _tokenizer(
    config: Pretraining, corpus: Corpus, training: Numbers, folder: Path, phase: Phase
) -> PreTrainedTokenizerBase:
    """The given tokenizer, or a tokenizer trained here and kept in `folder`."""
    if config.model is not None:
        return load_tokenizer(named(config.model))
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer)
    if not folder.is_dir():
        with phase("tokenizer_seconds", f"training a tokenizer of {config.vocabulary:,} tokens"):
            tokenizer = train_wordpiece(
                (corpus[int(i)] for i in spread(training, _TOKENIZER_SENTENCES)),
                config.vocabulary,
                lowercase=config.lowercase,
                positions=config.positions,
            )
        with staged_folder(folder) as staging:
            save_tokenizer(tokenizer, staging)
    with quiet():
        return PreTrainedTokenizerFast.from_pretrained(folder)


def _check_tokens(config: Pretraining, tokenizer: PreTrainedTokenizerBase, tokens: Tokens) -> None:
    """Check that sentences have the special tokens that the objective needs, and room for more.

    Raises:
        InputError: they have not.
    """
    if config.objective == "causal" and not tokens.prefix:
        raise InputError(
            f"{tokenizer.name_or_path}: puts no start token before a sentence, so a causal model could not predict "
            "the first token. Use a tokenizer that puts one there, such as BERT's"
        )
    if len(tokens.prefix) + len(tokens.suffix) >= config.max_tokens:
        raise InputError(f"max_tokens = {config.max_tokens}: leaves no room beside the special tokens. Raise it")
