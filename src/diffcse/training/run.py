"""run(config) -> a trained encoder and its record: the one place where reading, training and saving meet."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback

from diffcse.config import EDITS, Config, Training, changed_fields, previous_values, to_dict, to_toml
from diffcse.encoder.encode import Encoder, position_limit, use_bf16
from diffcse.encoder.load import load, stated_pooling
from diffcse.encoder.save import save
from diffcse.errors import InputError
from diffcse.evaluation.sts import OWN_PAIRS, named_pairs, read_pairs
from diffcse.files import clear_partials, model_sha256, only_one, staged_folder, write_errors, write_text
from diffcse.machine import tuned
from diffcse.method.build import build
from diffcse.method.edits import longest_copy
from diffcse.method.loading import default_generator, model_folders
from diffcse.method.paper import DiffCSE
from diffcse.record import Record, read_record, verdict
from diffcse.text.corpus import Corpus, read_corpus
from diffcse.text.examples import Examples, read_examples
from diffcse.training.callbacks import Callbacks
from diffcse.training.checkpoints import load_weights, newest_whole, save_weights, stopped
from diffcse.training.collate import Batches, Collate, Neighbours, sentences_seen, updates_per_epoch
from diffcse.training.loop import Loop, Pace, linear_rate
from diffcse.training.selection import Graded, Halves, HeldOut, Panel, Without, hold_out
from diffcse.training.task import DiffCSETask

PARTS = "training_parts.safetensors"
"""Where --keep-training-parts leaves all trained weights of the last step."""

Report = Callable[[str, dict[str, Any]], None]
"""Told what happens: ("corpus" | "start" | "log" | "done" | "finished", facts); "finished" in place of the others after
"corpus" where the run was complete before."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run leaves in memory; on disk is only what ships."""

    model: DiffCSE | None
    """The trained module after the last step; None for a run found complete that kept no training parts."""
    encoder: Encoder
    record: Record


@tuned()
def run(
    config: Config,
    corpus: Corpus | Examples | Sequence[str | Path],
    output: str | Path,
    *,
    resume: bool = False,
    report: Report = lambda event, facts: None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Trained:
    """Train by `config` on `corpus` and leave a complete folder at `output`.

    `output` then holds `model/` (the encoder, of the step that `config.training.select` picks), `last/` (where it picks
    one: the last step's), `run.json`, `log.jsonl` and `recipe.toml`. Until then it holds checkpoints, from which
    `resume` goes on: a run killed at any moment ends with the same weights as one that was not.

    Args:
        corpus: a corpus, pairs or triplets, or files and globs to read them from as `config.text` says.
        resume: go on in `output`; nothing to go on from is no error. A run that is complete is opened, not trained.
        callbacks: of transformers; see `callbacks.Callbacks` for the events.

    Raises:
        InputError: unusable text, recipe, model or folder.
        KeyboardInterrupt: Ctrl-C. In the training loop, if that runs in the main thread and Ctrl-C has no handler but
            Python's own, a checkpoint of the step at hand is left first; a second Ctrl-C ends at once.
    """
    one_process()
    with only_one(Path(output)):
        return _run(config, corpus, Path(output), resume=resume, report=report, callbacks=callbacks)


def _run(
    config: Config,
    corpus: Corpus | Examples | Sequence[str | Path],
    output: Path,
    *,
    resume: bool,
    report: Report,
    callbacks: Sequence[TrainerCallback],
) -> Trained:
    dev = None if config.training.dev is None else read_pairs(named_pairs(config.training.dev))
    record_file = output / "run.json"
    check_output(output, resume=resume, begun=record_file.name)
    if not isinstance(corpus, (Corpus, Examples)):
        corpus = _read(config, corpus)
    _check_kind(config, corpus)
    report("corpus", {"summary": corpus.summary()})
    batch, training = config.training.batch_size, config.training
    held_out, note = hold_out(config, corpus)
    examples = _examples(config, corpus, held_out)
    if len(examples) < batch:
        raise InputError(
            f"the corpus has {len(examples)} distinct {_what(config)}, fewer than one batch of {batch}: "
            f"give more text, or --batch-size {max(2, 2 ** int(math.log2(len(examples))))}"
        )
    steps = training.max_steps or max(
        1, round(training.epochs * updates_per_epoch(len(examples), batch, training.accumulation))
    )
    data = {
        "sha256": corpus.sha256,
        "sources": [dataclasses.asdict(source) for source in corpus.sources],
        **dataclasses.asdict(corpus.counts),
        **_neighbours(config, corpus),
        **({} if dev is None else {"dev_sha256": dev.sha256}),
        **({} if held_out is None else {"held_out": len(held_out.left_out)}),
    }
    begun = _check_same_run(record_file, config, data) if resume and record_file.is_file() else None
    if config.method.generator is None:
        generator = None
        if begun is not None:
            # Which one it was is written down: a hub may offer another today.
            generator = begun.config["method"]["generator"]
        elif config.method.needs("masked"):
            generator = default_generator(config.method.model)
        config = dataclasses.replace(config, method=dataclasses.replace(config.method, generator=generator))
    data["models_sha256"] = _models_sha256(config)
    if begun is not None and begun.status != "complete":  # what is finished follows from nothing any more
        for name, then in begun.data.get("models_sha256", {}).items():  # older records do not say
            source = str(getattr(config.method, name))
            check_same_weights(record_file, begun, source, then, data["models_sha256"].get(name))
    if begun is not None and begun.status == "complete":
        _clean_up(output)
        if not (output / "model").is_dir():
            raise InputError(f"{output}: its run is complete, but model/ was removed: give a new --output")
        report("finished", {"output": str(output), "created": begun.created})
        return Trained(_restore(config, output / PARTS), load(output), begun)

    model, tokenizer = build(config.method, seed=training.seed, pairs=config.text.supervised, packed=training.packing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it would say stands in the record
        padded = model.padded()
    model.mini_batch_size = training.mini_batch_size
    if training.gradient_checkpointing:
        model.checkpoint_layers()
    limit = position_limit(model.encoder, tokenizer)
    _check_lengths(config, model, tokenizer, limit)
    encoder = Encoder(model.encoder, tokenizer, config.method.pooling, limit)
    bf16 = use_bf16(training.precision)

    record = Record(kind="train", config=to_dict(config), seed=training.seed, data=data)
    record.created = record.created if begun is None else begun.created
    record.scores["steps"] = steps
    unused = config.unused()
    if unused:
        record.warnings.append(f"set, but without effect beside the other choices: {', '.join(unused)}")
    record.warnings += [f"{part} runs padded, which is slower: {why}" for part, why in padded.items()]
    if config.method.difference != "none" and config.method.condition == "none":
        record.warnings.append(
            'method.condition = "none": D is trained beside the encoder but tells it nothing (plain ELECTRA, for '
            "comparison); the encoder learns from the contrastive loss alone"
        )
    said = stated_pooling(config.method.model)
    if said not in (None, config.method.pooling):
        record.warnings.append(
            f"{config.method.model} was made to be pooled by {said}, and this run trains {config.method.pooling}"
            + (f": --pooling {said} goes on with what it knows" if said != "pooler" else "")
        )
    record.warnings += note
    record.write(record_file)
    write_text(output / "recipe.toml", to_toml(config))
    clear_partials(output)
    with write_errors(output / "checkpoints"):
        (output / "checkpoints").mkdir(exist_ok=True)
    checkpoint, torn = newest_whole(output / "checkpoints")
    for path in torn:
        record.warnings.append(f"{path.name}: incomplete or damaged, skipped")
    report(
        "start",
        {
            "steps": steps,
            "passes": sentences_seen(steps, len(examples), batch, training.accumulation) / len(examples),
            "bf16": bf16,
            "warnings": record.warnings,
            "resumed": checkpoint and checkpoint.name,
            "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "shipped": sum(p.numel() for p in model.encoder.parameters()),
            "device": "cuda" if torch.cuda.is_available() else "cpu",
        },
    )

    panel = Panel(
        [*([Graded(dev)] if dev is not None else []), *([held_out.judge] if held_out is not None else [])],
        lambda sentences: encoder(sentences, bf16=bf16),
        output / "checkpoints",
    )
    by_labels = dev is not None and training.select in ("auto", "labels")
    select = "label_free" if held_out is not None else "dev" if by_labels else None

    def keep() -> None:
        panel.keep()
        save(encoder, output / "best", "")

    task = DiffCSETask(
        model,
        training,
        Batches(
            examples,
            Collate(tokenizer, training.max_tokens, neighbours=config.method.reads_next),
            batch_size=batch,
            accumulation=training.accumulation,
            seed=training.seed,
        ),
        steps=steps,
        bf16=bf16,
        judges=panel.measures(),
        select=select,
        on_best=keep,
    )
    pace = Pace(
        steps=steps,
        log_every=training.log_every,
        evaluate_every=training.eval_every,
        checkpoint_every=training.checkpoint_every,
        max_grad_norm=training.max_grad_norm,
        rate=linear_rate(steps, round(training.warmup_ratio * steps)),
        per_epoch=task.batches.per_epoch,
    )
    loop = Loop(
        task,
        pace,
        output,
        report=lambda entry: report("log", {**entry, "steps": steps}),
        callbacks=Callbacks(callbacks, output),
    )
    loop.run(checkpoint)
    if loop.stopped:
        record.status = "stopped"
        record.write(record_file)
        raise stopped(loop.step, steps)
    if select is None:
        panel.keep_last()
    record.timing["seconds"] = loop.seconds()
    record.log = loop.log
    record.scores["steps"] = loop.step
    record.scores |= _scores(loop, training, panel, select)
    if "false_negatives" in record.scores:
        record.scores["false_negatives_masked"] = config.method.false_negatives == "mask"

    card = _card(config, corpus, len(examples), steps, verdict(record.scores))
    save(encoder, output / ("model" if select is None else "last"), card)
    if select is not None:
        with staged_folder(output / "model") as staging:
            shutil.copytree(output / "best", staging, dirs_exist_ok=True)
            write_text(staging / "README.md", card)
    if training.keep_training_parts:
        save_weights(model.trained_state(), output / PARTS)
    record.status = "complete"
    record.write(record_file)
    _clean_up(output)
    model.eval()
    report("done", {"output": str(output), "examples": _what(config), **record.scores})
    return Trained(model, encoder, record)


def check_output(output: Path, *, resume: bool, begun: str) -> None:
    """That `output` can be written to without touching what is not ours.

    Args:
        begun: name of the file by which a folder to go on in is known.

    Raises:
        InputError: it is a file, holds something, cannot be read, or has a name that libraries cannot write to.
    """
    try:
        str(output.absolute()).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{output}: tokenizers write to names in UTF-8 only: give another --output") from error
    with write_errors(output):
        if not output.exists():
            return
        if not output.is_dir():
            raise InputError(f"{output}: is a file: give --output a folder")
        left = [path.name for path in output.iterdir() if not path.name.startswith(".")]
        if left and not resume:
            raise InputError(
                f"{output}: not empty: give a new --output, or --resume to go on with what was begun there"
            )
        if left and not (output / begun).exists():
            raise InputError(f"{output}: nothing to resume there, and it holds other files: give a new --output")


def _clean_up(output: Path) -> None:
    """Remove what only an unfinished run needs; not before run.json says "complete"."""
    shutil.rmtree(output / "checkpoints", ignore_errors=True)
    shutil.rmtree(output / "best", ignore_errors=True)


def _read(config: Config, patterns: Sequence[str | Path]) -> Corpus | Examples:
    if config.text.supervised:
        return read_examples(patterns, text=config.text)
    return read_corpus(patterns, text=config.text, documents=config.method.reads_next)


def _check_kind(config: Config, corpus: Corpus | Examples) -> None:
    """That the data are of the kind the recipe trains on; those read by the recipe itself always are."""
    if isinstance(corpus, Examples):
        wanted = [name for name in (config.text.anchor, config.text.positive, config.text.hard_negative) if name]
        if list(corpus.columns) != wanted:
            raise InputError(
                f"examples with the columns {list(corpus.columns)} were given, and the recipe's text section names "
                f"{wanted or 'none'}: set text.anchor, text.positive (and text.hard_negative) to those columns"
            )
    elif config.text.supervised:
        raise InputError("text.anchor is set, but plain sentences were given: give diffcse.read_examples(...)")
    elif config.method.reads_next and corpus.following is None:
        key = "pairing" if config.method.pairing != "same" else "positives"
        raise InputError(
            f'method.{key} = "{getattr(config.method, key)}" needs to know which sentence follows which: read the '
            "corpus with read_corpus(..., documents=True)"
        )
    elif config.method.reads_next and (corpus.following is None or int(np.max(corpus.following)) < 0):
        raise InputError(
            "no sentence of this text has a next one (every document is a single sentence, or an empty line stands "
            'after each): give running text, or leave method.pairing at "same" and method.positives at "dropout"'
        )


def _examples(config: Config, corpus: Corpus | Examples, held_out: HeldOut | None) -> Sequence[Any]:
    """What the trainer draws from: sentences, pairs, or sentences with the next one."""
    left_out = np.zeros(0, dtype=np.int64) if held_out is None else held_out.left_out
    examples: Any = corpus
    if isinstance(corpus, Corpus) and config.method.reads_next:
        examples = Neighbours(corpus, left_out.tolist())
    return examples if held_out is None else Without(examples, left_out)


def _neighbours(config: Config, corpus: Corpus | Examples) -> dict[str, Any]:
    """What the record says of which sentence follows which, where the run learns from it."""
    if not isinstance(corpus, Corpus) or not config.method.reads_next:
        return {}
    return {"following_sha256": corpus.following_sha256}


def _check_lengths(config: Config, model: DiffCSE, tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
    """That training sentences, and what edits add to them, fit every network's positions."""
    method, tokens = config.method, config.training.max_tokens
    if tokens > limit:
        raise InputError(f"training.max_tokens = {tokens}: {method.model} takes at most {limit} tokens")
    inserts = [name for name in method.edits if method.edits_sentences and EDITS[name].lengthens]
    room = longest_copy(tokens, method.mask_ratio) - tokens if inserts else 0
    told = int(method.difference != "none" and method.condition != "none" and method.inject == "prepend")
    why = " and ".join([*inserts[:1], *(["the prepended sentence embedding"] if told else [])])
    viewed = room if method.edit_role != "difference" else 0  # the encoder embeds the edited copies
    for part, more in (
        (model.encoder, viewed),
        (model.discriminator, room + told),
        (model.generator, room),
        (model.causal_generator, 0),
    ):
        if part is not None and tokens + more > (most := position_limit(part, tokenizer)):
            raise InputError(
                f"training.max_tokens = {tokens}: {type(part).__name__} takes at most {most} tokens, and sentences may "
                f"have {tokens + more}{why and f' with {why}'}: lower max_tokens by {tokens + more - most}"
            )


def _restore(config: Config, parts: Path) -> DiffCSE | None:
    """The module of a complete run, in eval mode, if it kept its training parts."""
    if not parts.is_file():
        return None
    training = config.training
    model, _ = build(config.method, seed=training.seed, pairs=config.text.supervised, packed=training.packing)
    load_weights(model.trained_state(), parts)
    return model.eval()


def _scores(loop: Loop, training: Training, panel: Panel, select: str | None) -> dict[str, Any]:
    log = loop.log
    shown = [entry for entry in log if "sentences" in entry]
    scores: dict[str, Any] = {
        "sentences_seen": sum(entry["sentences"] for entry in shown),
        "truncated": sum(entry["truncated"] for entry in shown),
    }
    if any("false_negatives" in entry for entry in shown):
        scores["false_negatives"] = sum(entry.get("false_negatives", 0) for entry in shown)
    for name, judge in panel.judges.items():
        found = {entry["step"]: entry[name] for entry in log if name in entry}
        trained = [step for step in found if step > 0]
        best = max(trained, key=lambda step: found[step])  # the first of equals, as the trainer has it
        scores[name] = {
            **({"sentences": len(judge.first)} if isinstance(judge, Halves) else {"file": training.dev}),
            "metric": judge.metric,
            "start": found.get(0),
            "best": found[best],
            "best_step": best,
            "last": found.get(loop.step),
            "selects": name == select,
            **panel.verdict(name, len(trained) if name == select else 1),
        }
    return scores


def _check_same_run(record_file: Path, config: Config, data: dict[str, Any]) -> Record:
    """The record of the run begun there; an error if it is another run than the one asked for."""
    begun = read_record(record_file)
    changed = changed_fields(begun.config, to_dict(config), Config)
    if config.method.generator is None and "method.generator" in changed:
        changed.remove("method.generator")  # the run wrote down which one it found
    folder = record_file.parent
    if changed:
        before = previous_values(changed, begun.config)
        if begun.status == "complete":
            raise InputError(f"{folder}: holds a complete run of another recipe ({before}): give a new --output")
        raise InputError(
            f"{folder}: was begun with another recipe ({before}): go on with that (--recipe {folder / 'recipe.toml'} "
            "--resume), or give a new --output"
        )
    if config.training.keep_training_parts and begun.status == "complete" and not (folder / PARTS).is_file():
        raise InputError(f"{folder}: its run is complete and kept no training parts: give a new --output")
    for name, what in (("sha256", "other text: give the same corpus"), ("dev_sha256", "another dev file: give that")):
        if begun.data.get(name) != data.get(name):
            raise InputError(f"{record_file.parent}: was begun on {what}, or a new --output")
    check_same_documents(record_file.parent, begun, data)
    return begun


def check_same_documents(output: Path, begun: Record, data: dict[str, Any]) -> None:
    """That the same sentence follows each; older records do not say which did.

    Raises:
        InputError: another one does.
    """
    if begun.data.get("following_sha256") not in (None, data.get("following_sha256")):
        raise InputError(
            f"{output}: was begun on the same sentences in other documents (empty lines, or --document): give the text "
            "as it was, or a new --output"
        )


def _models_sha256(config: Config) -> dict[str, str]:
    """Hashes of the folders that the networks are read from, by field of the method."""
    folders = model_folders(config.method)
    hashes = {folder: model_sha256(folder) for folder in set(folders.values())}
    return {name: hashes[folder] for name, folder in folders.items()}


def check_same_weights(record_file: Path, begun: Record, source: str, then: str | None, now: str | None) -> None:
    """That the model folder `source` still has the hash that it had when the run began (None: it was not recorded).

    Raises:
        InputError: it has another, or is gone (None). A complete run may outlive it.
    """
    if then in (None, now) or (now is None and begun.status == "complete"):
        return
    if source == "mini":
        raise InputError(
            f"{record_file}: was begun from another version's bundled model: install that version (versions, diffcse) "
            "to go on, or give a new --output"
        )
    what = "is no longer there" if now is None else "has changed since"
    raise InputError(
        f"{record_file}: was begun from another model: {source} {what}; put it back, or give a new --output"
    )


def one_process() -> None:
    """Refuse to be one of several processes.

    Raises:
        InputError: torchrun, or its like, started more than one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "several processes (torchrun) are not supported yet: a batch split among them would be another loss. Start "
            "one process"
        )


def _what(config: Config) -> str:
    """What one example is called, in the plural."""
    return "sentences" if not config.text.supervised else "triplets" if config.text.hard_negative else "pairs"


def _public(source: str | None) -> str | None:
    """Of a path its name alone; where that is what something that comes along is called, so that it stays a path."""
    if source is None or not Path(source).exists():
        return source
    name = Path(source).name
    return f"./{name}" if name in ("mini", OWN_PAIRS.stem) else name


def _card(config: Config, corpus: Corpus | Examples, size: int, steps: int, judged: str | None) -> str:
    method = "SimCSE" if config.method.difference == "none" else "DiffCSE"
    method = f"supervised {method}" if config.text.supervised else method
    role = config.method.edit_role
    beside = "" if role == "difference" else f", with an edited copy of each sentence as one more {role}"
    # Folders of this machine are nobody's business: names are enough.
    config = dataclasses.replace(
        config,
        method=dataclasses.replace(
            config.method,
            model=_public(config.method.model) or "",
            generator=_public(config.method.generator),
            causal_generator=_public(config.method.causal_generator),
            discriminator=_public(config.method.discriminator),
        ),
        training=dataclasses.replace(config.training, dev=_public(config.training.dev)),
    )
    training = config.training
    batch = training.batch_size * training.accumulation
    # An epoch that is no multiple of it ends with a smaller one.
    smaller = sentences_seen(steps, size, training.batch_size, training.accumulation) < steps * batch
    pairs, what = config.text.supervised, _what(config)
    said = f"\n{judged[0].upper()}{judged[1:]}.\n" if judged else ""
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, sentence-similarity, {method.split()[-1].lower()}]
---

# A sentence encoder trained by {method}{beside}

Trained {"on labelled pairs" if pairs else "without labels"} from `{config.method.model}` on {size:,} {what}
(SHA-256 of the text `{corpus.sha256[:16]}…`), {steps:,} steps of {"at most " if smaller else ""}{batch} {what} cut at
{training.max_tokens} tokens. Pooling: {config.method.pooling}. Compare embeddings by cosine.
{said}
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
