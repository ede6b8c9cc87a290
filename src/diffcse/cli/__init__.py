"""The command line. Each verb is one dataclass in one file: its fields are the options, their docstrings the help.

Verbs import heavy libraries when they run, so that `--help` and a mistyped option answer at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import errno
import os
import shutil
import signal
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from tyro.conf import OmitArgPrefixes

from diffcse.cli.ablate import Ablate
from diffcse.cli.cluster import Cluster
from diffcse.cli.compare import Compare
from diffcse.cli.dedup import Dedup
from diffcse.cli.doctor import Doctor
from diffcse.cli.embed import Embed
from diffcse.cli.evaluate import Evaluate
from diffcse.cli.explore import Explore
from diffcse.cli.export import Export
from diffcse.cli.index import Index
from diffcse.cli.options import check_sections, help_text, prepare
from diffcse.cli.pretrain import Pretrain
from diffcse.cli.push import Push
from diffcse.cli.quickstart import Quickstart
from diffcse.cli.search import Search
from diffcse.cli.similarity import Similarity
from diffcse.cli.train import Train
from diffcse.errors import InputError
from diffcse.machine import first_process
from diffcse.stops import Stops
from diffcse.streams import safe_streams

GROUPS: dict[str, dict[str, tuple[Any, str]]] = {
    "first look": {
        "quickstart": (Quickstart, "Train an encoder on Python's documentation and measure it"),
        "doctor": (Doctor, "Check a text before you train on it"),
    },
    "learn": {
        "train": (Train, "Train a sentence encoder on your text"),
        "pretrain": (Pretrain, "Make a small language model to start from"),
    },
    "measure": {
        "evaluate": (Evaluate, "Score encoders on graded pairs, classification and search"),
        "compare": (Compare, "Tell whether two methods differ by more than chance"),
        "ablate": (Ablate, "Make a table of many settings and seeds, as in the paper"),
    },
    "use": {
        "embed": (Embed, "Write the embedding of each line of a file"),
        "index": (Index, "Make an index of texts on disk, add to it, delete from it"),
        "search": (Search, "Search an index: the texts nearest to a query"),
        "similarity": (Similarity, "Print how similar sentences are"),
        "dedup": (Dedup, "Leave out texts that repeat an earlier one"),
        "cluster": (Cluster, "Divide texts into clusters with words for names"),
        "export": (Export, "Write an encoder for ONNX Runtime, OpenVINO or model2vec"),
        "push": (Push, "Upload a model to the Hugging Face hub"),
        "explore": (Explore, "Draw a map of embedded texts as a page"),
    },
}
"""Verbs by what they are for, in the order of the job; each with its line in the overview."""
VERBS: dict[str, Any] = {name: verb for group in GROUPS.values() for name, (verb, _) in group.items()}
_READER_GONE = 141
"""Exit code of a program that SIGPIPE ends."""
_HELP = frozenset({"-h", "--help", "--help-all"})
_SHARED = frozenset({"train", "pretrain"})
"""Verbs that several processes run together: the first of them prints."""
_INTRODUCTION = """\
diffcse: sentence embeddings from plain text, without labels

usage: diffcse COMMAND [options]        (diffcse COMMAND --help lists them)"""


def _overview() -> str:
    lines = [_INTRODUCTION]
    for title, group in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<12}{text}" for name, (_, text) in group.items())]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb.

    Exit code 0: done; 2: the input cannot be used, or standard output cannot be written; 141: the reader of standard
    output has gone, as in `| head`; 128 + number: a signal ended it (130: Ctrl-C). One line on stderr says why.
    """
    verb, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    asks = verb.startswith("-") or not _HELP.isdisjoint(_options_in(rest))
    with safe_streams(tell_reader=not asks) as output, Stops() as stops, _notes():
        code = _code(verb, rest, stops)
        output.flush()
        if output.error and not code:
            is_reader = output.error.errno == errno.EPIPE
            code = 2 if not is_reader else 0 if asks else _READER_GONE
    if code:
        sys.exit(code)


def _code(verb: str, rest: list[str], stops: Stops) -> int:
    """The exit code of one verb."""
    try:
        _prepare_process()
        # 160 columns where output goes to a file, so that lines are not folded at the width of some terminal.
        width = None if sys.stdout.isatty() else 160
        _run(verb, rest, Console(width=width, quiet=not _prints(verb)))
    except InputError as error:
        if _reports(verb):
            print(_folded(f"error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        if _prints(verb):
            _print_stop(verb, stop)
        return 128 + (stops.first or signal.SIGINT)
    return 0


def _prints(verb: str) -> bool:
    """Whether this process prints what `verb` does."""
    return verb not in _SHARED or first_process()


def _reports(verb: str) -> bool:
    """Whether this process prints the error that ended it: of several, the first that has one."""
    if verb not in _SHARED or os.environ.get("WORLD_SIZE", "") in ("", "0", "1"):
        return True
    from diffcse.training.ranks import speaks

    return speaks()


def _prepare_process() -> None:
    """Settings that must be made before torch is loaded."""
    # Waiting OpenMP threads spin for a while. Long spins take the cores from other processes, and training then is
    # tens of times slower. No spins cost an idle machine a fifth (docs/log/). 3000 is some ten microseconds.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "3000"


@contextmanager
def _notes() -> Iterator[None]:
    """Within the block our warnings are lines on stderr, and those of libraries are hidden (python -W shows them)."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", module="diffcse", category=UserWarning)
        warnings.showwarning = lambda message, *_: print(_folded(f"note     {message}"), file=sys.stderr)
        yield


def _run(verb: str, rest: list[str], console: Console) -> None:
    if verb in ("-h", "--help"):
        print(_overview(), flush=True)
        return
    if verb == "--version":
        print(f"diffcse {version('diffcse')}", flush=True)
        return
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"Did you mean {near[0]}?" if near else f"Commands: {', '.join(VERBS)}."
        raise InputError(f"{verb}: no such command. {hint}")
    kind = VERBS[verb]
    options = _options_in(rest)
    if not _HELP.isdisjoint(options):
        print(help_text(kind, verb, options), flush=True)
        return
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(f"the current folder cannot be used: {error.strerror}. Go to another folder: cd ~") from error
    rest = prepare(kind, verb, rest)
    defaults = kind.defaults(rest) if hasattr(kind, "defaults") else None
    if defaults is not None:
        check_sections(kind, defaults, rest)
    command = tyro.cli(kind, prog=f"diffcse {verb}", args=rest, default=defaults, config=(OmitArgPrefixes,))
    command(console)


def _options_in(rest: list[str]) -> list[str]:
    return rest[: rest.index("--")] if "--" in rest else rest


def _print_stop(verb: str, stop: KeyboardInterrupt) -> None:
    """After a signal: where the verb stopped, and which command goes on."""
    if verb not in VERBS:
        return
    where = str(stop) if str(stop).startswith(":") else f" {stop}" if stop.args else ""
    hint = getattr(VERBS[verb], "ON_STOP", "")
    if any(field.name == "resume" for field in dataclasses.fields(VERBS[verb])):
        hint = " The same command with --resume continues" + (
            " from there." if where else " from the newest checkpoint, if there is one."
        )
    print(f"\nstopped{where}.{hint}", file=sys.stderr, flush=True)


def _folded(line: str) -> str:
    """`line` folded between words where stderr is a terminal; a file gets it as one line."""
    if not sys.stderr.isatty():
        return line
    width = shutil.get_terminal_size().columns
    parts = (textwrap.wrap(part, width, break_long_words=False, break_on_hyphens=False) for part in line.split("\n"))
    return "\n".join("\n".join(part) for part in parts)
