"""Seconds until a command answers before any work. `--help` needs no torch and must answer within half a second.

python -m benchmarks.speed.startup
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.speed import measure
from benchmarks.speed.measure import Group, Sample

BARE = "python -c pass"
LIMIT = 0.5
"""Seconds."""
_HEAVY = ("torch", "transformers", "sklearn", "scipy")
COMMANDS = {
    BARE: ["-c", "pass"],
    "import diffcse": ["-c", "import diffcse"],
    "diffcse --help": ["-m", "diffcse", "--help"],
    "diffcse train --help": ["-m", "diffcse", "train", "--help"],
}


def heavy(arguments: Sequence[str]) -> list[str]:
    """Which of the heavy packages a command imports, by `python -X importtime`."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True)
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    return [name for name in _HEAVY if name in names]


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure, and write the result."""
    parser = measure.parser(__doc__, rounds=15, text=False)
    options = parser.parse_args(argv)
    result = measure.start("startup", argv)
    turns = {
        name: measure.always(partial(measure.child, [sys.executable, *arguments]))
        for name, arguments in COMMANDS.items()
    }
    samples = measure.interleave(turns, rounds=2 if options.quick else options.rounds, seconds=options.seconds)
    imported = {name: heavy(arguments) for name, arguments in COMMANDS.items()}
    group = Group("Answering", [BARE], {"limit for --help": f"{LIMIT} s"}, chart="wall s")

    def figures(name: str, own: list[Sample]) -> dict[str, object]:
        return {"of " + ", ".join(_HEAVY) + " it imports": ", ".join(imported[name]) or "none"}

    group.add(samples, figures)
    for row in group.rows:
        if "--help" in row["name"] and (row["wall_s"] > LIMIT or imported[row["name"]]):
            print(f"warning: {row['name']}: {row['wall_s']:.2f} s, imports {imported[row['name']]}", file=sys.stderr)
    return measure.finish(result, options.seed, [group], options.results)


if __name__ == "__main__":
    main()
