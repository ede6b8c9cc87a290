"""pretrain(config) -> a small language model from plain text: an encoder to start from, and a generator.

Not every computer can download a model, and not every encoder has a masked-language-model head in its own
vocabulary. This room makes both, at sizes that one core trains in an hour. So it is built for speed:

- the text is tokenised once (`tokens`), and batches hold groups of sentences of one length (`batches`): they need no
  padding and no attention mask. With next sentences, lengths are mixed and groups run packed (`method.fast`);
- the vocabulary's matrix is multiplied at predicted positions only (`losses`);
- matrices are multiplied in bf16 where the processor can, and the weights are cast once a step.

All randomness is keyed: order by (seed, epoch), masks by (seed, step, sentence), dropout by (seed, step). So a run
that was killed and resumed ends with the same weights as a run that was not.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffcse.config import Text, to_dict
from diffcse.encoder.encode import use_bf16
from diffcse.errors import InputError
from diffcse.files import only_one, staged_folder, write_text
from diffcse.machine import tuned
from diffcse.method.gather import Ranks
from diffcse.pretraining.batches import GROUP_TOKENS, Grouping, Pairs
from diffcse.pretraining.config import Pretraining
from diffcse.pretraining.folder import TOKENIZER, VECTORS, clear_refused, open_record
from diffcse.pretraining.measure import HeldOut
from diffcse.pretraining.models import average_with, given_model, new_model, round_to_half
from diffcse.pretraining.prepare import Phase, Prepared, check_text, prepare, read
from diffcse.pretraining.save import card, reopen, save_model
from diffcse.pretraining.start import Vectors, start_from_vectors, start_vectors
from diffcse.pretraining.task import LanguageTask, NextUpdates, TokenUpdates, rate
from diffcse.pretraining.token_vectors import FILLING
from diffcse.record import Record
from diffcse.text.corpus import Corpus
from diffcse.training import folder
from diffcse.training.checkpoints import save_weights
from diffcse.training.folder import MODEL, RECORD, Report
from diffcse.training.loop import Loop, Pace
from diffcse.training.ranks import (
    array_from_first,
    check_same_data,
    check_same_settings,
    from_first,
    in_turn,
    open_ranks,
)

_ANY_TEXT = Text()
_WEIGHTS = "words.safetensors"


@dataclass(frozen=True)
class Pretrained:
    """What a run leaves in memory."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    record: Record


@tuned()
def pretrain(
    config: Pretraining,
    corpus: Corpus | Sequence[str | Path],
    output: str | Path,
    *,
    text: Text = _ANY_TEXT,
    resume: bool = False,
    license_note: str = "",
    report: Report = lambda event, facts: None,
) -> Pretrained:
    """Train a language model by `config` on `corpus` and leave a complete folder at `output`.

    `output` then holds `model/` (weights, tokenizer, card: what `method.model` and `method.generator` take),
    `run.json`, `log.jsonl` and `recipe.toml`. Before, it holds checkpoints that `resume` continues from.

    Args:
        corpus: a corpus, or files and globs to read a corpus from.
        text: which part of the files is read.
        resume: continue the run in `output`. A complete run is opened, not trained.
        license_note: what the card says about the licence of the text.
        report: receives events: ("corpus" | "phase" | "start" | "log" | "done", facts). A run that was already
            complete sends ("corpus" | "finished", facts).

    Raises:
        InputError: unusable text, recipe, tokenizer or folder, or a loss that is not finite.
        KeyboardInterrupt: Ctrl-C. Inside the training loop, a checkpoint is written first.
    """
    output = Path(output)
    with open_ranks() as ranks, only_one(output) if ranks.first else nullcontext():
        check_same_settings(ranks, to_dict(config))
        _check_groups(config, ranks)
        if ranks.first:
            clear_refused(output)
            folder.check_output(output, resume=resume)
        report = report if ranks.first else lambda event, facts: None
        given = corpus
        corpus, data = in_turn(ranks, lambda: read(config, given, text))
        check_same_data(ranks, data)
        report("corpus", {"summary": corpus.summary()})
        check_text(config, corpus)
        begun = from_first(ranks, lambda: dataclasses.asdict(open_record(config, output, data, resume=resume)))
        record = Record(**begun)
        if record.status == "complete":
            model, tokenizer = reopen(config, output)
            report("finished", {"output": str(output), "created": record.created})
            return Pretrained(model, tokenizer, record)
        return _run(config, corpus, output, record, license_note, report, ranks)


def _check_groups(config: Pretraining, ranks: Ranks) -> None:
    """Raises `InputError` where the processes cannot have equal shares of an update."""
    groups = max(1, config.batch_tokens // GROUP_TOKENS)
    if groups % ranks.count:
        raise InputError(
            f"batch_tokens = {config.batch_tokens}: makes {groups} groups of {GROUP_TOKENS} tokens, which cannot be "
            f"divided by {ranks.count} processes. Give --batch-tokens {GROUP_TOKENS * ranks.count}, or a multiple of it"
        )


def _run(
    config: Pretraining,
    corpus: Corpus,
    output: Path,
    record: Record,
    license_note: str,
    report: Report,
    ranks: Ranks,
) -> Pretrained:
    """Everything after the record is open: tokenise, build, train, measure, save."""
    phase = partial(_phase, record, report)
    prepared = _prepare(config, corpus, output, record, phase, ranks)
    checkpoint = folder.open_checkpoints(output, record) if ranks.first else None
    fresh = from_first(ranks, lambda: checkpoint is None)
    network = _build(config, prepared, output / VECTORS, phase, ranks, fresh=fresh)
    model, task = network.model, _task(config, prepared, network, ranks)
    report("start", _start_facts(prepared, task, record, checkpoint))
    if ranks.first:
        record.write(output / RECORD)

    before = {} if config.model is None else from_first(ranks, lambda: task.held_out.measure(model))
    pace = _pace(config, prepared)
    log = partial(_log, report, prepared.steps)
    loop = Loop(task, pace, output, report=log, ranks=ranks)
    loop.run(checkpoint)
    if loop.stopped:
        end = from_first(ranks, lambda: folder.stop(record, output, loop.step, prepared.steps).args[0])
        raise KeyboardInterrupt(end)
    if config.start_share:
        average_with(model, network.start, config.start_share)
    if config.store == "fp16":
        round_to_half(model)

    def finish() -> dict[str, Any]:
        record.log, record.timing["seconds"] = loop.log, loop.seconds()
        record.timing["tokens_per_second"] = task.tokens_seen / max(loop.training_seconds, 1e-9)
        record.scores = _scores(task, before)
        record.warnings += _judge(config, record.scores)
        save_model(model, prepared.tokenizer, config, output / MODEL, card(config, corpus, record, license_note))
        folder.finish(record, output, TOKENIZER, VECTORS)
        facts = {"truncated": record.data["truncated"], "sentences": len(corpus)}
        report("done", {"output": str(output), **record.scores, **facts})
        return record.scores

    scores = from_first(ranks, finish)
    record.log, record.scores, record.status = loop.log, scores, "complete"
    return Pretrained(model.eval(), prepared.tokenizer, record)


def _log(report: Report, steps: int, entry: dict[str, Any]) -> None:
    report("log", {**entry, "steps": steps})


def _prepare(config: Pretraining, corpus: Corpus, output: Path, record: Record, phase: Phase, ranks: Ranks) -> Prepared:
    """`prepare` on every process. The first trains the tokenizer, if there is none, and sends it to the others."""
    folder = output / TOKENIZER
    if ranks.first:
        prepared = prepare(config, corpus, folder, record, phase)
    if ranks.count == 1:
        return prepared
    made = config.model is None and config.tokenizer is None
    files = from_first(ranks, lambda: {p.name: p.read_text("utf-8") for p in folder.iterdir()} if made else {})
    if not ranks.first:
        with TemporaryDirectory() as place:
            for name, content in files.items():
                write_text(Path(place) / TOKENIZER / name, content)
            prepared = prepare(config, corpus, Path(place) / TOKENIZER, record, phase)
    return prepared


@contextmanager
def _phase(record: Record, report: Report, name: str, label: str) -> Iterator[None]:
    """Announce a long piece of work and record its seconds."""
    report("phase", {"label": label})
    began = time.perf_counter()
    yield
    record.timing[name] = time.perf_counter() - began


@dataclass(frozen=True)
class _Network:
    model: PreTrainedModel
    start: list[Tensor]
    """The start weights, if they have a share in the end."""
    sums_VH: Tensor | None
    """Token vectors whose sums the embeddings are to point to."""


def _build(
    config: Pretraining, prepared: Prepared, vectors: Path, phase: Phase, ranks: Ranks, *, fresh: bool
) -> _Network:
    """The model with its start weights, on the device.

    Args:
        vectors: folder that keeps the token vectors for a resumed run.
        fresh: no checkpoint will replace the weights.
    """
    tokenizer = prepared.tokenizer
    if config.model is not None:
        model = given_model(config, tokenizer)
    else:
        model = new_model(config, tokenizer, prepared.tokens)
    start = [p.detach().clone() for p in model.parameters()] if config.start_share else []
    from_vectors = fresh and config.model is None and config.start_embeddings != "none"
    words_VH = None
    if from_vectors or config.sums_weight:
        words_VH = array_from_first(ranks, lambda: _kept_vectors(config, prepared, vectors, phase))
    if from_vectors and words_VH is not None:
        start_from_vectors(model, config, words_VH)
    sums_VH = None
    if config.sums_weight and words_VH is not None:
        sums_VH = F.pad(torch.from_numpy(words_VH), (0, FILLING))
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
    return _Network(model, start, sums_VH)


def _kept_vectors(config: Pretraining, prepared: Prepared, kept: Path, phase: Phase) -> Vectors:
    """`start_vectors`, or those that an interrupted run kept in the folder `kept`.

    Other hardware might make other vectors, and with them other sums than those the model has already approached.
    """
    if not kept.is_dir():
        with phase("start_embeddings_seconds", "token vectors from the text"):
            words_VH = start_vectors(config, prepared.tokens, prepared.training, prepared.vocabulary, prepared.pairs_P2)
        with staged_folder(kept) as staging:
            save_weights({"words": torch.from_numpy(words_VH)}, staging / _WEIGHTS)
    words: Vectors = load_file(kept / _WEIGHTS)["words"].numpy()
    return words


def _task(config: Pretraining, prepared: Prepared, network: _Network, ranks: Ranks) -> LanguageTask:
    model = network.model
    grouping = Grouping(
        prepared.tokens,
        prepared.lengths,
        prepared.vocabulary,
        causal=config.objective == "causal",
        mask_ratio=config.mask_ratio,
        padding=model.config.pad_token_id,
        device=model.device,
    )
    held_out = HeldOut(grouping, prepared.held_out, config.seed, bf16=use_bf16(config.precision))
    updates: TokenUpdates | NextUpdates
    if isinstance(prepared.batches, Pairs):
        updates = NextUpdates(model, prepared.batches, grouping, config, network.sums_VH, ranks)
    else:
        updates = TokenUpdates(model, prepared.batches, grouping, config.seed, ranks)
    return LanguageTask(updates, held_out, config, prepared.steps)


def _pace(config: Pretraining, prepared: Prepared) -> Pace:
    return Pace(
        steps=prepared.steps,
        log_every=config.log_every,
        evaluate_every=config.eval_every,
        checkpoint_every=config.checkpoint_every,
        max_grad_norm=config.max_grad_norm,
        rate=rate(prepared.steps, round(config.warmup_ratio * prepared.steps)),
        per_epoch=prepared.batches.per_epoch,
    )


def _start_facts(prepared: Prepared, task: LanguageTask, record: Record, checkpoint: Path | None) -> dict[str, Any]:
    return {
        "steps": prepared.steps,
        "passes": prepared.passes,
        "bf16": task.bf16,
        "warnings": record.warnings,
        "resumed": checkpoint and checkpoint.name,
        "trained": sum(p.numel() for p in task.model.parameters()),
        "device": task.model.device.type,
        "processes": task.updates.ranks.count,
    }


def _scores(task: LanguageTask, before: dict[str, float]) -> dict[str, Any]:
    """Scores of the model as it ships; `before`: those of the model that the run continued from."""
    scores = {"steps": task.steps, "tokens_seen": task.tokens_seen, **task.held_out.measure(task.model)}
    scores["unigram_loss"] = task.held_out.unigram_loss()
    return scores | ({"start_held_out_loss": before["held_out_loss"]} if before else {})


def _judge(config: Pretraining, scores: dict[str, Any]) -> list[str]:
    """Warnings about a model that learned too little."""
    warnings, loss = [], scores["held_out_loss"]
    start, unigram = scores.get("start_held_out_loss", float("inf")), scores["unigram_loss"]
    if loss >= start:
        warnings.append(
            f"held_out_loss {loss:.3f} is not below start_held_out_loss {start:.3f}: the model predicts masked tokens "
            "no better than its start model. Give more steps (--max-steps), or more text"
        )
    if loss >= unigram:
        use = "generator" if config.objective == "mlm" else "source of edits"
        share = ", or a smaller --start-share" if config.start_share else ""
        warnings.append(
            f"held_out_loss {loss:.3f} is not below unigram_loss {unigram:.3f}: the model predicts tokens no better "
            f"than their frequencies do, so it is of no use yet as a {use}. Give more steps (--max-steps), or more "
            f"text{share}"
        )
    return warnings
