"""An ablation's table as Markdown, as one HTML page that needs no network, and several of them as one page of results.

Drawn from the tables' plain values alone. What was published stands beside what was measured and never instead of it;
a row that failed or was left out says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from diffcse.report.parts import (
    AXIS,
    COLOURS,
    MISSING,
    colour,
    drawn,
    escaped,
    markdown_table,
    mean_and_sd,
    signed,
    template_and_plotly,
)

ALIKE = (
    "the same settings, and so the same scores; what tells them apart changes nothing with this --recipe, --model or "
    "--set"
)
"""Of rows that are one run under several names."""
_MARKS = {"better": "▲", "worse": "▼", "tie": "=", None: ""}


def ablation_markdown(table: dict[str, Any], *, level: int = 1) -> str:
    """The table, a section for each column; headings from `level` on."""
    head = "#" * level
    lines = [f"{head} {table['title']}", "", *_facts(table), ""]
    for name, column in table["columns"].items():
        lines += [f"{head}# {heading(column)}", ""]
        if column["lacks"]:
            lines += [f"Not measured: it needs {column['lacks']}.", ""]
            continue
        names, rows = score_rows(table, name)
        lines += markdown_table(names, rows)
        if sentence := agreement(column):
            lines += [sentence, ""]
    if curves := curve_rows(table):
        lines += [f"{head}# dev Spearman by step, mean over the runs", "", *markdown_table(*curves)]
    lines += [f"- {note}" for note in notes(table)]
    lines += ["", *(f"*{text}*" for text in explanations(table))]
    return "\n".join(lines).rstrip("\n") + "\n"


def results_markdown(tables: Mapping[str, dict[str, Any]], command: str) -> str:
    """One page of several tables, by their folders; before them, how far they bear the paper out."""
    titles = [table["title"] for table in tables.values()]
    named = [
        {**table, "title": table["title"] + (f" ({PurePath(folder).name})" if titles.count(table["title"]) > 1 else "")}
        for folder, table in tables.items()
    ]
    lines = ["# Results", "", f"Written by `{command}` from the records of the runs.", ""]
    if found := summary_rows(named):
        lines += [f"## {_SUMMARY_TITLE}", "", *_in_short(named), "", *markdown_table(*found), *_SUMMARY, ""]
    return "\n".join(lines) + "\n" + "\n".join(ablation_markdown(table, level=2) for table in named)


_SUMMARY_TITLE = "How far the paper's differences show here"


def _in_short(tables: Sequence[dict[str, Any]]) -> list[str]:
    """What was compared with the paper, and how much of that can be told, in a sentence each."""
    outcomes, distinct = [], set()
    for table in tables:
        for name, column in table["columns"].items():
            for row, score in _against_the_paper(table, column).items():
                outcomes.append(_outcome(score, column["digits"]))
                distinct.add((table["paper"], name, row, score["published_difference"]))
    agree, contrary, unsure = (outcomes.count(one) for one in ("agree", "contrary", "open"))
    runs = [run for table in tables for row in table["rows"] for run in row["runs"]]
    steps = sorted({run["steps"] for run in runs if run.get("steps")})
    models = dict.fromkeys(name for table in tables for name in table["model"].split(", "))
    some = f" of {steps[0]:,} to {steps[-1]:,} steps" if len(steps) > 1 else f" of {steps[0]:,} steps" if steps else ""
    return [
        f"The paper has BERT-base; these are runs{some} from {', '.join(models)}. Comparisons with its differences "
        f"({len(distinct)} published, some in several tables): {len(outcomes)}, of which {agree} find its direction "
        f"beyond the luck of the seeds, {contrary} the contrary, and {unsure} cannot tell.",
        "Rows of one table share their reference, and its luck: where one is mistaken, others are likely to be.",
        "A difference between two rows is that of all settings in which they differ, and rows of one name can differ "
        "between tables: each table says its recipe.",
    ]


def _against_the_paper(table: dict[str, Any], column: dict[str, Any]) -> dict[str, Any]:
    """Scores with a difference of ours and of the paper, by row; not of a row that is the same run as its reference."""
    against = {row["name"]: row["against"] for row in table["rows"]}
    return {
        name: score
        for name, score in column["rows"].items()
        if score["published_difference"]
        and score["effect"] is not None
        and not any({name, against[name]} <= {*names} for names in table.get("alike", ()))
    }


_SUMMARY = [
    "*Rows run*: of those that the grid has. *Same sign*: rows whose difference from the reference has the published",
    "sign. *Agree*: those of them whose interval excludes zero; of rows without any difference, one in forty does so",
    "by chance. *Contrary*: such an interval on the other side, with the difference. *Open*: all others, too few seeds",
    "for the size of the difference, or none. Kendall's τ compares the order of the means with the published; p is the",
    "chance of as much agreement or disagreement between two orders that have nothing to do with each other.",
]


def summary_rows(tables: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]] | None:
    """(heads, rows): of each score with published differences or order, what the runs bear out; None without any."""
    rows = []
    for table in tables:
        labels = {row["name"]: row["label"] for row in table["rows"]}
        for column in table["columns"].values():
            scores = _against_the_paper(table, column)
            order = column["agreement"] or {}
            if not scores and order.get("kendall") is None:
                continue
            outcomes = {name: _outcome(score, column["digits"]) for name, score in scores.items()}
            same = sum(one["effect"]["difference"] * one["published_difference"] > 0 for one in scores.values())
            contrary = [
                f"{labels[name]} ({signed(scores[name]['effect']['difference'], column['digits'])})"
                for name, outcome in outcomes.items()
                if outcome == "contrary"
            ]
            ranked = [score for score in column["rows"].values() if score["n"] and score["published"] is not None]
            seeds = {score["n"] for score in [*scores.values(), *ranked]}
            rows.append(
                [
                    table["title"],
                    table["recipe"],
                    column["label"],
                    f"{sum(score['n'] > 0 for score in column['rows'].values())} of {len(column['rows'])}",
                    " to ".join(str(n) for n in sorted({min(seeds), max(seeds)})),
                    *(
                        [
                            f"{same} of {len(scores)}",
                            str(sum(outcome == "agree" for outcome in outcomes.values())),
                            f"{len(contrary)}: {', '.join(contrary)}" if contrary else "0",
                            str(sum(outcome == "open" for outcome in outcomes.values())),
                        ]
                        if scores
                        else [MISSING] * 4
                    ),
                    MISSING if order.get("kendall") is None else f"{order['kendall']:+.2f}{_chance(order)}",
                ]
            )
    heads = ["table", "recipe", "score", "rows run", "seeds", "same sign", "agree", "contrary", "open", "Kendall's τ"]
    return (heads, rows) if rows else None


def _outcome(score: dict[str, Any], digits: int) -> str:
    """Whether a row's difference has the published sign beyond the seeds' luck; one that is shown as zero is none."""
    low, high = score["effect"]["low"], score["effect"]["high"]
    if low is None or low <= 0 <= high or abs(score["effect"]["difference"]) < 0.5 * 10**-digits:
        return "open"
    return "agree" if (low > 0) == (score["published_difference"] > 0) else "contrary"


def ablation_page(table: dict[str, Any]) -> str:
    """The table as one self-contained HTML page with plots.

    Raises:
        InputError: plotly or jinja2 is not installed.
    """
    template, plotly = template_and_plotly("table.html")
    parts = []
    for name, column in table["columns"].items():
        part = {"title": heading(column), "lacks": column["lacks"]}
        if not column["lacks"]:
            names, rows = score_rows(table, name)
            part |= {"names": names, "rows": rows, "agreement": agreement(column), "plot": _dots(table, name)}
        parts.append(part)
    return str(
        template.render(
            title=table["title"],
            facts=_facts(table, code=False),
            parts=parts,
            curves=_curves(table),
            notes=notes(table),
            explanations=explanations(table),
            rows=table["rows"],
            versions=table["versions"],
            command=table["command"],
            plotly=plotly,
        )
    )


# ---- words -----------------------------------------------------------------------------------------------------------


def heading(column: dict[str, Any]) -> str:
    """A column's name, what it is measured on, and which way is better."""
    sets = ", ".join(column["measured_on"])
    return f"{column['label']}{f' ({sets})' if sets else ''}{', lower is better' if column['lower_is_better'] else ''}"


def _said(row: dict[str, Any]) -> str:
    """A row's label, with its group where it has one: groups may repeat labels."""
    return row["label"] + (f" ({row['group']})" if row["group"] else "")


def _shown(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows but those that nobody asked for; the reference is always one of them."""
    return [row for row in table["rows"] if row["against"] is None or not _left_out(table, row)]


def _left_out(table: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether --only left a row out, and no earlier command ran any of it."""
    asked = not table.get("only") or row["name"] in table["only"]
    return not asked and all(run["status"] == "not run" for run in row["runs"])


def score_rows(table: dict[str, Any], name: str) -> tuple[list[str], list[list[str]]]:
    """(heads, rows) of one column's table: ours, the published figure, and both differences from the reference."""
    column = table["columns"][name]
    digits, scores = column["digits"], column["rows"]
    published = any(score["published"] is not None for score in scores.values())
    heads = ["row", "runs", "ours", *(["published"] if published else [])]
    heads += ["difference", "95 % interval", *(["published difference"] if published else [])]
    rows, group = [], ""
    for row in _shown(table):
        score = scores[row["name"]]
        if row["group"] != group:
            group = row["group"]
            rows.append([_group(group), *[""] * (len(heads) - 1)])
        one = score["effect"]
        sure = one is not None and one["low"] is not None
        cells = [row["label"], _runs(row, score), mean_and_sd(score, digits)]
        cells += [_number(score["published"], digits)] if published else []
        if row["against"] is None:
            cells += ["reference", ""]
        else:
            cells += [f"{signed(one['difference'], digits)} {_MARKS[score['verdict']]}".strip() if one else MISSING]
            cells += [f"{signed(one['low'], digits)} to {signed(one['high'], digits)}" if sure else MISSING]
        difference = score["published_difference"]
        cells += ([MISSING if difference is None else signed(difference, digits)]) if published else []
        rows.append(cells)
    return heads, rows


def curve_rows(table: dict[str, Any]) -> tuple[list[str], list[list[str]]] | None:
    """(heads, rows) of the dev score over training: whether the rows' order had settled. None if no row was trained."""
    curves = [(row, dict(zip(*_mean_curve(row), strict=True))) for row in table["rows"]]
    curves = [(row, curve) for row, curve in curves if len(curve) > 1]
    if not curves:
        return None
    steps = sorted({step for _, curve in curves for step in curve})
    gaps = min(len(steps), _STEPS_SHOWN) - 1
    shown = [steps[round(i * (len(steps) - 1) / gaps)] for i in range(gaps + 1)]
    heads = ["row", "runs", *(f"{step:,}" for step in shown)]
    rows, group = [], ""
    for row, curve in curves:
        if row["group"] != group:
            group = row["group"]
            rows.append([_group(group), *[""] * (len(heads) - 1)])
        runs = sum(len(run["curve"]) > 1 for run in row["runs"])
        rows.append([row["label"], str(runs), *(_number(curve.get(step), 2) for step in shown)])
    return heads, rows


_STEPS_SHOWN = 7


def _group(name: str) -> str:
    return f"— {name or 'others'} —"


def _chance(found: dict[str, Any]) -> str:
    return "" if found.get("p") is None else f" (p = {found['p']:.2g})"


def agreement(column: dict[str, Any]) -> str | None:
    """Whether ours and the published figures put the rows in the same order."""
    found = column["agreement"]
    if found is None or found["spearman"] is None or found["kendall"] is None:
        return None
    return (
        f"Order of the {found['n']} rows with a published figure, ours against the published: "
        f"Spearman {found['spearman']:+.2f}, Kendall {found['kendall']:+.2f}{_chance(found)}."
    )


def notes(table: dict[str, Any]) -> list[str]:
    """What a reader must know of single rows: left out, failed, compared with another, remarks."""
    lines = [table["note"]] if table["note"] else []
    lines += [f"{_by_name(table, names)}: {ALIKE}" for names in table.get("alike", ())]
    labels = {row["name"]: row["label"] for row in table["rows"]}
    references = [row["name"] for row in table["rows"] if row["against"] is None]
    waiting: list[str] = []
    unasked = [row["name"] for row in table["rows"] if _left_out(table, row)]
    for row in _shown(table):
        said = _said(row)
        if row["skipped"]:
            lines.append(f"{said}: not run: {row['skipped']}")
        failed: dict[str, list[str]] = {}
        for run in row["runs"]:
            if run["status"] == "failed":
                failed.setdefault(run["message"], []).append(str(run["seed"]))
        lines += [f"{said}: FAILED, seed {', '.join(seeds)}: {message}" for message, seeds in failed.items()]
        if row["name"] not in unasked and any(run["status"] not in ("complete", "failed") for run in row["runs"]):
            waiting.append(row["name"])
        if row["against"] not in (None, *references):
            lines.append(f"{said}: compared with “{labels[row['against']]}”")
        lines += [f"{said}: {row['note']}"] if row["note"] else []
    copied: dict[str, list[str]] = {}
    for row in table["rows"]:
        for table_of_origin in sorted({run["taken_from"].split("/")[0] for run in row["runs"] if "taken_from" in run}):
            copied.setdefault(table_of_origin, []).append(_said(row))
    lines += [f"Runs copied from {origin} (--reuse): {', '.join(rows)}" for origin, rows in copied.items()]
    lines += [f"Not asked for (--only): {_by_name(table, unasked)}"] if unasked else []
    lines += [f"Not finished: {_by_name(table, waiting)}"] if waiting else []
    return lines


def _by_name(table: dict[str, Any], names: Sequence[str]) -> str:
    """What --only takes, and in brackets the labels that the table shows, where those are others."""
    labels = {row["name"]: row["label"] for row in table["rows"]}
    others = [labels[name] for name in names if labels[name] != name]
    return ", ".join(names) + (f" ({'; '.join(others)})" if others else "")


def explanations(table: dict[str, Any]) -> list[str]:
    """How to read the figures of this very table."""
    scores = [score for column in table["columns"].values() for score in column["rows"].values()]
    effects = [score["effect"] for score in scores if score["effect"] is not None]
    lines = [
        "Ours: mean ± standard deviation over the runs; a run's weights are those of its best step by dev score. The "
        "untrained start, step 0, is never taken, even where it is best."
    ]
    if any(effect["low"] is not None for effect in effects):
        lines.append(
            "Differences are from the reference, between runs of the same seed; the interval holds the luck of the "
            "seeds alone (Student's t). ▲ better, ▼ worse: it excludes zero; = it does not: whether there is a "
            "difference cannot be told. With many rows some will look real by chance."
        )
    if any(effect.get("pooled") for effect in effects):
        lines.append(
            "Rows with two or three seeds in common with their reference: how far runs vary is taken from all rows "
            "together (residual of rows × seeds, near copies counted once), as two runs say next to nothing of it. "
            "That holds where rows vary alike: those that clearly do not (Cochran's test, 5 %) keep the interval from "
            "their own differences, but not all are found out."
        )
    if effects and any(effect["low"] is None for effect in effects):
        lines.append(
            "Where no interval stands, a row has a single run, or all seeds gave the same difference: nothing tells "
            "how it would vary."
        )
    if any(score["published"] is not None for score in scores):
        source = f"Published: {table['paper']}. " if table["paper"] else ""
        lines.append(f"{source}With another dev set, text, model or steps compare orders, not scores.")
    return lines


def _facts(table: dict[str, Any], *, code: bool = True) -> list[str]:
    """What was run, in two or three lines."""
    tick = "`" if code else ""
    seeds = ", ".join(map(str, table["seeds"]))
    steps = {run["steps"] for row in table["rows"] for run in row["runs"] if run.get("steps")}
    machines = {_machine(run["hardware"]) for row in table["rows"] for run in row["runs"] if run.get("hardware")}
    seconds = sum(run["seconds"] or 0 for row in table["rows"] for run in row["runs"])
    lines = [f"{tick}{table['command']}{tick}", ""]
    said = [
        f"Start: {table['model']}, recipe {table['recipe']}; dev set: {table['dev']}; seeds {seeds}",
        f"{' or '.join(f'{n:,}' for n in sorted(steps))} steps a run" if steps else "",
        "; ".join(sorted(machines)),
        f"{seconds / 60:.0f} minutes of runs" if seconds >= 120 else "",
    ]
    return [*lines, "; ".join(part for part in said if part) + "."]


def _machine(hardware: dict[str, Any]) -> str:
    where = hardware.get("accelerator") or f"{hardware.get('processor')}"
    threads = hardware.get("threads") or hardware.get("cores")
    return where if "accelerator" in hardware else f"{where}, {threads} thread{'' if threads == 1 else 's'} a run"


def _runs(row: dict[str, Any], score: dict[str, Any]) -> str:
    if row["skipped"]:
        return "not run"
    failed = sum(run["status"] == "failed" for run in row["runs"])
    return f"{score['n']}" + (f", {failed} failed" if failed else "")


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


# ---- plots -----------------------------------------------------------------------------------------------------------

_OURS, _PAPER = COLOURS[2], COLOURS[1]


def _dots(table: dict[str, Any], name: str) -> str | None:
    """Ours, every run and mean ± sd, and beside it, on its own axis, what was published; None of no run."""
    from plotly.subplots import make_subplots

    column = table["columns"][name]
    rows = [row for row in _shown(table) if not row["skipped"] or column["rows"][row["name"]]["published"] is not None]
    scores = [column["rows"][row["name"]] for row in rows]
    if not any(score["n"] for score in scores):
        return None
    published = any(score["published"] is not None for score in scores)
    titles = ["ours", "published"] if published else [""]
    figure = make_subplots(1, len(titles), shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=titles)
    digits = column["digits"]
    places = _places(rows)
    for row, score in zip(rows, scores, strict=True):
        label, y = escaped(_said(row)), places[row["name"]]
        if score["n"]:
            figure.add_scatter(
                x=list(score["values"].values()),
                y=[y - 0.26] * score["n"],
                mode="markers",
                marker={"color": _OURS, "size": 6, "opacity": 0.6},
                hovertemplate=[f"{label}, seed {seed}: %{{x:.{digits}f}}<extra></extra>" for seed in score["values"]],
                row=1,
                col=1,
            )
            figure.add_scatter(
                x=[score["mean"]],
                y=[y],
                mode="markers",
                marker={"color": _OURS, "size": 11},
                error_x={"type": "data", "array": [score["sd"] or 0], "color": _OURS, "thickness": 2, "width": 5},
                hovertemplate=f"{label}: {mean_and_sd(score, digits)}<extra></extra>",
                row=1,
                col=1,
            )
        if score["published"] is not None:
            figure.add_scatter(
                x=[score["published"]],
                y=[y],
                mode="markers",
                marker={"color": _PAPER, "size": 11, "symbol": "diamond-open", "line": {"width": 2}},
                hovertemplate=f"{label}: {score['published']:.{digits}f} published<extra></extra>",
                row=1,
                col=2,
            )
    figure.update_xaxes(**AXIS, nticks=6)
    ticks = {places[row["name"]]: escaped(row["label"]) for row in rows}
    ticks |= {places[name]: f"<i>{escaped(_group(group))}</i>" for name, group in _heads(rows).items()}
    height = max(places.values()) + 1
    figure.update_yaxes(
        **{**AXIS, "gridcolor": "rgba(128,136,144,0.12)"},
        range=[-0.6, height - 0.4],
        tickvals=list(ticks),
        ticktext=list(ticks.values()),
    )
    figure.update_annotations(font={"size": 12})
    figure.update_layout(height=86 + 26 * height, margin={"l": 4, "r": 12, "t": 28, "b": 4}, showlegend=False)
    return drawn(figure, f"dots-{name.replace('@', '-')}")


def _heads(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """{key: group} of the headings, one before each change of group, as in `score_rows`; keys as in `_places`."""
    before = ["", *(row["group"] for row in rows)]
    changed = [(row, group) for row, group in zip(rows, before, strict=False) if row["group"] != group]
    return {f"before {row['name']}": row["group"] for row, _ in changed}


def _places(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """{row's name, or key of a heading: its height in the plot}, the first row uppermost."""
    heads, order = _heads(rows), []
    for row in rows:
        order += [key for key in (f"before {row['name']}",) if key in heads] + [row["name"]]
    return {key: len(order) - 1 - index for index, key in enumerate(order)}


_ACROSS = 3


def _curves(table: dict[str, Any]) -> str | None:
    """A small plot a row: the dev score of each seed over the steps, the reference's mean behind it; None of none."""
    from plotly.subplots import make_subplots

    rows = [row for row in table["rows"] if any(len(run["curve"]) > 1 for run in row["runs"])]
    if not rows:
        return None
    by_name = {row["name"]: row for row in rows}
    down = math.ceil(len(rows) / _ACROSS)
    titles = _titles(rows)
    more = 16 * any("<br>" in title for title in titles)  # pixels of a title's second line
    figure = make_subplots(
        down,
        min(_ACROSS, len(rows)),
        shared_xaxes=True,
        shared_yaxes="all",
        horizontal_spacing=0.03,
        vertical_spacing=(0.24 + more / 170) / down,
        subplot_titles=titles,
    )
    for index, row in enumerate(rows):
        place = {"row": index // _ACROSS + 1, "col": index % _ACROSS + 1}
        reference = by_name.get(row["against"] or "")
        if reference is not None:
            at, means = _mean_curve(reference)
            line = {"color": COLOURS[0], "width": 2, "dash": "dot"}
            hover = f"{escaped(reference['label'])}, mean: %{{y:.2f}}<extra></extra>"
            figure.add_scatter(x=at, y=means, mode="lines", line=line, hovertemplate=hover, **place)
        for run in row["runs"]:
            if run["curve"]:
                steps, values = zip(*run["curve"], strict=True)
                line = {"color": colour(2), "width": 1.5}
                hover = f"seed {run['seed']}, step %{{x}}: %{{y:.2f}}<extra></extra>"
                figure.add_scatter(x=steps, y=values, mode="lines", line=line, hovertemplate=hover, **place)
    figure.update_xaxes(**AXIS, nticks=5, showticklabels=True)
    figure.update_yaxes(**AXIS, nticks=6)
    figure.update_annotations(font={"size": 12})
    margin = {"l": 4, "r": 8, "t": 28 + more, "b": 4}
    figure.update_layout(height=60 + (170 + more) * down, margin=margin, showlegend=False)
    return drawn(figure, "curves")


def _titles(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A title a plot: the row's label, cut where it is long; with its group, or else its name, where labels repeat."""
    short = [_cut(row["label"]) for row in rows]
    grouped = [(label, row["group"]) for label, row in zip(short, rows, strict=True)]
    titles = []
    for label, row in zip(short, rows, strict=True):
        more = ""
        if short.count(label) > 1:
            alone = row["group"] and grouped.count((label, row["group"])) == 1
            more = f"<br>({escaped(_cut(row['group']))})" if alone else f"<br>[{escaped(row['name'])}]"
        titles.append(escaped(label) + more)
    return titles


_TITLE = 34
"""Characters of a title that fit above one of `_ACROSS` plots."""


def _cut(label: str) -> str:
    return label if len(label) <= _TITLE else label[: _TITLE - 1].rstrip(" ,(") + "…"


def _mean_curve(row: dict[str, Any]) -> tuple[list[float], list[float]]:
    at: dict[float, list[float]] = {}
    for run in row["runs"]:
        for step, value in run["curve"]:
            if value is not None:
                at.setdefault(step, []).append(value)
    return list(at), [sum(values) / len(values) for values in at.values()]
