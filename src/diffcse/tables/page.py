"""A table as Markdown, and as one HTML page that needs no network.

Drawn from the table's plain JSON values alone. Published figures stand beside the measured ones. A row that failed or
was left out says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from diffcse.report.curves import Curve, curves_html
from diffcse.report.forest import Interval, dots_html, forest_html
from diffcse.report.parts import MISSING, colour, markdown_table, mean_and_sd, page_template, signed

ALIKE = "the same settings, and so the same scores. What tells them apart has no effect with these options"
"""Said of rows that are one run under several names."""
NO_INTERVAL = "no interval: fewer than four seeds; ask for --seeds 4"
_MARKS = {"better": "▲", "worse": "▼", "tie": "=", None: ""}


def ablation_markdown(table: dict[str, Any]) -> str:
    """The table as Markdown, with a section for each column."""
    lines = [f"# {table['title']}", "", *(f"- {line}" for line in headline(table)), ""]
    for name, column in table["columns"].items():
        lines += [f"## {heading(column)}", ""]
        if column["lacks"]:
            lines += [f"Not measured: it needs {column['lacks']}.", ""]
            continue
        lines += markdown_table(*score_rows(table, name))
        if sentence := agreement(column):
            lines += [sentence, ""]
    if curves := curve_rows(table):
        lines += ["## dev Spearman by step, mean over the runs", "", *markdown_table(*curves)]
    lines += [f"- {note}" for note in notes(table)]
    lines += ["", f"Made by `{table['command']}`. {facts(table)}", "", *explanations(table)]
    return "\n".join(lines).rstrip("\n") + "\n"


def ablation_page(table: dict[str, Any]) -> str:
    """The table as one self-contained HTML page with plots.

    Raises:
        InputError: jinja2 is not installed.
    """
    template = page_template("table.html")
    parts = []
    for name, column in table["columns"].items():
        part = {"title": heading(column), "lacks": column["lacks"]}
        if not column["lacks"]:
            heads, rows = score_rows(table, name)
            part |= {"names": heads, "rows": rows, "agreement": agreement(column)}
            part |= {"headline": column_headline(table, name), "forest": _forest(table, name)}
            part |= {"plot": _dots(table, name)}
        parts.append(part)
    return str(
        template.render(
            title=table["title"],
            lead=lead(table),
            facts=facts(table),
            parts=parts,
            curves=_curves(table),
            notes=notes(table),
            explanations=explanations(table),
            rows=table["rows"],
            versions=table["versions"],
            command=table["command"],
        )
    )


# ---- rows ------------------------------------------------------------------------------------------------------------


def shown_rows(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows without those that --only left out. The reference stays."""
    return [row for row in table["rows"] if row["against"] is None or not _left_out(table, row)]


def _left_out(table: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether --only left a row out, and no earlier command ran any of it."""
    asked = not table.get("only") or row["name"] in table["only"]
    return not asked and all(run["status"] == "not run" for run in row["runs"])


def score_rows(table: dict[str, Any], name: str) -> tuple[list[str], list[list[str]]]:
    """(heads, rows) of one column: ours, the published figure, and both differences from the reference."""
    column = table["columns"][name]
    published = any(score["published"] is not None for score in column["rows"].values())
    heads = ["row", "runs", "ours", *(["published"] if published else [])]
    heads += ["difference", "95 % interval", *(["published difference"] if published else [])]
    rows = []
    for group, row in _grouped(shown_rows(table)):
        if row is None:
            rows.append([group, *[""] * (len(heads) - 1)])
        else:
            rows.append(_score_cells(row, column["rows"][row["name"]], column["digits"], published=published))
    return heads, rows


def _score_cells(row: dict[str, Any], score: dict[str, Any], digits: int, *, published: bool) -> list[str]:
    effect, change = score["effect"], score["published_difference"]
    cells = [row["label"], _runs(row, score), mean_and_sd(score, digits)]
    cells += [_number(score["published"], digits)] if published else []
    if row["against"] is None:
        cells += ["reference", ""]
    elif effect is None:
        cells += [MISSING, MISSING]
    else:
        cells += [f"{signed(effect['difference'], digits)} {_MARKS[score['verdict']]}".strip()]
        known = effect["low"] is not None
        cells += [f"{signed(effect['low'], digits)} to {signed(effect['high'], digits)}" if known else MISSING]
    return cells + ([MISSING if change is None else signed(change, digits)] if published else [])


def _grouped(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """(heading, None) before each change of group, and (group, row) for every row."""
    group = ""
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            yield f"— {group or 'others'} —", None
        yield group, row


def _runs(row: dict[str, Any], score: dict[str, Any]) -> str:
    if row["skipped"]:
        return "not run"
    failed = sum(run["status"] == "failed" for run in row["runs"])
    return f"{score['n']}" + (f", {failed} failed" if failed else "")


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


_STEPS_SHOWN = 7


def curve_rows(table: dict[str, Any]) -> tuple[list[str], list[list[str]]] | None:
    """(heads, rows) of the dev score over training: whether the rows' order had settled. None if no row was trained."""
    curves = {row["name"]: dict(zip(*mean_curve(row), strict=True)) for row in table["rows"]}
    rows = [row for row in table["rows"] if len(curves[row["name"]]) > 1]
    if not rows:
        return None
    steps = sorted({step for row in rows for step in curves[row["name"]]})
    gaps = min(len(steps), _STEPS_SHOWN) - 1
    shown = [steps[round(i * (len(steps) - 1) / gaps)] for i in range(gaps + 1)]
    cells = []
    for group, row in _grouped(rows):
        if row is None:
            cells.append([group, *[""] * (len(shown) + 1)])
        else:
            runs = sum(len(run["curve"]) > 1 for run in row["runs"])
            values = [_number(curves[row["name"]].get(step), 2) for step in shown]
            cells.append([row["label"], str(runs), *values])
    return ["row", "runs", *(f"{step:,}" for step in shown)], cells


def _forest(table: dict[str, Any], name: str) -> str:
    column = table["columns"][name]
    rows = []
    for row in shown_rows(table):
        score = column["rows"][row["name"]]
        if score["effect"] is not None and score["effect"]["low"] is not None:
            rows.append(Interval.of(named(row), score["effect"], score["verdict"]))
    return forest_html(rows, digits=column["digits"])


def _dots(table: dict[str, Any], name: str) -> str:
    column = table["columns"][name]
    return dots_html([(named(row), column["rows"][row["name"]]) for row in shown_rows(table)], digits=column["digits"])


def _curves(table: dict[str, Any]) -> list[tuple[str, str]]:
    """(label, plot) of each trained row: the dev score of each seed over the steps, and its reference's mean."""
    rows = [row for row in table["rows"] if any(len(run["curve"]) > 1 for run in row["runs"])]
    values = [value for row in rows for run in row["runs"] for _, value in run["curve"] if value is not None]
    by_name = {row["name"]: row for row in rows}
    plots = []
    for row in rows:
        reference = by_name.get(row["against"] or "")
        curves = []
        if reference is not None:
            points = list(zip(*mean_curve(reference), strict=True))
            curves.append(Curve(f"{reference['label']}, mean", points, colour(0), dash="3 4"))
        for run in row["runs"]:
            points = [(step, value) for step, value in run["curve"] if value is not None]
            curves += [Curve(f"seed {run['seed']}", points, colour(2))] if points else []
        plots.append((named(row), curves_html(curves, values=values)))
    return plots


def mean_curve(row: dict[str, Any]) -> tuple[list[float], list[float]]:
    """(steps, mean dev score of the row's runs at each)."""
    at: dict[float, list[float]] = {}
    for run in row["runs"]:
        for step, value in run["curve"]:
            if value is not None:
                at.setdefault(step, []).append(value)
    return list(at), [sum(values) / len(values) for values in at.values()]


# ---- words -----------------------------------------------------------------------------------------------------------


def heading(column: dict[str, Any]) -> str:
    """A column's name, what it is measured on, and which way is better."""
    sets = ", ".join(column["measured_on"])
    return f"{column['label']}{f' ({sets})' if sets else ''}{', lower is better' if column['lower_is_better'] else ''}"


def named(row: dict[str, Any]) -> str:
    """A row's label, with its group if it has one, because groups may repeat labels."""
    return row["label"] + (f" ({row['group']})" if row["group"] else "")


def headline(table: dict[str, Any]) -> list[str]:
    """What the table shows, a sentence for each measured column in which rows are compared."""
    lines = {name: column_headline(table, name) for name in table["columns"]}
    return [f"{table['columns'][name]['label']}: {line}." for name, line in lines.items() if line]


def lead(table: dict[str, Any]) -> str:
    """The first sentence of a page: of the first column with a clear difference, or else of the first column."""
    lines = headline(table)
    return next((line for line in lines if "clearly" in line), lines[0] if lines else "")


def column_headline(table: dict[str, Any], name: str) -> str:
    """Which rows are clearly better or worse than their reference in one column; empty if none is compared."""
    column = table["columns"][name]
    if column["lacks"]:
        return ""
    scores = {named(row): column["rows"][row["name"]] for row in shown_rows(table)}
    compared = {label: score for label, score in scores.items() if score["effect"] is not None}
    parts = []
    for verdict in ("better", "worse"):
        clear = [
            f"{label} ({signed(score['effect']['difference'], column['digits'])})"
            for label, score in compared.items()
            if score["verdict"] == verdict
        ]
        parts += [f"clearly {verdict}: {', '.join(clear)}"] if clear else []
    ties = sum(score["verdict"] == "tie" for score in compared.values())
    parts += [f"no clear difference: {ties} of {len(compared)} rows"] if ties else []
    if not compared or parts:
        return "; ".join(parts)
    return NO_INTERVAL if _lacks_seeds(table, name) else "no direction is better by itself"


def _lacks_seeds(table: dict[str, Any], name: str) -> bool:
    """Whether a trained row has a difference without an interval."""
    scores = table["columns"][name]["rows"]
    return any(
        scores[row["name"]]["effect"] is not None
        and scores[row["name"]]["effect"]["low"] is None
        and any(run["seed"] is not None for run in row["runs"])
        for row in ([] if table["columns"][name]["lacks"] else shown_rows(table))
    )


def agreement(column: dict[str, Any]) -> str | None:
    """Whether ours and the published figures put the rows in the same order."""
    order = column["agreement"]
    if order is None or order["spearman"] is None or order["kendall"] is None:
        return None
    chance = "" if order.get("p") is None else f" (p = {order['p']:.2g})"
    return (
        f"Order of the {order['n']} rows with a published figure, ours against the published: "
        f"Spearman {order['spearman']:+.2f}, Kendall {order['kendall']:+.2f}{chance}."
    )


def notes(table: dict[str, Any]) -> list[str]:
    """What a reader must know of single rows: left out, failed, compared with another row, remarks."""
    lines = [table["note"]] if table["note"] else []
    lines += [f"{_by_name(table, names)}: {ALIKE}" for names in table.get("alike", ())]
    for row in shown_rows(table):
        lines += [f"{named(row)}: {line}" for line in _row_notes(table, row)]
    unasked = [row["name"] for row in table["rows"] if _left_out(table, row)]
    waiting = [
        row["name"]
        for row in shown_rows(table)
        if row["name"] not in unasked and any(run["status"] not in ("complete", "failed") for run in row["runs"])
    ]
    lines += [f"Not asked for (--only): {_by_name(table, unasked)}"] if unasked else []
    lines += [f"Not finished: {_by_name(table, waiting)}"] if waiting else []
    return lines


def _row_notes(table: dict[str, Any], row: dict[str, Any]) -> list[str]:
    labels = {each["name"]: each["label"] for each in table["rows"]}
    references = [each["name"] for each in table["rows"] if each["against"] is None]
    failed: dict[str, list[str]] = {}
    for run in row["runs"]:
        if run["status"] == "failed":
            failed.setdefault(run["message"], []).append(str(run["seed"]))
    lines = [f"not run: {row['skipped']}"] if row["skipped"] else []
    lines += [f"FAILED, seed {', '.join(seeds)}: {message}" for message, seeds in failed.items()]
    lines += [f"compared with “{labels[row['against']]}”"] if row["against"] not in (None, *references) else []
    return lines + ([row["note"]] if row["note"] else [])


def _by_name(table: dict[str, Any], names: Sequence[str]) -> str:
    """Names as --only takes them, and in brackets the labels that differ from them."""
    labels = {row["name"]: row["label"] for row in table["rows"]}
    others = [labels[name] for name in names if labels[name] != name]
    return ", ".join(names) + (f" ({'; '.join(others)})" if others else "")


def explanations(table: dict[str, Any]) -> list[str]:
    """How to read the figures of this table."""
    scores = [score for column in table["columns"].values() for score in column["rows"].values()]
    effects = [score["effect"] for score in scores if score["effect"] is not None]
    lines = [
        "Ours: the mean over the runs, ± their standard deviation; with fewer than four runs, their values in "
        "brackets. A run's weights are those of its best step by dev score. The untrained start is never taken."
    ]
    if any(effect["low"] is not None for effect in effects):
        lines.append(
            "Differences are taken between runs of the same seed. The interval covers other seeds (Student's t). "
            "▲ better, ▼ worse: the interval excludes zero. =: it does not, so the direction is not known. Of many "
            "rows, some look clear by chance."
        )
    if any(_lacks_seeds(table, name) for name in table["columns"]):
        lines.append(f"{NO_INTERVAL[0].upper()}{NO_INTERVAL[1:]}.")
    if any(run["seed"] is None for row in shown_rows(table) for run in row["runs"]):
        lines.append("A row that is not trained has one value, and no interval.")
    if any(score["published"] is not None for score in scores):
        source = f"Published: {table['paper']}. " if table["paper"] else ""
        lines.append(f"{source}With another dev set, text, model or steps compare orders, not scores.")
    return lines


def facts(table: dict[str, Any]) -> str:
    """What was run, in one sentence."""
    runs = [run for row in table["rows"] for run in row["runs"]]
    steps = sorted({run["steps"] for run in runs if run.get("steps")})
    machines = sorted({_machine(run["hardware"]) for run in runs if run.get("hardware")})
    seconds = sum(run["seconds"] or 0 for run in runs)
    parts = [
        f"Start: {table['model']}, recipe {table['recipe']}; dev set: {table['dev']}; "
        f"seeds {', '.join(map(str, table['seeds']))}",
        f"{' or '.join(f'{n:,}' for n in steps)} steps a run" if steps else "",
        *machines,
        f"{seconds / 60:.0f} minutes of runs" if seconds >= 120 else "",
    ]
    return "; ".join(part for part in parts if part) + "."


def _machine(hardware: dict[str, Any]) -> str:
    if "accelerator" in hardware:
        return str(hardware["accelerator"])
    threads = hardware.get("threads") or hardware.get("cores")
    return f"{hardware.get('processor')}, {threads} thread{'' if threads == 1 else 's'} a run"
