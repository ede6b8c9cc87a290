"""Commands killed at any moment, or met by errors of the disk, and then continued: they must end as if nothing was.

After a fault the same command runs again (with --resume where the verb has it). What it leaves must be equal, bit for
bit, to what an undisturbed command leaves. An error of the disk must end in one clear line and exit code 2, or do no
harm; a traceback is a fault of its own.
"""

from __future__ import annotations

import errno
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.scenarios import SCENARIOS, Scenario, prepare
from tests.faults.server import Ended, Fault, apart, fresh, run

FORKED = "Invalid thread pool"
"""torch's message, now and then, in a child that was forked; a process of its own does not have it."""


@dataclass
class Trials:
    """What the trials of one command led to."""

    scenario: str
    kills: int = 0
    every_operation: int = 0
    """Kills before the 1st, 2nd, ... file operation."""
    errors: int = 0
    """Trials with ENOSPC, EIO or a limit on file sizes."""
    resumed: int = 0
    problems: list[str] = field(default_factory=list)


class Bench:
    """One scenario with its undisturbed result.

    Args:
        folder: gets a folder of inputs and one for the trial at hand.
    """

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario, self.inputs, self.place = scenario, fresh(folder / "inputs"), folder / "trial"
        prepare(self.inputs)
        self.ended = self._run(self._begin(), Fault())
        if self.ended.code:
            raise RuntimeError(f"{scenario.name}: fails without a fault: {self.ended.text[-1000:]}")
        self.expected = apart(scenario.outcome, self.place)

    def _begin(self) -> Path:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.inputs, self.place)
        return self.place

    def _run(self, place: Path, fault: Fault, *, again: bool = False) -> Ended:
        words = f"{self.scenario.command} {self.scenario.again if again else ''}".split()
        return run(words, place, fault)

    def trial(self, fault: Fault) -> list[str]:
        """Problems of one fault; none is what is wanted. A trial that the fork itself broke is made again."""
        problems = self._problems(fault)
        for _ in range(3):
            if not any(FORKED in problem for problem in problems):
                break
            problems = self._problems(fault)
        return problems

    def _problems(self, fault: Fault) -> list[str]:
        place = self._begin()
        ended = self._run(place, fault)
        problems = []
        if ended.crashed:
            problems.append(f"{fault}: traceback: {_last(ended)}")
        elif ended.code > 2:
            problems.append(f"{fault}: exit code {ended.code}: {_last(ended)}")
        after = self._run(place, Fault(), again=True)
        if after.code:
            return [*problems, f"{fault}: does not continue, exit code {after.code}: {_last(after)}"]
        try:
            same = apart(self.scenario.outcome, place) == self.expected
        except Exception as error:
            return [*problems, f"{fault}: result cannot be read: {error}"]
        return problems if same else [*problems, f"{fault}: continued to another result"]


def _last(ended: Ended) -> str:
    return " ".join(ended.text.strip().splitlines()[-2:])[-300:]


def faults(bench: Bench, kills: int, every: int, chance: random.Random) -> Iterator[Fault]:
    """Kills at random moments; then a kill, ENOSPC and EIO at file operations, `every` apart; then limits on sizes."""
    for _ in range(kills):
        yield Fault(kill_after=chance.uniform(0.0, bench.ended.seconds))
    for operation in range(chance.randrange(every) + 1, bench.ended.operations + 1, every):
        yield Fault(kill_at=operation)
        yield Fault(error_at=operation, error=chance.choice((errno.ENOSPC, errno.EIO)))
    for _ in range(max(1, kills // 10)):
        yield Fault(largest=int(2 ** chance.uniform(4, 18)))


def try_all(folder: Path, *, kills: int, every: int, seed: int, seconds: float, only: Any = None) -> list[Trials]:
    """Trials of all scenarios; each stops when its share of `seconds` is used up."""
    made, chosen = [], [scenario for scenario in SCENARIOS if only is None or scenario.name in only]
    for number, scenario in enumerate(chosen):
        trials, chance = Trials(scenario.name), random.Random(f"{scenario.name} {seed}")
        ends = time.monotonic() + seconds / len(chosen)
        bench = Bench(scenario, folder / str(number))
        listed = list(faults(bench, kills, every, chance))
        chance.shuffle(listed)  # so that a time limit cuts all kinds alike
        for fault in listed:
            if time.monotonic() > ends:
                break
            trials.kills += fault.kill_after is not None
            trials.every_operation += fault.kill_at is not None
            trials.errors += fault.error_at is not None or fault.largest is not None
            problems = bench.trial(fault)
            trials.resumed += not problems
            trials.problems += problems
        made.append(trials)
        print(f"{trials.scenario}: {trials.resumed} well, {len(trials.problems)} problems", flush=True)
        for problem in trials.problems[:5]:
            print(f"    {problem}", flush=True)
    return made
