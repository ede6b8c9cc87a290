"""`diffcse push`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from diffcse.cli.paths import check_model
from diffcse.encoder.share import card_for, check_access, check_name, files_of, model_folder, push
from diffcse.errors import InputError


@dataclass(frozen=True)
class Push:
    """Upload a model to the Hugging Face hub: the encoder and its card, and nothing else of a run.

    The token is that of `hf auth login`, or HF_TOKEN. Another address than the hub's: HF_ENDPOINT.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL", help_behavior_hint="")]
    """Model folder, run of `diffcse train`, or folder of `diffcse export`."""
    name: Annotated[Positional[str], arg(metavar="OWNER/NAME", help_behavior_hint="")]
    """The repository."""
    license: str | None = None
    """Licence of the weights, such as apache-2.0 or cc-by-4.0. Unset: that of the card. A start under CC BY-SA, such as
    the bundled model, decides it."""
    private: bool = False
    """Make the new repository private."""
    update: bool = False
    """The repository may exist; its files of the same names are replaced."""
    yes: bool = False
    """Do not ask before the upload."""

    def __call__(self, console: Console) -> None:
        check_name(self.name)
        check_model(self.model, "model")
        folder = model_folder(self.model)
        card_for(folder, self.name, self.license)
        check_access()
        from diffcse.terminal import say

        size = sum((folder / file).stat().st_size for file in files_of(folder))
        say(console, f"upload   {folder} ({size / 1e6:.1f} MB): {', '.join(files_of(folder))}")
        say(console, f"to       {self.name}, {'private' if self.private else 'for everyone to see'}")
        if not self.yes:
            if not sys.stdin.isatty():
                raise InputError("no terminal to ask on: give --yes to upload without a question")
            if console.input("Upload? [y/N] ").strip().lower() not in ("y", "yes"):
                raise InputError("nothing was uploaded")
        url = push(folder, self.name, licence=self.license, private=self.private, update=self.update)
        say(console, f"done     {url}")
