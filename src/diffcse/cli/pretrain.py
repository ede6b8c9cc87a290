"""`diffcse pretrain`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from rich.console import Console
from tyro.conf import Positional, arg

from diffcse.cli.paths import check_files, check_model
from diffcse.config import PlainText, Text, changed_fields, to_dict
from diffcse.errors import InputError
from diffcse.pretraining.config import Pretraining, load_pretraining, to_toml


@dataclass(frozen=True)
class Pretrain:
    """Make a small language model from scratch, to start an encoder from or as a generator; or train one further."""

    COMMON: ClassVar = (
        *("output", "recipe", "settings.objective", "settings.model", "settings.tokenizer", "settings.vocabulary"),
        *("settings.layers", "settings.width", "settings.max_steps", "settings.epochs", "settings.learning_rate"),
        *("settings.seed", "text.column", "resume"),
    )
    SETTING: ClassVar = "mask_ratio=0.15"
    UNNAMED: ClassVar = "settings"

    corpus: Annotated[Positional[tuple[str, ...]], arg(metavar="CORPUS...", help_behavior_hint="")]
    """Text files or globs: one sentence a line, or a --column of a table; also packed."""
    output: Path | None = None
    """Folder for the model, run.json and logs; must be new or empty unless --resume is given."""
    recipe: str = "mini"
    """Name of a bundled recipe, or a .toml file. The other options override it."""
    license_note: str = ""
    """A note on the licence of the text, for the model card."""
    resume: bool = False
    """Continue from the newest complete checkpoint in --output."""
    print_config: bool = False
    """Print the complete recipe that the options make, and stop."""
    settings: Pretraining = field(default_factory=Pretraining)
    text: PlainText = field(default_factory=PlainText)

    def __call__(self, console: Console) -> None:
        chosen, settings = load_pretraining(self.recipe), self.settings
        changed = changed_fields(to_dict(chosen), to_dict(settings), Pretraining, least="weights")
        changed = [name for name in changed if name != "seed"]
        if changed and settings.purpose == chosen.purpose:
            # A changed shape or objective makes another model than the recipe describes.
            settings = dataclasses.replace(settings, purpose=f"{chosen.name}, changed: {', '.join(changed)}")
        if self.print_config:
            from diffcse.terminal import print_recipe

            print_recipe(to_toml(settings))
            return
        if not self.corpus:
            raise InputError("no corpus: give one or more text files, e.g. diffcse pretrain text.txt --output out")
        if self.output is None:
            raise InputError("no output folder: give --output DIR")
        check_files(self.corpus)
        check_model(settings.model, "--model")
        check_model(settings.tokenizer, "--tokenizer")
        from diffcse.terminal import TrainingView, loading, say

        view = TrainingView(console)
        say(console, f"recipe   {settings.purpose if changed else f'{settings.name}: {settings.purpose}'}")
        if self.resume and not (self.output / "run.json").exists():
            say(console, f"note     nothing to resume in {self.output}: a new run")
        with loading(console):
            from diffcse.pretraining.run import pretrain

        try:
            made = pretrain(
                settings,
                self.corpus,
                self.output,
                text=Text(**dataclasses.asdict(self.text)),
                resume=self.resume,
                license_note=self.license_note,
                report=view,
            )
        finally:
            view.close()
        scores = made.record.scores
        start = f"the start {scores['start_held_out_loss']:.3f}, " if "start_held_out_loss" in scores else ""
        say(
            console,
            f"held out loss {scores['held_out_loss']:.3f} nats ({start}by token frequency alone "
            f"{scores['unigram_loss']:.3f}), accuracy {scores['held_out_accuracy']:.1%}, on sentences that this run "
            "never trained on",
        )
        for warning in made.record.warnings[view.warned :]:
            say(console, f"warning  {warning}")
        use = "diffcse train --model" if settings.objective == "mlm" else "AutoModelForCausalLM:"
        pooling = " --pooling mean" if settings.objective == "mlm" and settings.pooling == "mean" else ""
        say(console, f"model    {self.output / 'model'}  (for {use} {self.output / 'model'}{pooling})")
        say(console, f"record   {self.output / 'run.json'}")

    @classmethod
    def defaults(cls, arguments: Sequence[str]) -> Pretrain:
        """The fields of the recipe that `arguments` name. The other options override them."""
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--recipe", default="mini")
        first.add_argument("--epochs")
        named, _ = first.parse_known_args(arguments)
        settings = load_pretraining(named.recipe)
        if named.epochs is not None:
            # Epochs on the command line override the recipe's number of steps.
            settings = dataclasses.replace(settings, max_steps=None)
        return cls(corpus=(), recipe=named.recipe, settings=settings)
