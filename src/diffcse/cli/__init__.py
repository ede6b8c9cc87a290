"""The command line: one verb, one dataclass, one file; its fields are the options and their docstrings the help.

Heavy imports happen inside the verbs, so that `--help` and a mistyped option answer at once.
"""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import tyro
from rich.console import Console
from tyro.conf import OmitArgPrefixes

from diffcse.cli.ablate import Ablate
from diffcse.cli.compare import Compare
from diffcse.cli.doctor import Doctor
from diffcse.cli.embed import Embed
from diffcse.cli.evaluate import Evaluate
from diffcse.cli.pretrain import Pretrain
from diffcse.cli.quickstart import Quickstart
from diffcse.cli.similarity import Similarity
from diffcse.cli.train import Train
from diffcse.errors import InputError

VERBS: dict[str, Any] = {
    "quickstart": Quickstart,
    "doctor": Doctor,
    "train": Train,
    "pretrain": Pretrain,
    "evaluate": Evaluate,
    "compare": Compare,
    "ablate": Ablate,
    "embed": Embed,
    "similarity": Similarity,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb. Exit code 0: done; 2: the input cannot be used, with one line that says why and what to do."""
    # Threads that spin for long while they wait for each other take the cores from one another as soon as anything else
    # runs there: training then is tens of times slower. Those that never spin cost an idle machine a fifth
    # (docs/log.md). Read when torch loads its OpenMP, so set before.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "3000"  # some ten microseconds: the next product seldom comes later
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # not every encoding has a character for a table's bars
    # 160 columns where output goes to a file: lines must not be folded at a width nobody looks at.
    console = Console(width=None if sys.stdout.isatty() else 160)
    verb, *rest = arguments or ["--help"]
    try:
        if verb in ("-h", "--help"):
            print(_overview(), flush=True)
            return
        if verb == "--version":
            from importlib.metadata import version

            print(f"diffcse {version('diffcse')}", flush=True)
            return
        if verb not in VERBS:
            import difflib

            near = difflib.get_close_matches(verb, VERBS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(VERBS)}"
            raise InputError(f"{verb}: no such command: {hint}")
        command = tyro.cli(
            VERBS[verb],
            prog=f"diffcse {verb}",
            args=rest,
            default=VERBS[verb].defaults(rest) if hasattr(VERBS[verb], "defaults") else None,
            config=(OmitArgPrefixes,),
        )
        command(console)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read our output (head, less) has enough; what is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as stop:
        if verb not in VERBS:  # --help, say
            sys.exit(130)
        where, hint = f" {stop}" if stop.args else "", getattr(VERBS[verb], "ON_STOP", "")
        if any(field.name == "resume" for field in dataclasses.fields(VERBS[verb])):
            hint = " The same command with --resume goes on" + (
                " from it." if where else ", from the newest checkpoint if any."
            )
        for stream, line in ((sys.stderr, f"\nstopped{where}.{hint}\n"), (sys.stdout, "")):
            try:
                print(line, end="", file=stream, flush=True)
            except BrokenPipeError:  # whoever read it was ended by the same Ctrl-C
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(130)


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
