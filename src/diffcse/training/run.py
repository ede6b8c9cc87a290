"""run(config) -> a trained encoder and its record: where reading, training and saving meet."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from diffcse.config import Config, to_dict, to_toml
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.errors import InputError
from diffcse.files import clear_partials, only_one, staged_folder, write_text
from diffcse.machine import one_process, tuned
from diffcse.method.gather import Ranks
from diffcse.record import Record, chosen_by, read_record
from diffcse.text.corpus import Corpus
from diffcse.text.examples import Examples
from diffcse.training import folder
from diffcse.training.adapt import run_adapt
from diffcse.training.callbacks import Callbacks, trackers
from diffcse.training.card import card
from diffcse.training.checkpoints import save_weights
from diffcse.training.collate import Batches, Collate
from diffcse.training.crops import cropper
from diffcse.training.folder import BEST, LAST, MODEL, PARTS, RECIPE, RECORD, Report
from diffcse.training.inputs import Dev, Inputs, example_name, prepare, read_dev, read_text
from diffcse.training.loop import Loop, Pace, linear_rate
from diffcse.training.network import Network, build_network, models_sha256, reload_network, with_generator, with_pooling
from diffcse.training.ranks import check_same_data, check_same_settings, from_first, in_turn, open_ranks
from diffcse.training.selection import Panel, gives_up, make_panel
from diffcse.training.task import DiffCSETask
from diffcse.training.trained import Trained as Trained


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

    `output` then holds `model/` (the encoder of the step that `training.select` chose), `run.json`, `log.jsonl` and
    `recipe.toml`. If a step was chosen, `last/` has the encoder of the last step. While the run lasts, `output` holds
    checkpoints to resume from. A run killed at any moment ends with the same weights as one that was not.

    Several processes, which torchrun starts, share each batch and train as one would. The first alone writes, reports,
    and calls `callbacks`. Only it needs `output`; each reads the text and models from its own disk.

    Args:
        corpus: a corpus, pairs or triplets, or files and globs to read them from, as `config.text` says.
        resume: continue the run in `output`, or begin one there. A complete run is opened, not trained.
        callbacks: of transformers; `callbacks.Callbacks` lists the events.

    Raises:
        InputError: unusable text, recipe, model or folder, or a loss that is not finite.
        KeyboardInterrupt: Ctrl-C. The loop first writes a checkpoint of the step at hand, if it runs in the main thread
            and Ctrl-C has Python's own handler. A second Ctrl-C ends at once.
    """
    output = Path(output)
    if config.method.learn == "map":
        one_process('method.learn = "map"', "is computed in seconds, and not divided. --recipe NAME trains weights")
    with open_ranks() as ranks, only_one(output) if ranks.first else nullcontext():
        report = report if ranks.first else lambda event, facts: None
        callbacks = [*trackers(config.training.report_to), *callbacks] if ranks.first else []
        check_same_settings(ranks, to_dict(config))
        _check_batch(config, ranks)
        if ranks.first:
            folder.check_output(output, resume=resume)
        dev, text = in_turn(ranks, lambda: (read_dev(config), read_text(config, corpus)))
        report("corpus", {"summary": text.summary()})
        if config.method.learn == "map":
            return _adapt(config, text, dev, output, resume, report, callbacks)
        inputs = prepare(config, text, dev)
        data = inputs.facts(config)
        begun = _begun_by_first(config, output, data, resume, ranks)
        config = with_pooling(with_generator(config, begun), begun)
        if begun is not None and begun.status == "complete":
            return _open(config, text, output, begun, report)
        data["models_sha256"] = models_sha256(config)
        check_same_data(ranks, data, {"generator": config.method.generator, "pooling": config.method.pooling})
        if begun is not None:
            _check_models(config, output, begun, data["models_sha256"])
        network = build_network(config)
        record = _begin(config, inputs, network, output, data, begun, ranks)
        return _train(config, inputs, network, output, record, report, Callbacks(callbacks, output), ranks)


def _check_batch(config: Config, ranks: Ranks) -> None:
    """Raises `InputError` where the processes cannot have equal shares of a batch."""
    size = config.training.batch_size
    if size % ranks.count:
        nearest = ranks.count * max(1, round(size / ranks.count))
        raise InputError(
            f"training.batch_size = {size}: cannot be divided by {ranks.count} processes. Give --batch-size {nearest}"
        )


def _begun_by_first(config: Config, output: Path, data: dict[str, Any], resume: bool, ranks: Ranks) -> Record | None:
    """The record of the run to resume, as process 0 reads it; None for a new run."""

    def read() -> dict[str, Any] | None:
        return dataclasses.asdict(_begun(config, output, data)) if resume and (output / RECORD).is_file() else None

    begun = from_first(ranks, read)
    return None if begun is None else Record(**begun)


def _adapt(
    config: Config,
    text: Corpus | Examples,
    dev: Dev | None,
    output: Path,
    resume: bool,
    report: Report,
    callbacks: Sequence[TrainerCallback],
) -> Trained:
    """Learn a map behind the encoder (recipe `adapt`): a run of seconds, which has no checkpoints."""
    if not isinstance(text, Corpus):
        raise InputError('method.learn = "map": reads plain text, and text.anchor names pairs. Remove text.anchor.')
    data = Inputs(text, [], None, dev, [], 0, 0).facts(config)
    begun = _begun(config, output, data) if resume and (output / RECORD).is_file() else None
    config = with_pooling(config, begun)
    if begun is not None and begun.status == "complete":
        return _open(config, text, output, begun, report)
    data["models_sha256"] = models_sha256(config)
    clear_partials(output)
    notes = ["callbacks: are not called, because this recipe makes no steps"] if callbacks else []
    encoder, record = run_adapt(config, text, dev, output, data, report, notes)
    return Trained(None, encoder, record, output, text)


def _begun(config: Config, output: Path, data: dict[str, Any]) -> Record:
    """The record of the run in `output`, which must be the one that is asked for."""
    begun, wanted = read_record(output / RECORD), to_dict(config)
    if begun.kind == "train":
        method = begun.config.get("method", {})
        for name in ("generator", "pooling"):
            if getattr(config.method, name) is None:
                wanted["method"][name] = method.get(name)  # the default when the run began
    folder.check_same_run(output, begun, "train", wanted, Config, data)
    return begun


def _check_models(config: Config, output: Path, begun: Record, now: dict[str, str]) -> None:
    for name, before in begun.data.get("models_sha256", {}).items():
        folder.check_same_weights(output / RECORD, begun, str(getattr(config.method, name)), before, now.get(name))


def _open(config: Config, text: Corpus | Examples, output: Path, record: Record, report: Report) -> Trained:
    """The result of a complete run."""
    folder.clean_up(output, BEST)
    if not (output / MODEL).is_dir():
        raise InputError(f"{output / MODEL}: is missing, although the run is complete. Give a new --output.")
    keeps_parts = config.training.keep_training_parts and config.method.learn == "weights"
    if keeps_parts and not (output / PARTS).is_file():
        raise InputError(f"{output / PARTS}: is missing; the complete run did not keep it. Give a new --output.")
    report("finished", {"output": str(output), "created": record.created})
    return Trained(reload_network(config, output / PARTS), load(output), record, output, text)


def _begin(
    config: Config,
    inputs: Inputs,
    network: Network,
    output: Path,
    data: dict[str, Any],
    begun: Record | None,
    ranks: Ranks,
) -> Record:
    """The record of a run in progress, written by the first process."""
    if ranks.count > 1:
        data["processes"] = ranks.count
    record = Record(kind="train", config=to_dict(config), seed=config.training.seed, data=data)
    if begun is not None:
        record.created = begun.created
    record.scores["steps"] = inputs.steps
    record.warnings += network.warnings + inputs.notes
    if begun is not None and begun.data.get("processes", 1) != ranks.count:
        record.warnings.append(
            f"processes: {begun.data.get('processes', 1)} began this run and {ranks.count} continue it. Batches and "
            "edits are the same; dropout is drawn anew by each process, so the weights are not those of one number"
        )
    if ranks.first:
        record.write(output / RECORD)
        write_text(output / RECIPE, to_toml(config))
        clear_partials(output)
    return record


def _train(
    config: Config,
    inputs: Inputs,
    network: Network,
    output: Path,
    record: Record,
    report: Report,
    callbacks: Callbacks,
    ranks: Ranks,
) -> Trained:
    """Train to the last step; then the first process saves the chosen encoder and completes the record."""
    checkpoint = panel = None
    if ranks.first:
        checkpoint = folder.open_checkpoints(output, record)
        panel = make_panel(config, inputs.dev, inputs.held_out, network.encoder, network.bf16, output)
    task = _task(config, inputs, network, panel, output, ranks)
    report("start", _start_facts(inputs, network, task, record, checkpoint))
    loop = Loop(
        task,
        _pace(config, inputs, task.batches),
        output,
        report=_log_report(inputs.steps, record, report),
        callbacks=callbacks,
        on_step=lambda step: report("step", {"step": step, "steps": inputs.steps}),
        gives_up=lambda log: gives_up(log, panel.select if panel else None, config.training.patience),
        ranks=ranks,
    )
    loop.run(checkpoint)
    if loop.stopped:
        end = from_first(ranks, lambda: folder.stop(record, output, loop.step, inputs.steps).args[0])
        raise KeyboardInterrupt(end)
    scores = from_first(ranks, lambda: _finish(config, inputs, network, output, record, report, panel, loop))
    record.log, record.scores, record.status = loop.log, scores, "complete"
    shipped = load(output) if ranks.first and chosen_by(scores) else network.encoder
    return Trained(network.model.eval(), shipped, record, output, inputs.corpus)


def _finish(
    config: Config,
    inputs: Inputs,
    network: Network,
    output: Path,
    record: Record,
    report: Report,
    panel: Panel | None,
    loop: Loop,
) -> dict[str, Any]:
    """Judge and save what ships, and complete the record; returns its scores."""
    assert panel is not None
    if panel.select is None:
        panel.keep_last()
    record.log, record.timing["seconds"] = loop.log, loop.seconds()
    record.scores |= {"steps": loop.step, **_seen(config, loop.log), **panel.summary(loop.log)}
    _save(config, network, output, card(config, inputs, record.scores), chosen=panel.select is not None)
    folder.finish(record, output, BEST)
    report("done", {"output": str(output), "examples": example_name(config), **record.scores})
    return record.scores


_SATURATED = 0.01
"""Mean contrastive loss, in nats, below which the contrast has nothing left to teach."""


def _log_report(steps: int, record: Record, report: Report) -> Callable[[dict[str, Any]], None]:
    """Passes log entries on, and notes once that the contrast is solved.

    AdamW divides a gradient by its own size, so a vanishing one still moves all weights by full steps. That ruined a
    ready encoder (docs/log/2026-11-30-adapt.md).
    """

    def log(entry: dict[str, Any]) -> None:
        report("log", {**entry, "steps": steps})
        warned = any(line.startswith("contrastive") for line in record.warnings)
        if not warned and entry.get("contrastive") is not None and entry["contrastive"] < _SATURATED:
            record.warnings.append(
                f"contrastive = {entry['contrastive']:.4f} nats at step {entry['step']}: the contrast is solved. More "
                "steps teach nothing and can harm a ready encoder. --recipe adapt learns from the text another way"
            )
            report("warning", {"line": record.warnings[-1]})

    return log


def _task(
    config: Config, inputs: Inputs, network: Network, panel: Panel | None, output: Path, ranks: Ranks
) -> DiffCSETask:
    """The task of this process; `panel` judges on the first."""
    training = config.training

    def keep() -> None:
        assert panel is not None
        panel.keep()
        save(network.encoder, output / BEST, "")

    batches = Batches(
        inputs.examples,
        Collate(
            network.tokenizer,
            training.max_tokens,
            neighbours=config.method.reads_next,
            prompt=network.encoder.settings.prompt,
        ),
        batch_size=training.batch_size,
        accumulation=training.accumulation,
        seed=training.seed,
        ranks=ranks,
        crop=cropper(config),
    )
    return DiffCSETask(
        network.model,
        training,
        batches,
        steps=inputs.steps,
        bf16=network.bf16,
        judges={} if panel is None else panel.measures(),
        select=None if panel is None else panel.select,
        on_best=keep,
        ranks=ranks,
    )


def _pace(config: Config, inputs: Inputs, batches: Batches) -> Pace:
    training = config.training
    return Pace(
        steps=inputs.steps,
        log_every=training.log_every,
        evaluate_every=training.eval_every,
        checkpoint_every=training.checkpoint_every,
        max_grad_norm=training.max_grad_norm,
        rate=linear_rate(inputs.steps, round(training.warmup_ratio * inputs.steps)),
        per_epoch=batches.per_epoch,
    )


def _start_facts(
    inputs: Inputs, network: Network, task: DiffCSETask, record: Record, checkpoint: Path | None
) -> dict[str, Any]:
    return {
        "steps": inputs.steps,
        "passes": inputs.sentences_seen / len(inputs.examples),
        "bf16": network.bf16,
        "warnings": record.warnings,
        "resumed": checkpoint and checkpoint.name,
        "trained": sum(p.numel() for p in network.model.parameters() if p.requires_grad),
        "shipped": sum(p.numel() for p in network.encoder.model.parameters()),
        "device": task.device.type,
        "processes": task.ranks.count,
    }


def _seen(config: Config, log: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts over the whole run: sentences, those cut at the token limit, and false negatives."""
    entries = [entry for entry in log if "sentences" in entry]
    counts: dict[str, Any] = {
        "sentences_seen": sum(entry["sentences"] for entry in entries),
        "truncated": sum(entry["truncated"] for entry in entries),
    }
    if any("false_negatives" in entry for entry in entries):
        counts["false_negatives"] = sum(entry.get("false_negatives", 0) for entry in entries)
        counts["false_negatives_masked"] = config.method.false_negatives == "mask"
    return counts


def _save(config: Config, network: Network, output: Path, readme: str, *, chosen: bool) -> None:
    """Write what ships: the chosen encoder in `model/`, or that of the last step where none was chosen."""
    save(network.encoder, output / (LAST if chosen else MODEL), readme)
    if chosen:
        with staged_folder(output / MODEL) as staging:
            shutil.copytree(output / BEST, staging, dirs_exist_ok=True)
            write_text(staging / "README.md", readme)
    if config.training.keep_training_parts:
        save_weights(network.model.trained_state(), output / PARTS)
