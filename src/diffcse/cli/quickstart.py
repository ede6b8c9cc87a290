"""`diffcse quickstart`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from diffcse.errors import InputError


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
        from diffcse.terminal import loading

        with loading(console):
            from diffcse.quickstart import quickstart

        quickstart(self.output, steps=self.steps, seed=self.seed, resume=self.resume, console=console)
