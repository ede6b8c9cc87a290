"""The result of `diffcse compare` as rows of a table, as Markdown, and as one HTML page that needs no network.

Drawn from the comparison's plain JSON values alone. A difference never stands without its interval or the reason why
it has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from diffcse.figures import Figures
from diffcse.report.forest import Interval, dots_html, forest_html
from diffcse.report.parts import MISSING, markdown_table, mean_and_sd, page_template, signed

CHECKPOINTS = {
    "best": ("Best step by dev score", "the weights in model/, chosen by the run's dev set"),
    "held_out": ("Best step by held-out text", "the weights in model/, chosen without labels"),
    "last": ("After the last step", "no score chose these weights"),
    "given": ("As given", "scores of what ships, or of files, which do not say how the weights were chosen"),
}
_MARKS = {"better": " ▲", "worse": " ▼", "tie": " =", None: ""}


class Comparison(dict[str, Any]):
    """A comparison as plain JSON values; printed, and in a notebook, it is a table."""

    def figures(self) -> list[Figures]:
        """A table for each checkpoint, with what it shows below."""
        tables = []
        for checkpoint, part in self["checkpoints"].items():
            title, about = CHECKPOINTS[checkpoint]
            heads, rows = comparison_rows(part, self["baseline"])
            title = f"{title}: {about}"
            if len(part["sets"]) == 1:  # its heading would be the widest row of the first column
                title, rows = f"{part['sets'][0]}. {title}", rows[1:]
            tables.append(Figures(title, heads, rows, caption="\n".join(f"{v}." for v in verdicts(part))))
        return tables

    def lines(self) -> list[str]:
        """How to read the tables, and notes."""
        return [*explanations(self), *(f"note     {note}" for note in self["notes"])]

    def __repr__(self) -> str:
        return "\n".join([*map(str, self.figures()), *self.lines()])

    def _repr_html_(self) -> str:
        below = "".join(f"<p>{escape(line)}</p>" for line in self.lines())
        return "".join(each._repr_html_() for each in self.figures()) + below

    def to_dict(self) -> dict[str, Any]:
        """The plain values, as `diffcse compare --json` writes them."""
        return dict(self)


def comparison_markdown(comparison: dict[str, Any]) -> str:
    """A table of scores and differences for each checkpoint, what it shows, and the notes."""
    lines = [f"# {_title(comparison)}", ""]
    for checkpoint, part in comparison["checkpoints"].items():
        title, about = CHECKPOINTS[checkpoint]
        lines += [f"## {title}", "", f"{about[0].upper()}{about[1:]}.", ""]
        lines += [f"- {line}." for line in verdicts(part)] + ([""] if part["effects"] else [])
        lines += markdown_table(*comparison_rows(part, comparison["baseline"]))
    lines += [f"Figures: {comparison['metric']}.", "", *explanations(comparison), ""]
    lines += [f"- Note: {note}" for note in comparison["notes"]]
    return "\n".join(lines).rstrip("\n") + "\n"


def comparison_rows(part: dict[str, Any], baseline: str) -> tuple[list[str], list[list[str]]]:
    """(heads, rows) of one checkpoint: for each set a heading, every method's score, and its difference."""
    effects = {each["method"]: each["sets"] for each in part["effects"]}
    heads = ["method", "runs", "score", "difference", "95 % interval"]
    rows = []
    for name in part["sets"]:
        rows.append([f"— {name} —", *[""] * (len(heads) - 1)])
        for row in part["methods"]:
            cells = [row["method"], f"{len(row['seeds'])}", mean_and_sd(row["scores"][name])]
            rows.append([*cells, *_difference(effects.get(row["method"], {}).get(name), row["method"] == baseline)])
    if all(row[-1] in ("", MISSING) for row in rows):
        return heads[:-1], [row[:-1] for row in rows]
    return heads, rows


def _difference(effect: Mapping[str, Any] | None, is_baseline: bool) -> list[str]:
    if effect is None:
        return ["baseline" if is_baseline else MISSING, ""]
    known = effect["low"] is not None
    interval = f"{signed(effect['low'])} to {signed(effect['high'])}" if known else MISSING
    return [f"{signed(effect['difference'])}{_MARKS[effect['verdict']]}", interval]


# ---- words -----------------------------------------------------------------------------------------------------------


def _title(comparison: dict[str, Any]) -> str:
    others = [name for name in comparison["methods"] if name != comparison["baseline"]]
    title = f"{' and '.join(others)} against {comparison['baseline']}" if others else comparison["baseline"]
    return title if len(title) <= 90 else f"{len(comparison['methods'])} methods compared"


def verdicts(part: dict[str, Any]) -> list[str]:
    """Each method's difference on every average (or set that is in none), in words."""
    return [
        _verdict(each["method"], each["against"], name, each["sets"][name])
        for each in part["effects"]
        for name in part["headlines"]
    ]


def _verdict(method: str, against: str, name: str, effect: dict[str, Any]) -> str:
    kind = name.removeprefix("average")
    where = f"on {name}" if kind == name else f"on the average of the{kind} sets"
    size = signed(effect["difference"])
    if effect["verdict"] == "tie":
        return f"{method} and {against} cannot be told apart {where} ({size} points)"
    if effect["verdict"] is not None:
        return f"{method} is clearly {effect['verdict']} than {against} {where} ({size} points)"
    if effect["error_seeds"] is None:
        return f"{method} against {against} {where}: {size} points, no verdict: fewer than four seeds"
    return f"{method} against {against} {where}: {size} points, no verdict: every seed gave the same difference"


def explanations(comparison: dict[str, Any]) -> list[str]:
    """How to read the intervals of this comparison, and for which methods each sentence holds."""
    effects = [
        (each["method"], effect)
        for part in comparison["checkpoints"].values()
        for each in part["effects"]
        for effect in each["sets"].values()
    ]
    if not effects:
        return []
    covered = {
        (True, True): "Intervals cover other seeds (t-test over seeds) and other sentence pairs (paired bootstrap, "
        f"{comparison['resamples']:,} draws).",
        (False, True): "Intervals cover other sentence pairs alone: there are fewer than four seeds. Other seeds may "
        "turn a difference around.",
        (True, False): "Intervals cover other seeds alone. For the sentence pairs give run folders and --data DIR.",
        (False, False): "No interval: fewer than four seeds; train with four or more.",
    }
    lines = _for_methods(
        [(name, covered[each["error_seeds"] is not None, each["error_pairs"] is not None]) for name, each in effects]
    )
    paired = {
        True: "Runs of the same seed are compared with each other. Seeds that one method lacks are left out.",
        False: "The methods share too few seeds, so runs are not paired (Welch's test).",
    }
    lines += _for_methods([(name, paired[each["seeds"] > 0]) for name, each in effects if each["error_seeds"]])
    lines.append(
        "▲ better, ▼ worse: the interval excludes zero. =: it does not, so the direction is not known. "
        "With many methods or sets some differences look clear by chance."
    )
    return lines


def _for_methods(sentences: list[tuple[str, str]]) -> list[str]:
    """Each sentence once, with the names of its methods where it does not hold for all."""
    methods: dict[str, dict[str, None]] = {}
    for method, sentence in sentences:
        methods.setdefault(sentence, {})[method] = None
    if len(methods) <= 1:
        return [*methods]
    return [f"{', '.join(each)}: {sentence}" for sentence, each in methods.items()]


# ---- the page --------------------------------------------------------------------------------------------------------


def comparison_page(comparison: dict[str, Any]) -> str:
    """The comparison as one self-contained HTML page with plots.

    Raises:
        InputError: jinja2 is not installed.
    """
    template = page_template("comparison.html")
    parts = []
    for checkpoint, part in comparison["checkpoints"].items():
        title, about = CHECKPOINTS[checkpoint]
        heads, rows = comparison_rows(part, comparison["baseline"])
        parts.append(
            {
                "title": title,
                "about": about,
                "heads": heads,
                "rows": rows,
                "verdicts": verdicts(part),
                "forest": _forest(part),
                "runs": _runs(part),
            }
        )
    return str(
        template.render(
            title=_title(comparison),
            baseline=comparison["baseline"],
            metric=comparison["metric"],
            parts=parts,
            explanations=explanations(comparison),
            notes=comparison["notes"],
            sources=comparison["sources"],
            data=comparison["data"],
            versions=comparison["versions"],
        )
    )


def _forest(part: dict[str, Any]) -> str:
    """The differences that have an interval."""
    single = len(part["effects"]) == 1
    return forest_html(
        [
            Interval.of(name if single else f"{each['method']}: {name}", effect, effect["verdict"])
            for each in part["effects"]
            for name, effect in each["sets"].items()
            if effect["low"] is not None
        ]
    )


def _runs(part: dict[str, Any]) -> str:
    """Every run of every method, set by set."""
    return "".join(
        f"<h4>{escape(name)}</h4>" + dots_html([(row["method"], row["scores"][name]) for row in part["methods"]])
        for name in part["sets"]
    )
