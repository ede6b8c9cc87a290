"""`diffcse train`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional, arg

from diffcse.cli.paths import check_data, check_files, check_model, check_output
from diffcse.config import (
    Config,
    Method,
    Text,
    Training,
    apply_preset,
    changed_fields,
    check_tracker,
    load_recipe,
    to_dict,
    to_toml,
)
from diffcse.errors import InputError
from diffcse.machine import first_process
from diffcse.record import verdict


@dataclass(frozen=True)
class Train:
    """Train a sentence encoder on plain text, without labels; or on pairs and triplets.

    Several processes: torchrun --nproc-per-node N --no-python diffcse train ...
    """

    COMMON: ClassVar = (
        *("output", "method.model", "recipe", "text.column", "training.dev", "training.max_steps", "training.epochs"),
        *(
            "training.batch_size",
            "training.learning_rate",
            "training.max_tokens",
            "training.seed",
            "training.report_to",
            "resume",
        ),
    )
    SETTING: ClassVar = "method.mask_ratio=0.2"

    corpus: Annotated[Positional[tuple[str, ...]], arg(metavar="CORPUS...", help_behavior_hint="")]
    """Files or globs: .txt .csv .tsv .jsonl .parquet, also .gz .xz .zst; or hub:OWNER/NAME."""
    output: Path | None = None
    """Folder for the model, run.json and logs; must be new or empty unless --resume is given."""
    recipe: str = "adapt"
    """Name of a bundled recipe, or a .toml file. The other options override it."""
    preset: str | None = None
    """Set several method fields at once: reference (behaviour of the authors' 2022 code) or simcse. The recipe is then
    mini_cpu, unless --recipe names another."""
    resume: bool = False
    """Continue from the newest complete checkpoint in --output."""
    print_config: bool = False
    """Print the complete recipe that the options make, and stop."""
    method: Method = field(default_factory=Method)
    text: Text = field(default_factory=Text)
    training: Training = field(default_factory=Training)

    def __call__(self, console: Console) -> None:
        chosen = load_recipe(self.recipe)
        config = Config(chosen.name, chosen.reproduces, chosen.hardware, self.method, self.text, self.training)
        changed = changed_fields(to_dict(chosen), to_dict(config), Config, least="weights")
        changed = [name for name in changed if name != "training.seed"]
        if changed:
            # A changed method or schedule reproduces no published figure.
            config = dataclasses.replace(config, reproduces=f"{chosen.name}, changed: {', '.join(changed)}")
        if self.print_config:
            from diffcse.terminal import print_recipe

            print_recipe(to_toml(config))
            return
        if not self.corpus:
            raise InputError("no corpus: give one or more text files, e.g. diffcse train sentences.txt --output out")
        if self.output is None:
            raise InputError("no output folder: give --output DIR")
        if first_process():
            check_output(self.output, resume=self.resume)
        check_files(self.corpus)
        check_tracker(self.training.report_to)
        for name in ("model", "generator", "discriminator", "causal_generator"):
            check_model(getattr(self.method, name), f"--{name.replace('_', '-')}")
        if self.training.dev is not None:
            check_data(self.training.dev, "--dev")
        from diffcse.terminal import TrainingView, judged, loading, say

        say(console, f"recipe   {config.reproduces if changed else f'{config.name}: {config.reproduces}'}")
        if self.resume and not (self.output / "run.json").exists():
            say(console, f"note     nothing to resume in {self.output}: a new run")
        with loading(console):
            from diffcse.training.run import run
            from diffcse.training.trained import UNJUDGED

        with TrainingView(console) as view:
            trained = run(config, self.corpus, self.output, resume=self.resume, report=view)
        for line in judged(trained.record.scores):
            say(console, line)
        if verdict(trained.record.scores) is None:
            say(console, f"verdict  {UNJUDGED}")
        neighbours = trained.record.scores.get("neighbours")
        if neighbours and trained.record.scores.get("shipped") == "adapted":
            console.print(neighbour_table(neighbours))
        say(console, f"model    {self.output / 'model'}  (a sentence-transformers folder)")
        say(console, f"record   {self.output / 'run.json'}")

    @classmethod
    def defaults(cls, arguments: Sequence[str]) -> Train:
        """The fields of the recipe and preset that `arguments` name. The other options override them."""
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--recipe")
        first.add_argument("--preset")
        first.add_argument("--epochs")
        named, _ = first.parse_known_args(arguments)
        # A preset is a way to train weights, which adapt does not do.
        recipe = named.recipe or ("mini_cpu" if named.preset else "adapt")
        config = load_recipe(recipe)
        if named.epochs is not None:
            # Epochs on the command line override the recipe's number of steps.
            config = dataclasses.replace(config, training=dataclasses.replace(config.training, max_steps=None))
        if named.preset:
            config = apply_preset(config, named.preset)
        return cls(
            corpus=(),
            recipe=recipe,
            preset=named.preset,
            method=config.method,
            text=config.text,
            training=config.training,
        )


def neighbour_table(neighbours: Sequence[dict[str, str]]) -> Table:
    """Some of the user's texts with their nearest other text before and after."""
    view = Table(title="Nearest text before and after, where it changed", title_justify="left", show_lines=True)
    for column in ("text", "before", "after"):
        view.add_column(column, overflow="fold", ratio=1)
    for row in neighbours:
        view.add_row(*(escape(shortened(row[column])) for column in ("text", "before", "after")))
    return view


def shortened(text: str, most: int = 120) -> str:
    """
    >>> shortened("one two three", most=9)
    'one two …'
    """
    return text if len(text) <= most else f"{text[: most - 1].rsplit(' ', 1)[0]} …"
