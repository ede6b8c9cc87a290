"""run(config) -> a trained encoder and its record: the one place where reading, training and saving meet."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from diffcse.config import Config, Training, differences, to_dict, to_toml
from diffcse.encoder.encode import Encoder, position_limit
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.errors import InputError
from diffcse.evaluation.sts import PairSet, read_pairs, score_sts
from diffcse.files import clear_partials, staged_folder, write_text
from diffcse.method.objective import DiffCSE
from diffcse.method.parts import build
from diffcse.record import Record, read_record
from diffcse.text.corpus import Corpus, read_corpus
from diffcse.training.checkpoints import load_weights, newest_whole, save_weights
from diffcse.training.trainer import DiffCSETrainer, updates_per_epoch

PARTS = "training_parts.safetensors"
"""Where --keep-training-parts leaves all trained weights of the last step."""

Report = Callable[[str, dict[str, Any]], None]
"""Told what happens: ("corpus" | "start" | "log" | "checkpoint" | "resume" | "done", facts)."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run leaves in memory; on disk is only what ships."""

    model: DiffCSE | None
    """The trained module after the last step; None for a run found complete that kept no training parts."""
    encoder: Encoder
    record: Record


def run(
    config: Config,
    corpus: Corpus | Sequence[str | Path],
    output: Path,
    *,
    resume: bool = False,
    report: Report = lambda event, facts: None,
) -> Trained:
    """Train by `config` on `corpus` and leave a complete folder at `output`.

    `output` then holds `model/` (the encoder: the best by dev score, or the last without a dev file), `last/` (where
    the best is another), `run.json`, `log.jsonl` and `recipe.toml`. Until then it holds checkpoints, from which
    `resume` goes on: a run killed at any moment ends with the same weights as one that was not.

    Args:
        corpus: a corpus, or files and globs to read one from.
        resume: go on in `output`; nothing to go on from is no error.

    Raises:
        InputError: unusable text, recipe, model or folder.
    """
    _one_process()
    dev = None if config.training.dev is None else read_pairs(Path(config.training.dev))
    record_file = output / "run.json"
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file: give --output a folder")
    if output.is_dir() and any(output.iterdir()) and not resume:
        raise InputError(f"{output}: not empty: give a new --output, or --resume to go on with what was begun there")
    if not isinstance(corpus, Corpus):
        corpus = read_corpus(corpus)
    report("corpus", {"summary": corpus.summary()})
    batch, training = config.training.batch_size, config.training
    if len(corpus) < batch:
        raise InputError(
            f"the corpus has {len(corpus)} distinct sentences, fewer than one batch of {batch}: "
            f"give more text, or --batch-size {max(2, 2 ** int(math.log2(len(corpus))))}"
        )
    steps = training.max_steps or max(
        1, round(training.epochs * updates_per_epoch(len(corpus), batch, training.accumulation))
    )
    data = {
        "sha256": corpus.sha256,
        "sources": [dataclasses.asdict(source) for source in corpus.sources],
        **dataclasses.asdict(corpus.counts),
    }
    if resume and record_file.is_file():
        finished = _check_same_run(record_file, config, data)
        if finished is not None:
            return Trained(_restore(config, output / PARTS), load(output), finished)

    model, tokenizer = build(config.method, seed=training.seed)
    limit = position_limit(model.encoder, tokenizer)
    if training.max_tokens > limit:
        raise InputError(
            f"training.max_tokens = {training.max_tokens}: {config.method.model} takes at most {limit} tokens"
        )
    encoder = Encoder(model.encoder, tokenizer, config.method.pooling, limit)
    bf16 = use_bf16(training)

    record = Record(kind="train", config=to_dict(config), seed=training.seed, data=data)
    record.scores["steps"] = steps
    if config.method.difference != "none" and config.method.condition == "none":
        record.warnings.append(
            'method.condition = "none": D is trained beside the encoder but tells it nothing (plain ELECTRA, for '
            "comparison); the encoder learns from the contrastive loss alone"
        )
    record.write(record_file)
    write_text(output / "recipe.toml", to_toml(config))
    clear_partials(output)
    checkpoint, torn = newest_whole(output / "checkpoints")
    for path in torn:
        record.warnings.append(f"{path.name}: incomplete or damaged, skipped")
    report(
        "start",
        {
            "steps": steps,
            "bf16": bf16,
            "warnings": record.warnings,
            "resumed": checkpoint and checkpoint.name,
            "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "device": "cuda" if torch.cuda.is_available() else "cpu",
        },
    )

    card = _card(config, corpus, steps)
    trainer = DiffCSETrainer(
        model,
        training,
        corpus,  # type: ignore[arg-type]
        tokenizer,
        output,
        steps=steps,
        bf16=bf16,
        resuming=checkpoint is not None,
        dev=None if dev is None else lambda _: _dev_score(encoder, dev, bf16),
        on_best=lambda _: save(encoder, output / "best", card),
        report=lambda entry: report("log", {**entry, "steps": steps}),
    )
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    record.timing["seconds"] = time.perf_counter() - began
    record.log = trainer.state.log_history
    record.scores |= _scores(trainer, training)

    final = "last" if dev is not None else "model"
    save(encoder, output / final, card)
    if dev is not None:
        with staged_folder(output / "model") as staging:
            shutil.copytree(output / "best", staging, dirs_exist_ok=True)
    if training.keep_training_parts:
        save_weights(model.trained_state(), output / PARTS)
    record.status = "complete"
    record.write(record_file)
    # Only now: until run.json says "complete", a resumed run may need them.
    shutil.rmtree(output / "checkpoints", ignore_errors=True)
    shutil.rmtree(output / "best", ignore_errors=True)
    model.eval()
    report("done", {"output": str(output), **record.scores})
    return Trained(model, encoder, record)


def _restore(config: Config, parts: Path) -> DiffCSE | None:
    """The module of a complete run, in eval mode, if it kept its training parts."""
    if not parts.is_file():
        return None
    model, _ = build(config.method, seed=config.training.seed)
    load_weights(model, parts)
    return model.eval()


def use_bf16(training: Training) -> bool:
    """Whether to compute in bf16 autocast: as asked, or where the hardware multiplies in it."""
    if training.precision != "auto":
        return training.precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


def _dev_score(encoder: Encoder, dev: PairSet, bf16: bool) -> float:
    return score_sts(lambda sentences: encoder(sentences, bf16=bf16), dev).all.spearman


def _scores(trainer: DiffCSETrainer, training: Training) -> dict[str, Any]:
    log = trainer.state.log_history
    shown = [entry for entry in log if "sentences" in entry]
    scores: dict[str, Any] = {
        "sentences_seen": sum(entry["sentences"] for entry in shown),
        "truncated": sum(entry["truncated"] for entry in shown),
    }
    dev = {entry["step"]: entry["dev"] for entry in log if "dev" in entry}
    if dev:
        scores["dev"] = {
            "file": training.dev,
            "metric": "Spearman of cosine, points",
            "start": dev.get(0),
            "best": trainer.state.best_metric,
            "best_step": trainer.state.best_global_step,
            "last": dev.get(trainer.state.global_step),
        }
    return scores


def _check_same_run(record_file: Path, config: Config, data: dict[str, Any]) -> Record | None:
    """The record if that run is complete; an error if it is another run than the one asked for."""
    begun = read_record(record_file)
    changed = differences(begun.config, to_dict(config))
    if changed:
        raise InputError(
            f"{record_file.parent}: was begun with another recipe ({', '.join(changed)} differ): resume with "
            f"--recipe {record_file.parent / 'recipe.toml'}, or give a new --output"
        )
    if begun.data.get("sha256") != data["sha256"]:
        raise InputError(f"{record_file.parent}: was begun on other text: give the same corpus, or a new --output")
    return begun if begun.status == "complete" else None


def _one_process() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "several processes (torchrun) are not supported yet: a contrastive batch split among them would be "
            "another loss. Start one process"
        )


def _card(config: Config, corpus: Corpus, steps: int) -> str:
    method = "SimCSE" if config.method.difference == "none" else "DiffCSE"
    batch = config.training.batch_size * config.training.accumulation
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, sentence-similarity, {method.lower()}]
---

# A sentence encoder trained by {method}

Trained without labels from `{config.method.model}` on {len(corpus):,} sentences
(SHA-256 of the text `{corpus.sha256[:16]}…`), {steps:,} steps of {batch} sentences cut at
{config.training.max_tokens} tokens. Pooling: {config.method.pooling}. Compare embeddings by cosine.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this folder")
model.similarity(model.encode(["A sentence."]), model.encode(["Another one."]))
```

The folder holds the encoder only; projector, generator and discriminator were for training. Sentences like those of
the training text are what it knows; it inherits the biases of that text and of the checkpoint it started from.

## Recipe

```toml
{to_toml(config)}```
"""
