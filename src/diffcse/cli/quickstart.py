"""`diffcse quickstart`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from diffcse.cli.paths import check_output
from diffcse.errors import InputError
from diffcse.machine import one_process


@dataclass(frozen=True)
class Quickstart:
    """Train an encoder on the documentation inside this Python, and measure what the training brought. It takes about
    10 minutes on two CPU cores and needs no network."""

    output: Path = Path("quickstart")
    """Folder for models, run.json and report.html. Must be new or empty, unless --resume."""
    steps: int | None = None
    """Training steps of each of the three encoders; by default those of the recipe."""
    seed: int = 42
    """Seed of everything random: batches, masks, replaced words, dropout."""
    resume: bool = False
    """Continue what was begun in --output."""

    def __call__(self, console: Console) -> None:
        if self.steps is not None and self.steps < 1:
            raise InputError(f"--steps {self.steps}: must be at least 1")
        one_process("quickstart", "its runs follow one another in one process")
        check_output(self.output, resume=self.resume)
        from diffcse.terminal import loading

        with loading(console):
            from diffcse.quickstart import quickstart

        quickstart(self.output, steps=self.steps, seed=self.seed, resume=self.resume, console=console)
