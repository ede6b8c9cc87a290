"""What a person sees: lines, tables, coloured tokens, and one live line while something long runs.

A terminal shows the live line; a log file gets the same numbers as plain lines.
"""

from __future__ import annotations

import html
import re
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.status import Status
from rich.text import Text

from diffcse.figures import Figures as Figures
from diffcse.figures import print_figures as print_figures
from diffcse.figures import table as table
from diffcse.record import JUDGES, verdict


def say(console: Console, line: str, style: str = "") -> None:
    """Print `line`, in which rich's markup is plain text. A label of eight characters ("note    ") has its own column.

    A terminal folds long lines between words; a log gets each line whole. `style` colours the label.
    """
    label = re.match(r"[a-z ]{8} (?=\S)", line)
    if console.is_terminal:
        width, indent = console.width, " " * label.end() if label else ""
        parts = textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
        )
        line = "\n".join(parts)
    text = Text(line)
    text.stylize(style or ("yellow" if line.startswith(("note ", "warning ")) else ""), 0, 8)
    console.print(text, soft_wrap=True)


def print_recipe(text: str) -> None:
    """Print a recipe in UTF-8, the encoding that recipes are read in, whatever the terminal's encoding is."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    print(text, end="")


def loading(console: Console) -> Status:
    """While large libraries load, a terminal shows this; a log shows nothing."""
    return console.status("loading torch and transformers")


# ---- tables and tokens ---------------------------------------------------------------------------------------------


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


# ---- long work -----------------------------------------------------------------------------------------------------


_PAUSE = 0.2  # seconds between two pictures of the line in a notebook


class LiveLine:
    """How far long work is: one live line on a terminal. A log gets plain lines, at most one every `pause` seconds."""

    def __init__(self, console: Console, label: str = "", *, pause: float = 0.0) -> None:
        self.console, self.label, self.pause = console, label, pause
        self._bar: Progress | None = None
        self._cell: Any = None
        self._began: tuple[float, float] | None = None
        self._printed = time.monotonic()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(self, share: float | None, first: Sequence[str], rest: Sequence[str] = ()) -> None:
        """Show `first`, the time left, then as many of `rest` as fit. `share` of the work is done; None: unknown."""
        parts = [part for part in (*first, self._time_left(share), *rest) if part]
        if self.console.is_jupyter:
            self._show_in_notebook(share, [*filter(None, [self.label]), *parts])
        elif self.console.is_terminal:
            self._draw(share, parts)
        elif time.monotonic() - self._printed >= self.pause:
            self._printed = time.monotonic()
            say(self.console, "  ".join(parts))

    def restart(self) -> None:
        """Another piece of work begins: it has its own time left."""
        self._began = None

    @property
    def is_live(self) -> bool:
        """Whether the line moves: on a terminal and in a notebook."""
        return self.console.is_terminal or self.console.is_jupyter

    def _show_in_notebook(self, share: float | None, parts: Sequence[str]) -> None:
        """One line of output that is replaced; the last one stays."""
        if self._cell is not None and share != 1 and time.monotonic() - self._printed < _PAUSE:
            return
        from IPython.display import HTML, display  # type: ignore[import-not-found,unused-ignore]

        self._printed = time.monotonic()
        bar = "" if share is None else f"<progress value='{share:.4f}' max='1'></progress> "
        page = HTML(f"<div style='font-family:monospace'>{bar}{html.escape('  '.join(parts))}</div>")
        if self._cell is None:
            self._cell = display(page, display_id=True)
        else:
            self._cell.update(page)

    def close(self) -> None:
        """Remove the line, also after an error. In a notebook it stays."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _draw(self, share: float | None, parts: Sequence[str]) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=10), TextColumn("{task.fields[shown]}"))
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=None, shown="")
        room = self.console.width - len(self.label) - 14
        text = parts[0][:room]
        for part in parts[1:]:
            if len(text) + 2 + len(part) > room:
                break
            text += f"  {part}"
        total = None if share is None else 1.0
        self._bar.update(
            self._task, description=escape(self.label), completed=share or 0, total=total, shown=escape(text)
        )

    def _time_left(self, share: float | None) -> str:
        if share is None:
            return ""
        now = time.monotonic()
        if self._began is None:
            self._began = (now, share)
        began, first = self._began
        return time_left((now - began) * (1 - share) / (share - first)) if share > first else ""


def time_left(seconds: float) -> str:
    """
    >>> time_left(75), time_left(3675)
    ('1:15 left', '1:01:15 left')
    """
    hours, minutes = divmod(int(seconds) // 60, 60)
    clock = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{clock}:{int(seconds) % 60:02d} left"


class CountView(LiveLine):
    """How many items are done, and how fast."""

    def __init__(self, console: Console, what: str) -> None:
        super().__init__(console, pause=30.0)
        self.what, self._start, self._done = what, time.monotonic(), 0

    def __call__(self, done: int, total: int | None) -> None:
        """`done` items so far, of `total`; None: the total is unknown."""
        self._done = done
        share = None if total is None else min(1.0, done / max(total, 1))
        of = "" if total is None else f" of {total:,}"
        self.show(share, [f"{done:,}{of} {self.what}"], [self.rate()])

    def rate(self) -> str:
        """Items a second so far."""
        return f"{self._done / max(time.monotonic() - self._start, 1e-9):,.0f} {self.what}/s"


class EvaluationView(LiveLine):
    """Which encoder is measured on which set; a log gets nothing."""

    def __call__(self, encoder: str, action: str, done: int, total: int) -> None:
        """As `evaluation.measuring.Progress`."""
        if self.is_live:
            if not done:
                self.restart()
            of = f"{done:,} of {total:,} sentences" if total else ""
            self.show(done / total if total else None, [f"{action}  {of}".strip()], [encoder])


class TrainingView(LiveLine):
    """Prints the events of `training.run.run` and of `pretraining.run.pretrain`: pass an instance as `report`."""

    warned = 0
    """Number of the run's warnings that were shown at its start."""

    def __init__(self, console: Console, label: str = "") -> None:
        super().__init__(console, label)
        self._curves: dict[str, list[float]] = {}
        self._latest: list[str] = []

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        getattr(self, f"_{event}")(facts)

    def _corpus(self, facts: dict[str, Any]) -> None:
        say(self.console, f"corpus   {facts['summary']}")

    def _phase(self, facts: dict[str, Any]) -> None:
        self.close()
        say(self.console, f"         {facts['label']}")

    def _embedded(self, facts: dict[str, Any]) -> None:
        if self.is_live:
            self.show(facts["done"] / facts["total"], [f"{facts['done']:,} of {facts['total']:,} texts"])

    def _plan(self, facts: dict[str, Any]) -> None:
        for line in facts["lines"]:
            say(self.console, line)
        for warning in facts["warnings"]:
            say(self.console, f"note     {warning}")

    def _warning(self, facts: dict[str, Any]) -> None:
        say(self.console, f"warning  {facts['line']}")

    def _start(self, facts: dict[str, Any]) -> None:
        ships = f" ({_count(facts['shipped'])} of them in the saved encoder)" if "shipped" in facts else ""
        say(
            self.console,
            f"training {_count(facts['trained'])} weights{ships} for {facts['steps']:,} steps "
            f"({_few(facts['passes'])} passes over the text) on {facts['device']} in "
            f"{'bf16' if facts['bf16'] else 'fp32'}"
            + (f" by {facts['processes']} processes" if facts.get("processes", 1) > 1 else "")
            + (f", resumed from {facts['resumed']}" if facts["resumed"] else ""),
        )
        self.warned = len(facts["warnings"])
        for warning in facts["warnings"]:
            say(self.console, f"note     {warning}")

    def _step(self, facts: dict[str, Any]) -> None:
        """The bar moves with every step; a log gets the logged steps only."""
        if self.is_live:
            first, *rest = [*self._latest, ""]
            self.show(facts["step"] / facts["steps"], [f"step {facts['step']:,}/{facts['steps']:,}", first], rest)

    def _log(self, entry: dict[str, Any]) -> None:
        for key in ("loss", *JUDGES):
            if entry.get(key) is not None:
                self._curves.setdefault(key, []).append(entry[key])
        scores = [f"{name} {entry[key]:.2f}" for key, name in JUDGES.items() if key in entry]
        if "held_out_loss" in entry:
            scores.append(f"held-out loss {entry['held_out_loss']:.3f}, accuracy {entry['held_out_accuracy']:.1%}")
        if scores:
            say(self.console, f"step {entry['step']:>6,}  {'  '.join(scores)}")
            return
        width = 1 if self.is_live else 6
        self._latest = loss, *terms = loss_parts(entry)
        self.show(entry["step"] / entry["steps"], [f"step {entry['step']:>{width},}/{entry['steps']:,}", loss], terms)

    def _done(self, facts: dict[str, Any]) -> None:
        self.close()
        for key, values in self._curves.items():
            if self.is_live and len(values) > 2:
                label = {"loss": "loss", "dev": "dev"}.get(key, "held out")
                say(self.console, f"{label:<8} {sparkline(values)}  {values[0]:.4g} to {values[-1]:.4g}")
        if "tokens_seen" in facts:
            share = facts["truncated"] / facts["sentences"]
            say(
                self.console,
                f"trained on {facts['tokens_seen']:,} tokens; {share:.0%} of the sentences were cut at the token limit",
            )
        elif facts["sentences_seen"]:
            seen, cut, what = facts["sentences_seen"], facts["truncated"], facts.get("examples", "sentences")
            say(
                self.console,
                f"trained on {seen:,.0f} {what}; {cut:,.0f} ({cut / seen:.0%}) were cut at the token limit",
            )
        if "false_negatives" in facts:
            fate = "left out of the loss" if facts["false_negatives_masked"] else "kept in the loss"
            say(self.console, f"         {facts['false_negatives']:,.0f} false negatives in the batches, {fate}")

    def _finished(self, facts: dict[str, Any]) -> None:
        began = facts["created"].replace("T", " ").replace("+00:00", " UTC")
        say(self.console, f"nothing to train: this run, begun {began}, is complete")


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A curve in one line: means of up to `width` equal parts, from the lowest bar to the highest.

    >>> sparkline([0, 1, 2, 3]), sparkline([4, 4])
    ('▁▃▆█', '▁▁')
    """
    edges = (
        [round(i * len(values) / width) for i in range(width + 1)] if len(values) > width else range(len(values) + 1)
    )
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / (high - low or 1))] for value in means)


def _count(weights: int) -> str:
    return f"{weights / 1e6:.1f}M" if weights >= 1e5 else f"{weights:,}"


def _few(number: float) -> str:
    """Two digits, never a power of ten."""
    if number < 0.001:
        return "less than 0.001"
    return f"{number:.2g}" if number < 10 else f"{number:,.0f}"


def loss_parts(entry: dict[str, Any]) -> list[str]:
    """The loss of one log entry, then its terms, metrics and speed, most important first."""

    def share(name: str) -> str:
        return "–" if entry[name] is None else f"{entry[name]:.1%}"  # None: no token was judged

    parts = [f"loss {entry['loss']:.4f}"]
    if "next_loss" in entry:
        parts.append(f"next sentence {entry['next_loss']:.3f}")
    if "sums_loss" in entry:
        parts.append(f"sums {entry['sums_loss']:.4f}")
    if "contrastive" in entry:
        parts.append(f"contrastive {entry['contrastive']:.4f}")
        parts.append(f"cosine {entry['positive_cosine']:.2f}/{entry['negative_cosine']:.2f}")
    if "lm_log_loss" in entry:
        parts.append(f"difference {entry['difference']:.3f} (accuracy {share('lm_accuracy')})")
    elif "difference" in entry:
        majority = share("rtd_majority")
        parts.append(f"rtd {entry['difference']:.3f} (accuracy {share('rtd_accuracy')}, majority {majority})")
    if "sentences_per_second" in entry:
        parts.append(f"{entry['sentences_per_second']:.0f} sentences/s")
    if "tokens_per_second" in entry:
        parts.append(f"{entry['tokens_per_second']:,.0f} tokens/s")
    return parts


def judged(scores: dict[str, Any]) -> list[str]:
    """Lines on what judged a run's encoder, and whether training helped by that measure."""
    lines = []
    for name, label in (("dev", "dev     "), ("label_free", "held out")):
        score = scores.get(name)
        if score and "shipped" in scores:  # the recipe adapt, which has no steps
            model = "the start, unchanged" if scores["shipped"] == "start" else "the start with the learned layer"
            lines.append(
                f"{label} {score['metric']}: {score['start']:.2f} for the start, {score['last']:.2f} with the learned "
                f"layer; model/ is {model}"
            )
        elif score:
            kept = ", kept in model/" if score["selects"] else ""
            lines.append(
                f"{label} {score['metric']}: {score['start']:.2f} before training, {score['best']:.2f} at best "
                f"(step {score['best_step']:,}{kept}), {score['last']:.2f} after the last step"
            )
    answer = verdict(scores)
    return [*lines, f"verdict  {answer}"] if answer else lines


class CellsView(LiveLine):
    """Many training runs, some at once: one line for each run that ends, and the time left for all of them."""

    def __init__(self, console: Console, *, costs: Mapping[Any, tuple[float, float]], total: int) -> None:
        """`costs`: for each of the `total` cells that is still to be done, its time to train and its time to score."""
        super().__init__(console, "runs")
        self.total, self._ended = total, total - len(costs)
        self._costs, self._start = dict(costs), time.monotonic()
        self._spent = 0.0
        """Cost of the cells that ended."""
        self._running: dict[Any, tuple[int, int, float]] = {}
        """Cell -> its first step here, its last step, and the share of these that is done."""
        self._estimated = console.is_terminal

    def __call__(self, cell: Any, event: str, facts: dict[str, Any]) -> None:
        """An event of `cell`'s training (`training.run.run`), or "end" with its outcome."""
        name = f"{cell.row}, seed {cell.seed}" if cell.trained else cell.row
        if event == "end":
            self._end(cell, name, facts)
        elif event == "start":
            self._begin(cell, name, facts)
        elif event == "log" and cell in self._running:
            first, last, _ = self._running[cell]
            self._running[cell] = first, last, (facts["step"] - first) / max(last - first, 1)
            self._news(name, facts)

    def _begin(self, cell: Any, name: str, facts: dict[str, Any]) -> None:
        first, last = int((facts.get("resumed") or "0").removeprefix("step-")), facts["steps"]
        self._running[cell] = first, last, 0.0
        train, score = self._costs[cell]
        self._costs[cell] = train * (1 - first / last), score  # steps before a resume take no time now
        if facts.get("resumed"):
            say(self.console, f"{name} resumes from {facts['resumed']}")
        elif not self.console.is_terminal:
            say(self.console, f"{name} begins: {last:,} steps")

    def _news(self, name: str, facts: dict[str, Any]) -> None:
        if self.console.is_terminal:
            score = f"dev {facts['dev']:.2f}" if facts.get("dev") is not None else ""
            done = f"{self._ended}/{self.total}"
            self._draw(
                self._share(), [part for part in (done, self._left(), name, f"step {facts['step']:,}", score) if part]
            )
        # A log gets one early estimate, once every running cell has trained a step.
        elif not self._estimated and all(share for *_, share in self._running.values()):
            self._estimated = True
            say(self.console, f"about {self._left()}")

    def _end(self, cell: Any, name: str, outcome: dict[str, Any]) -> None:
        self._running.pop(cell, None)
        self._ended, self._spent = self._ended + 1, self._spent + sum(self._costs[cell])
        if outcome["status"] == "complete":
            scores = {key: score["value"] for key, score in outcome["scores"].items() if score["value"] is not None}
            result = "  ".join(f"{key} {value:.4g}" for key, value in scores.items())
        else:
            result = f"FAILED: {outcome['message']}"
        took = f"{outcome['seconds']:.0f} s" if outcome.get("seconds") else ""
        parts = (f"{self._ended:>{len(str(self.total))}}/{self.total}  {name}", result, took, self._left())
        say(self.console, "  ".join(part for part in parts if part))

    def _share(self) -> float:
        """Share of the cost of all cells that is spent."""
        running = sum(share * self._costs[cell][0] for cell, (*_, share) in self._running.items())
        return (self._spent + running) / max(sum(map(sum, self._costs.values())), 1e-9)

    def _left(self) -> str:
        share = self._share()
        if not share or self._ended >= self.total:
            return ""
        return time_left((time.monotonic() - self._start) * (1 - share) / share)
