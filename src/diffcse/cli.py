"""The command line: one verb, one dataclass; its fields are the options and their docstrings the help.

Heavy imports happen inside the verbs, so that `--help` and a mistyped option answer at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional, arg

from diffcse.config import Config, Method, Pooling, Training, apply_preset, differences, load_recipe, to_dict, to_toml
from diffcse.errors import InputError


@dataclass(frozen=True)
class Train:
    """Train a sentence encoder on plain text, one sentence a line, without labels."""

    corpus: Annotated[Positional[tuple[str, ...]], arg(metavar="CORPUS...", help_behavior_hint="")]
    """Text files or globs: .txt, also .gz and .xz."""
    output: Path | None = None
    """Folder for the model, run.json and logs. Must be new or empty, unless --resume."""
    recipe: str = "mini_cpu"
    """Name of a bundled recipe, or a .toml file. All options below override it."""
    preset: str | None = None
    """Set several method fields at once: reference (the 2022 code's behaviour) or simcse."""
    resume: bool = False
    """Go on from the newest complete checkpoint in --output."""
    print_config: bool = False
    """Print the complete recipe that these options make, and stop."""
    method: Method = field(default_factory=Method)
    training: Training = field(default_factory=Training)

    def __call__(self, console: Console) -> None:
        chosen = load_recipe(self.recipe)
        config = Config(chosen.name, chosen.reproduces, chosen.hardware, self.method, self.training)
        changed = [name for name in differences(to_dict(chosen), to_dict(config)) if name not in _HARMLESS]
        if changed:
            # With another method or schedule it reproduces nothing that was published.
            config = dataclasses.replace(config, reproduces=f"{chosen.name} with other {', '.join(changed)}")
        if self.print_config:
            print(to_toml(config), end="")
            return
        if not self.corpus:
            raise InputError("no corpus: give one or more text files, e.g. diffcse train sentences.txt --output out")
        if self.output is None:
            raise InputError("no output folder: give --output DIR")
        from diffcse.terminal import TrainingView, say

        view = TrainingView(console)
        say(console, f"recipe   {config.reproduces if changed else f'{config.name}: {config.reproduces}'}")
        from diffcse.training.train import run

        try:
            trained = run(config, self.corpus, self.output, resume=self.resume, report=view)
        finally:
            view.close()
        dev = trained.record.scores.get("dev")
        if dev:
            say(
                console,
                f"dev      Spearman {dev['start']:.2f} before training, {dev['last']:.2f} after the last step, "
                f"{dev['best']:.2f} at the best step ({dev['best_step']:,}), which is in model/",
            )
        say(console, f"model    {self.output / 'model'}  (a sentence-transformers folder)")
        say(console, f"record   {self.output / 'run.json'}")


@dataclass(frozen=True)
class Evaluate:
    """Measure encoders: does cosine order sentence pairs as people do?"""

    models: Annotated[Positional[tuple[str, ...]], arg(metavar="MODEL...", help_behavior_hint="")]
    """Model folders, runs of `diffcse train`, hub ids, or "mini"."""
    data: Path | None = None
    """Folder of *.tsv files: score, sentence 1, sentence 2 and optionally subset, separated by tabs."""
    tasks: Literal["sts"] = "sts"
    """What to measure."""
    pooling: Pooling | None = None
    """Overrides what the folder says; needed for a plain checkpoint."""
    allow_partial: bool = False
    """Accept well-known sets with another number of pairs than they should have."""
    floors: bool = False
    """Add a row for TF-IDF, fitted on each set: what lexical overlap alone gets."""
    json: Path | None = None
    """Also write all scores to this file."""

    def __call__(self, console: Console) -> None:
        if not self.models:
            raise InputError("no model: give a model folder, e.g. diffcse evaluate out/model --data sts")
        if self.data is None:
            raise InputError("no data: give --data DIR, a folder of *.tsv files")
        from diffcse.evaluation.floors import TfIdf
        from diffcse.evaluation.sts import StsScore, find_sets, score_sts
        from diffcse.files import write_json
        from diffcse.record import versions
        from diffcse.terminal import say, table

        sets = find_sets(self.data, allow_partial=self.allow_partial)
        from diffcse.encoder.load import load

        rows: dict[str, dict[str, StsScore]] = {}
        facts: dict[str, dict[str, object]] = {}
        for name in self.models:
            encoder = load(name, pooling=self.pooling)
            label = f"{name} ({encoder.pooling})"
            facts[label] = {"pooling": encoder.pooling, "max_tokens": encoder.max_tokens}
            rows[label] = {task: score_sts(encoder, pairs) for task, pairs in sets.items()}
        if self.floors:
            rows["TF-IDF, fitted on each set"] = {
                task: score_sts(TfIdf(list({*pairs.first, *pairs.second})), pairs) for task, pairs in sets.items()
            }
        console.print(
            table(
                "Spearman of cosine, points; all pairs of a set together",
                ["encoder", *sets],
                [
                    [label, *(f"{score.all.spearman:.2f}" for score in scores.values())]
                    for label, scores in rows.items()
                ],
            )
        )
        if self.json:
            results = {
                label: {**facts.get(label, {}), "tasks": {task: score.to_dict() for task, score in scores.items()}}
                for label, scores in rows.items()
            }
            data = {task: {"pairs": len(pairs), "sha256": pairs.sha256} for task, pairs in sets.items()}
            write_json(self.json, {"results": results, "data": data, "versions": versions()})
            say(console, f"written  {self.json}")


@dataclass(frozen=True)
class Quickstart:
    """Train SimCSE and DiffCSE on this Python's own documentation, and measure what it brought. Minutes, offline."""

    output: Path = Path("quickstart")
    """Folder for models, run.json and report.html. Must be new or empty, unless --resume."""
    steps: int | None = None
    """Weight updates for each method; the recipe's if not given."""
    seed: int = 42
    """Decides batches, masks, samples and dropout."""
    resume: bool = False
    """Go on with what was begun in --output."""

    def __call__(self, console: Console) -> None:
        if self.steps is not None and self.steps < 1:
            raise InputError(f"--steps {self.steps}: must be at least 1")
        from diffcse.quickstart import quickstart

        quickstart(self.output, steps=self.steps, seed=self.seed, resume=self.resume, console=console)


_HARMLESS = {
    f"training.{name}"
    for name in ("seed", "dev", "eval_every", "checkpoint_every", "log_every", "keep_training_parts", "precision")
}
"""Fields that do not change what a recipe reproduces."""

VERBS: dict[str, Any] = {"quickstart": Quickstart, "train": Train, "evaluate": Evaluate}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb. Exit code 0: done; 2: the input cannot be used, with one line that says why and what to do."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # 160 columns where output goes to a file: lines must not be folded at a width nobody looks at.
    console = Console(width=None if sys.stdout.isatty() else 160)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"diffcse {version('diffcse')}")
        return
    verb, *rest = arguments
    try:
        if verb not in VERBS:
            import difflib

            near = difflib.get_close_matches(verb, VERBS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(VERBS)}"
            raise InputError(f"{verb}: no such command: {hint}")
        command = tyro.cli(
            VERBS[verb],
            prog=f"diffcse {verb}",
            args=rest,
            default=_recipe_defaults(rest) if verb == "train" else None,
            config=(OmitArgPrefixes,),
        )
        command(console)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read our output (head, less) has enough; what is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        hint = (
            "" if verb == "evaluate" else " The same command with --resume goes on, from the newest checkpoint if any."
        )
        print(f"\nstopped.{hint}", file=sys.stderr)
        sys.exit(130)


def _recipe_defaults(arguments: list[str]) -> Train:
    """The fields of the recipe and preset named in `arguments`: what the other options override."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", default="mini_cpu")
    first.add_argument("--preset")
    first.add_argument("--epochs")
    named, _ = first.parse_known_args(arguments)
    config = load_recipe(named.recipe)
    if named.epochs is not None:
        # Asked for on the command line, passes over the text win over a recipe's number of steps.
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, max_steps=None))
    if named.preset:
        config = apply_preset(config, named.preset)
    return Train(corpus=(), recipe=named.recipe, preset=named.preset, method=config.method, training=config.training)


def _overview() -> str:
    lines = [f"  {name:<12}{verb.__doc__}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "diffcse: sentence embeddings from plain text without labels",
            "",
            "usage: diffcse COMMAND [options]        diffcse COMMAND --help lists them",
            "",
            *lines,
        ]
    )
