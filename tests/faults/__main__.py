"""make faults: a night of kills, errors of the disk and damaged inputs, and one table of what they led to.

    python -m tests.faults --kills 500 --mutations 20000 --minutes 60 --seed 0 [--table docs/reliability.md]

Nothing is printed but the table and what went wrong; inputs that crash a reader are kept. Exit code 1 if anything did.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import kills, mutate, server

BEGIN, END = "<!-- made by make faults -->", "<!-- end of the table -->"


def table(trials: list[kills.Trials], readers: list[mutate.Findings]) -> str:
    """Both tables as Markdown."""
    lines = [
        "| command | kills at random | kills at a file operation | disk errors | continued to the same | problems |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    for one in trials:
        cells = (one.kills, one.every_operation, one.errors, one.resumed, len(one.problems))
        lines.append(f"| {one.scenario} | {' | '.join(f'{cell:,}' for cell in cells)} |")
    lines += ["", "| reader | damaged inputs | read | refused with an error | slower than 20 s | tracebacks |"]
    lines += ["|---|---|---|---|---|---|"]
    for found in readers:
        counts = (found.tried, found.read, found.refused, found.slow, len(found.crashes))
        lines.append(f"| {found.reader} | {' | '.join(f'{count:,}' for count in counts)} |")
    return "\n".join(lines)


def main() -> None:
    """Run, print the table, and put it into a page."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=500, help="at random moments, of all commands together")
    parser.add_argument("--every", type=int, default=1, help="a kill and a disk error at each n-th file operation")
    parser.add_argument("--mutations", type=int, default=20_000, help="damaged inputs, of all readers together")
    parser.add_argument("--minutes", type=float, default=120, help="limit of the kills and disk errors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="page whose table is replaced")
    parser.add_argument("--kept", type=Path, default=Path("faults"), help="folder for inputs that crash a reader")
    options = parser.parse_args()
    began = time.monotonic()
    server.preload()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        server.apart(mutate.prepare, server.fresh(folder / "inputs"))
        each = -(-options.mutations // len(mutate.READERS))
        readers = []
        for name in mutate.READERS:
            try:
                found = server.apart(mutate.fuzz, name, folder / "inputs", each, options.seed, options.kept.absolute())
            except RuntimeError as error:  # native code ended the process
                found = mutate.Findings(name, crashes=[str(error)])
            readers.append(found)
            for crash in sorted(set(readers[-1].crashes))[:10]:
                print(f"{name}: {crash}", flush=True)
        share = -(-options.kills // len(kills.SCENARIOS))
        trials = kills.try_all(
            folder, kills=share, every=options.every, seed=options.seed, seconds=60 * options.minutes
        )
    made = table(trials, readers)
    minutes = (time.monotonic() - began) / 60
    print(f"\n{made}\n\nseed {options.seed}, {minutes:.0f} minutes")
    if options.table:
        before, _, rest = options.table.read_text("utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        named = ("kills", "every", "mutations", "minutes", "seed")  # not the paths of this machine
        command = " ".join(["python -m tests.faults", *(f"--{name} {getattr(options, name)}" for name in named)])
        facts = f"Made by `{command}`, {minutes:.0f} minutes."
        options.table.write_text(f"{before}{BEGIN}\n\n{made}\n\n{facts}\n\n{END}{after}", encoding="utf-8")
    sys.exit(any(one.problems for one in trials) or any(found.crashes or found.slow for found in readers))


if __name__ == "__main__":
    main()
