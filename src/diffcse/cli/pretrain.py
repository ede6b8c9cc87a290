"""`diffcse pretrain`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from rich.console import Console
from tyro.conf import Positional, arg

from diffcse.cli.paths import check_files, check_model
from diffcse.config import PlainText, Text, changed_fields, to_dict
from diffcse.errors import InputError
from diffcse.pretraining.config import Pretraining, load_pretraining, to_toml

if TYPE_CHECKING:
    from diffcse.pretraining.run import Pretrained


@dataclass(frozen=True)
class Pretrain:
    """Make a small language model from scratch, to start an encoder from or as a generator; or train one further.

    Several processes: torchrun --nproc-per-node N --no-python diffcse pretrain ...
    """

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
        settings = self._described()
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
        made, shown = self._run(settings, self.output, console)
        self._print_result(settings, made, self.output, console, shown)

    def _described(self) -> Pretraining:
        """The settings; where they make another model than the recipe does, their purpose names the changed fields."""
        chosen, settings = load_pretraining(self.recipe), self.settings
        changed = changed_fields(to_dict(chosen), to_dict(settings), Pretraining, least="weights")
        changed = [name for name in changed if name != "seed"]
        if not changed or settings.purpose != chosen.purpose:
            return settings
        return dataclasses.replace(settings, purpose=f"{chosen.name}, changed: {', '.join(changed)}")

    def _run(self, settings: Pretraining, output: Path, console: Console) -> tuple[Pretrained, int]:
        """The result, and how many of its warnings are on the screen already."""
        from diffcse.terminal import TrainingView, loading, say

        recipe = settings.purpose if settings is not self.settings else f"{settings.name}: {settings.purpose}"
        say(console, f"recipe   {recipe}")
        if self.resume and not (output / "run.json").exists():
            say(console, f"note     {output} has no run to resume: this is a new run")
        with loading(console):
            from diffcse.pretraining.run import pretrain

        view = TrainingView(console)
        try:
            made = pretrain(
                settings,
                self.corpus,
                output,
                text=Text(**dataclasses.asdict(self.text)),
                resume=self.resume,
                license_note=self.license_note,
                report=view,
            )
        finally:
            view.close()
        return made, view.warned

    def _print_result(
        self, settings: Pretraining, made: Pretrained, output: Path, console: Console, shown: int
    ) -> None:
        from diffcse.terminal import say

        scores = made.record.scores
        start = f"the start model {scores['start_held_out_loss']:.3f}, " if "start_held_out_loss" in scores else ""
        say(
            console,
            f"held out loss {scores['held_out_loss']:.3f} nats ({start}token frequencies alone "
            f"{scores['unigram_loss']:.3f}), accuracy {scores['held_out_accuracy']:.1%}, on sentences that were not "
            "trained on",
        )
        for warning in made.record.warnings[shown:]:
            say(console, f"warning  {warning}")
        use = "diffcse train --model" if settings.objective == "mlm" else "AutoModelForCausalLM:"
        pooling = " --pooling mean" if settings.objective == "mlm" and settings.pooling == "mean" else ""
        say(console, f"model    {output / 'model'}  (for {use} {output / 'model'}{pooling})")
        say(console, f"record   {output / 'run.json'}")

    @classmethod
    def defaults(cls, arguments: Sequence[str]) -> Pretrain:
        """The fields of the recipe named in `arguments`, which the other options override."""
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--recipe", default="mini")
        first.add_argument("--epochs")
        named, _ = first.parse_known_args(arguments)
        settings = load_pretraining(named.recipe)
        if named.epochs is not None:
            # --epochs on the command line replaces the recipe's number of steps.
            settings = dataclasses.replace(settings, max_steps=None)
        return cls(corpus=(), recipe=named.recipe, settings=settings)
