"""What a person sees while something runs: one line per logged step, tables, coloured tokens.

On a terminal a bar shows where training stands and what is left; in a log file the same numbers come as plain lines.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

from diffcse.record import JUDGES, verdict


def say(console: Console, line: str) -> None:
    """Print `line` as it is: names of files and recipes may hold what rich takes for markup."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_recipe(text: str) -> None:
    """Print a recipe in UTF-8, in which it will be read, whatever the terminal or file takes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    print(text, end="")


def loading(console: Console) -> Status:
    """What a terminal shows, inside, while large libraries load; a log shows nothing."""
    return console.status("loading torch and transformers")


def _few(number: float) -> str:
    """Two digits, but never in powers of ten."""
    if number < 0.001:
        return "less than 0.001"
    return f"{number:.2g}" if number < 10 else f"{number:,.0f}"


class TrainingView:
    """Prints the events of `training.run.run`; pass an instance as its `report`."""

    def __init__(self, console: Console, label: str = "") -> None:
        self.console, self.label = console, label
        self._bar: Progress | None = None
        self._began: tuple[float, int] | None = None
        self.warned = 0
        """How many of the run's warnings were shown at its start."""

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        getattr(self, f"_{event}")(facts)

    def _corpus(self, facts: dict[str, Any]) -> None:
        self.console.print(f"corpus   {escape(facts['summary'])}", highlight=False)

    def _start(self, facts: dict[str, Any]) -> None:
        precision = "bf16" if facts["bf16"] else "fp32"
        # Of a pretraining run all of them ship.
        ships = f" ({facts['shipped'] / 1e6:.1f}M of them the encoder's)" if "shipped" in facts else ""
        self.console.print(
            f"training {facts['trained'] / 1e6:.1f}M weights{ships} for {facts['steps']:,} steps "
            f"({_few(facts['passes'])} passes over the text) "
            f"on {facts['device']} in {precision}" + (f", resumed from {facts['resumed']}" if facts["resumed"] else ""),
            highlight=False,
        )
        self.warned = len(facts["warnings"])
        for warning in facts["warnings"]:
            self.console.print(f"[yellow]note[/]     {escape(warning)}", highlight=False)
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn(self.label or "steps"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed}/{task.total}  {task.fields[shown]}"),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=facts["steps"], shown="")

    def _log(self, entry: dict[str, Any]) -> None:
        scores = [f"{called} {entry[name]:.2f}" for name, called in JUDGES.items() if name in entry]
        if scores:
            self.console.print(f"step {entry['step']:>6,}  {'  '.join(scores)}", highlight=False)
            return
        left = self._time_left(entry["step"], entry["steps"])
        line = f"{left}  {loss_line(entry)}".strip()
        if self._bar:
            self._bar.update(self._task, completed=entry["step"], shown=line)
        else:
            self.console.print(f"step {entry['step']:>6,}/{entry['steps']:,}  {line}", highlight=False, soft_wrap=True)

    def _done(self, facts: dict[str, Any]) -> None:
        self.close()
        seen, cut = facts["sentences_seen"], facts["truncated"]
        if seen:
            what = facts.get("examples", "sentences")
            self.console.print(
                f"trained on {seen:,.0f} {what}, {cut:,.0f} of them ({cut / seen:.0%}) cut at the token limit",
                highlight=False,
            )
        if "false_negatives" in facts:
            self.console.print(
                f"         {facts['false_negatives']:,.0f} false negatives in their batches "
                f"({'left out' if facts['false_negatives_masked'] else 'kept, as asked'})",
                highlight=False,
            )

    def _finished(self, facts: dict[str, Any]) -> None:
        began = facts["created"].replace("T", " ").replace("+00:00", " UTC")
        say(self.console, f"nothing to train: this run, begun {began}, is complete")

    def close(self) -> None:
        """Remove the bar, also when training ended by an error."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _time_left(self, step: int, steps: int) -> str:
        if self._began is None:
            self._began = (time.monotonic(), step)
            return ""
        began, first = self._began
        if step == first:
            return ""
        seconds = (time.monotonic() - began) / (step - first) * (steps - step)
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d} left"


def judged(scores: dict[str, Any]) -> list[str]:
    """Lines of what judged a run's encoder, and whether training helped by that."""
    lines = []
    for name, label in (("dev", "dev     "), ("label_free", "held out")):
        found = scores.get(name)
        if found:
            kept = ", which is in model/" if found["selects"] else ""
            lines.append(
                f"{label} {found['metric']} {found['start']:.2f} before training, {found['last']:.2f} after the last "
                f"step, {found['best']:.2f} at the best step ({found['best_step']:,}){kept}"
            )
    said = verdict(scores)
    return [*lines, f"verdict  {said}"] if said else lines


class PretrainingView(TrainingView):
    """Prints the events of `pretraining.run.pretrain`."""

    def _phase(self, facts: dict[str, Any]) -> None:
        say(self.console, f"         {facts['label']}")

    def _log(self, entry: dict[str, Any]) -> None:
        if "held_out_loss" in entry:
            self.console.print(
                f"step {entry['step']:>6,}  held-out loss {entry['held_out_loss']:.3f}, "
                f"right {entry['held_out_accuracy']:.1%}",
                highlight=False,
            )
        else:
            super()._log(entry)

    def _done(self, facts: dict[str, Any]) -> None:
        self.close()
        self.console.print(
            f"trained on {facts['tokens_seen']:,} tokens; {facts['truncated'] / facts['sentences']:.0%} of the "
            "sentences were cut at the token limit",
            highlight=False,
        )


def loss_line(entry: dict[str, Any]) -> str:
    """The loss terms and metrics of one log entry, short; only what the run has."""

    def share(name: str) -> str:
        return "–" if entry[name] is None else f"{entry[name]:.1%}"  # no token was judged

    parts = [f"loss {entry['loss']:.4f}"]
    if "next_loss" in entry:
        parts.append(f"next sentence {entry['next_loss']:.3f}")
    if "sums_loss" in entry:
        parts.append(f"sums {entry['sums_loss']:.4f}")
    if "contrastive" in entry:
        parts.append(f"contrastive {entry['contrastive']:.4f}")
        parts.append(f"cosine {entry['positive_cosine']:.2f}/{entry['negative_cosine']:.2f}")
    if "lm_log_loss" in entry:
        parts.append(f"difference {entry['difference']:.3f} (right {share('lm_accuracy')})")
    elif "difference" in entry:
        parts.append(f"rtd {entry['difference']:.3f} (right {share('rtd_accuracy')}, majority {share('rtd_majority')})")
    if "sentences_per_second" in entry:
        parts.append(f"{entry['sentences_per_second']:.0f} sentences/s")
    if "tokens_per_second" in entry:
        parts.append(f"{entry['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> Table:
    """A table whose first column is text and whose others are figures."""
    view = Table(title=title or None, caption=caption or None, title_justify="left", caption_justify="left")
    for index, column in enumerate(columns):
        view.add_column(column, justify="right" if index else "left", no_wrap=index > 0)
    for row in rows:
        view.add_row(*(escape(cell) for cell in row))
    return view


_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def judged_sentence(tokens: Sequence[dict[str, Any]]) -> Text:
    """An edited sentence, each token with D's probability (%) that it was replaced as a subscript.

    Green below one quarter, yellow below one half, red above: there D says "replaced". What really was replaced is
    underlined, with the original in brackets.
    """
    text = Text()
    for token in tokens:
        p = token["probability"]
        colour = "red" if p > 0.5 else "yellow" if p > 0.25 else "green"
        piece = token["token"]
        if len(text) and not piece.startswith("##"):
            text.append(" ")
        text.append(piece.removeprefix("##"), style=f"{colour} underline" if token["replaced"] else colour)
        if token["replaced"]:
            text.append(f"[{token['original']}]", style="dim")
        text.append(str(round(100 * p)).translate(_SUBSCRIPT), style="dim")
    return text


class CountView:
    """How many are done, how fast, and what is left: a bar on a terminal, a line every half minute in a log."""

    def __init__(self, console: Console, what: str) -> None:
        self.console, self.what = console, what
        self._began = self._said = time.monotonic()
        self._done = 0
        self._bar: Progress | None = None

    def __call__(self, done: int, share: float | None) -> None:
        """`done` of `what` so far; `share`: of the whole, 0 to 1, or None where nobody knows."""
        self._done, now = done, time.monotonic()
        left = ""
        if share:
            seconds = (now - self._began) * (1 - share) / share
            left = f"{int(seconds) // 60}:{int(seconds) % 60:02d} left"
        shown = "  ".join(part for part in (left, f"{done:,} {self.what}", self.rate()) if part)
        if self.console.is_terminal:
            if self._bar is None:
                columns = (BarColumn(bar_width=24), TextColumn("{task.fields[shown]}"))
                self._bar = Progress(*columns, console=self.console, transient=True)
                self._bar.start()
                self._task = self._bar.add_task("", total=None if share is None else 1.0, shown="")
            self._bar.update(self._task, completed=share or 0, shown=shown)
        elif now - self._said > 30:
            self._said = now
            say(self.console, shown)

    def rate(self) -> str:
        """Speed so far, in words."""
        return f"{self._done / max(time.monotonic() - self._began, 1e-9):,.0f} {self.what}/s"

    def close(self) -> None:
        """Remove the bar, also after an error."""
        if self._bar:
            self._bar.stop()
            self._bar = None


def cosine_table(console: Console, sentences: Sequence[str], cosines: Sequence[Sequence[float]]) -> Table:
    """Cosines of all pairs; where they are too many for the console's width, each sentence's nearest other."""
    others = [[(value, j) for j, value in enumerate(row) if j != i] for i, row in enumerate(cosines)]
    if 30 + 8 * len(sentences) > console.width:
        view = Table(title="Each sentence's nearest among the others", title_justify="left")
        view.add_column("sentence", overflow="fold")
        view.add_column("cosine", justify="right", no_wrap=True, min_width=6)
        view.add_column("nearest", overflow="fold")
        for sentence, row in zip(sentences, others, strict=True):
            value, nearest = max(row)
            view.add_row(escape(sentence), f"{value:.2f}", escape(sentences[nearest]))
        return view
    title = "Cosines; each row's highest in bold" if console.is_terminal else "Cosines"
    view = Table(title=title, title_justify="left")
    view.add_column("", justify="right", no_wrap=True)
    view.add_column("sentence", overflow="fold")
    for i in range(len(sentences)):
        view.add_column(str(i + 1), justify="right", no_wrap=True, min_width=5)
    for i, (sentence, row) in enumerate(zip(sentences, others, strict=True)):
        highest = max(row)[1]
        shown = {j: f"[bold green]{value:.2f}[/]" if j == highest else f"{value:.2f}" for value, j in row}
        view.add_row(str(i + 1), escape(sentence), *(shown.get(j, "[dim]1[/]") for j in range(len(sentences))))
    return view


class CellsView:
    """Many runs, some at once: a line for each that ended, and on a terminal a bar of all and one of each at work;
    elsewhere a line for each that begins, and once soon how long it will all take."""

    def __init__(self, console: Console, *, costs: Mapping[Any, tuple[float, float]], total: int) -> None:
        """`costs` has what is still to be done of `total` cells: how long each trains, and is scored."""
        finished = total - len(costs)
        self.console, self.total, self._ended = console, total, finished
        self._began, self._costs, self._done = time.monotonic(), dict(costs), 0.0
        self._at: dict[Any, float] = {}
        self._steps: dict[Any, tuple[int, int]] = {}
        """Of each run at work, the step it goes on from, and its last."""
        self._bars: dict[Any, Any] = {}
        self._bar: Progress | None = None
        self._told_time = console.is_terminal
        if console.is_terminal and costs:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[shown]}"))
            self._bar = Progress(*columns, console=console, transient=True)
            self._bar.start()
            self._all = self._bar.add_task("all runs", total=total, completed=finished, shown="")

    def __call__(self, cell: Any, event: str, facts: dict[str, Any]) -> None:
        """An event of `cell`'s training (`training.run.run`), or "end" with its outcome."""
        name = f"{cell.row}, seed {cell.seed}" if cell.trained else cell.row
        if event == "end":
            self._end(cell, name, facts)
        elif event == "start":
            first, last = int((facts.get("resumed") or "0").removeprefix("step-")), facts["steps"]
            self._steps[cell] = first, last
            trained, scored = self._costs[cell]
            self._costs[cell] = trained * (1 - first / last), scored  # what was done before took none of our time
            if facts.get("resumed"):
                say(self.console, f"{name} goes on from {facts['resumed']}")
            elif not self.console.is_terminal:
                say(self.console, f"{name} begins: {facts['steps']:,} steps")
            if self._bar:
                self._bars[cell] = self._bar.add_task(escape(name), total=facts["steps"], shown="")
        elif event == "log" and cell in self._steps:
            first, last = self._steps[cell]
            self._at[cell] = (facts["step"] - first) / max(last - first, 1)
            if self._bar:
                shown = f"dev {facts['dev']:.2f}" if facts.get("dev") is not None else f"step {facts['step']:,}"
                self._bar.update(self._bars[cell], completed=facts["step"], shown=shown)
                self._bar.update(self._all, completed=self._ended + sum(self._at.values()), shown=self._left())
            # Of several at once each has news, and more than the start's score.
            if not self._told_time and len(self._at) == len(self._steps) and all(self._at.values()):
                self._told_time = True
                say(self.console, f"about {self._left()}")

    def _end(self, cell: Any, name: str, outcome: dict[str, Any]) -> None:
        self._at.pop(cell, None)
        self._steps.pop(cell, None)
        self._ended, self._done = self._ended + 1, self._done + sum(self._costs[cell])
        if self._bar and cell in self._bars:
            self._bar.remove_task(self._bars.pop(cell))
        if outcome["status"] == "complete":
            scores = {key: score["value"] for key, score in outcome["scores"].items() if score["value"] is not None}
            said = "  ".join(f"{key} {value:.4g}" for key, value in scores.items())
        else:
            said = f"FAILED: {outcome['message']}"
        took = f"{outcome['seconds']:.0f} s" if outcome.get("seconds") else ""
        width = len(str(self.total))
        parts = (f"{self._ended:>{width}}/{self.total}  {name}", said, took, self._left())
        say(self.console, "  ".join(part for part in parts if part))
        if self._bar:
            self._bar.update(self._all, completed=self._ended, shown=self._left())

    def _left(self) -> str:
        done = self._done + sum(share * self._costs[cell][0] for cell, share in self._at.items())
        if not done or self._ended >= self.total:
            return ""
        seconds = int((time.monotonic() - self._began) * (sum(map(sum, self._costs.values())) - done) / done)
        hours, minutes = divmod(seconds // 60, 60)
        return f"{hours}:{minutes:02d}:{seconds % 60:02d} left" if hours else f"{minutes}:{seconds % 60:02d} left"

    def close(self) -> None:
        """Remove the bars, also after an error."""
        if self._bar:
            self._bar.stop()
            self._bar = None
