"""What `diffcse compare` found, as Markdown for a terminal or a paper, and as one HTML page that needs no network.

Drawn from the comparison's plain values alone. A difference never stands without its interval, and a mean never
without the number of seeds it is over.
"""

from __future__ import annotations

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
    percent,
    signed,
    template_and_plotly,
)

CHECKPOINTS = {
    "best": ("Best step by dev score", "the weights in model/, chosen by the dev set the run was given"),
    "held_out": ("Best step by held-out text", "the weights in model/, chosen without labels"),
    "last": ("After the last step", "chosen by nobody: no score was looked at"),
    "given": ("As given", "scores read from files, which do not say how the weights were chosen"),
}


def comparison_markdown(found: dict[str, Any]) -> str:
    """Tables of scores and differences for each checkpoint, and the notes."""
    lines = [f"# {_title(found)}", "", f"Figures: {found['metric']}.", ""]
    for checkpoint, part in found["checkpoints"].items():
        title, about = CHECKPOINTS[checkpoint]
        lines += [f"## {title}", "", f"{about[0].upper()}{about[1:]}. Mean ± standard deviation over seeds.", ""]
        lines += markdown_table(
            ["method", "seeds", *part["sets"]], [_score_row(row, part["sets"]) for row in part["methods"]]
        )
        if part["effects"]:
            lines += [f"Difference from {found['baseline']}:", ""]
            rows = [row for each in part["effects"] for row in _effect_rows(each)]
            lines += markdown_table(
                ["method", "set", "difference", "95 % interval", "probability that it is real", "p over seeds"], rows
            )
        lines += [f"- {line}" for line in verdicts(part)] + ([""] if part["effects"] else [])
    lines += [f"*{text}*" for text in explanations(found)] + [""]
    lines += [f"- Note: {note}" for note in found["notes"]] + ([""] if found["notes"] else [])
    return "\n".join(lines).rstrip("\n") + "\n"


def verdicts(part: dict[str, Any]) -> list[str]:
    """Each method's difference on every average (or set that is in none), in words."""
    return [
        _verdict(each["method"], each["against"], name, each["sets"][name])
        for each in part["effects"]
        for name in part["headlines"]
    ]


def _verdict(method: str, against: str, name: str, found: dict[str, Any]) -> str:
    kind = name.removeprefix("average")
    where = f"on {name}" if kind == name else f"on the average of the{kind} sets"
    size = f"{abs(found['difference']):.2f} points"
    ahead = "above" if found["difference"] > 0 else "below"
    if found["probability"] is None and size.startswith("0.00"):
        return f"{method} and {against} are level {where}; nothing says how sure that is"
    if found["probability"] is None:
        return f"{method} is {size} {ahead} {against} {where}; nothing says how sure that is"
    if found["low"] > 0 or found["high"] < 0:
        return f"{method} is {size} {ahead} {against} {where}: the interval excludes zero"
    return f"{method} and {against} cannot be told apart {where} ({signed(found['difference'])})"


def explanations(found: dict[str, Any]) -> list[str]:
    """How to read the intervals of this very comparison: of which methods what is known."""
    effects = [
        (each["method"], one)
        for part in found["checkpoints"].values()
        for each in part["effects"]
        for one in each["sets"].values()
    ]
    if not effects:
        return []
    known = {
        (True, True): "Intervals hold both kinds of luck, that of the seeds (t-test over seeds) and that of the "
        f"sentence pairs (paired bootstrap, {found['resamples']:,} draws).",
        (False, True): "One seed of a method: intervals hold the luck of the sentence pairs alone. Other seeds may "
        "well turn a difference around; train at least three.",
        (True, False): "Intervals hold the luck of the seeds alone, because pairs were not scored: give run folders "
        "and --data DIR for both.",
        (False, False): "Where no interval stands, a method has one seed and its pairs were not scored: nothing says "
        "how the difference would vary. Give run folders and --data DIR, or more seeds.",
    }
    lines = _said(
        [(name, known[one["error_seeds"] is not None, one["error_pairs"] is not None]) for name, one in effects]
    )
    paired = {
        True: "Runs of the same seed are compared with each other; seeds that one method lacks are left out.",
        False: "The methods share fewer than two seeds, so runs are not paired (Welch's test).",
    }
    lines += _said([(name, paired[one["seeds"] > 0]) for name, one in effects if one["error_seeds"] is not None])
    if any(one["pooled"] for _, one in effects):
        lines.append(
            "Of two or three seeds in common, how far runs vary is taken from all methods together (residual of "
            "methods × seeds, near copies counted once), as two runs say next to nothing of it. That holds where "
            "methods vary alike: those that clearly do not (Cochran's test, 5 %) keep the interval from their own "
            "differences, but not all are found out."
        )
    lines.append(
        "The probability is that of a true difference of the sign seen; 50 % is no knowledge. With many methods or "
        "sets some will look real by chance."
    )
    return lines


def _said(sentences: list[tuple[str, str]]) -> list[str]:
    """Each sentence once, with the methods it is said of where not all are alike."""
    methods: dict[str, dict[str, None]] = {}
    for method, sentence in sentences:
        methods.setdefault(sentence, {})[method] = None
    if len(methods) <= 1:
        return [*methods]
    return [f"{', '.join(each)}: {sentence[0].lower()}{sentence[1:]}" for sentence, each in methods.items()]


def comparison_page(found: dict[str, Any]) -> str:
    """The comparison as one self-contained HTML page with plots.

    Raises:
        InputError: plotly or jinja2 is not installed.
    """
    template, plotly = template_and_plotly("comparison.html")
    parts = []
    for checkpoint, part in found["checkpoints"].items():
        title, about = CHECKPOINTS[checkpoint]
        parts.append(
            {
                "title": title,
                "about": about,
                "sets": part["sets"],
                "scores": [_score_row(row, part["sets"]) for row in part["methods"]],
                "effects": [row for each in part["effects"] for row in _effect_rows(each)],
                "verdicts": verdicts(part),
                "seeds_plot": _seeds_plot(part, f"seeds-{checkpoint}"),
                "effects_plot": _effects_plot(part, f"effects-{checkpoint}"),
            }
        )
    return template.render(
        title=_title(found),
        baseline=found["baseline"],
        metric=found["metric"],
        parts=parts,
        explanations=explanations(found),
        notes=found["notes"],
        sources=found["sources"],
        data=found["data"],
        versions=found["versions"],
        plotly=plotly,
    )


# ---- rows ----------------------------------------------------------------------------------------------------------


def _title(found: dict[str, Any]) -> str:
    others = [name for name in found["methods"] if name != found["baseline"]]
    title = f"{' and '.join(others)} against {found['baseline']}" if others else found["baseline"]
    return title if len(title) <= 90 else f"{len(found['methods'])} methods compared"


def _score_row(row: dict[str, Any], sets: list[str]) -> list[str]:
    seeds = [seed for seed in row["seeds"] if seed is not None]
    shown = f"{len(row['seeds'])}" + (f" ({', '.join(map(str, seeds))})" if seeds else "")
    return [row["method"], shown, *(mean_and_sd(row["scores"][name]) for name in sets)]


def _effect_rows(each: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, one in each["sets"].items():
        known = one["probability"] is not None
        rows.append(
            [
                each["method"],
                name,
                signed(one["difference"]),
                f"{signed(one['low'])} to {signed(one['high'])}" if known else MISSING,
                percent(one["probability"]) if known else MISSING,
                MISSING if one["p_seeds"] is None else f"{one['p_seeds']:.3f}",
            ]
        )
    return rows


# ---- plots ---------------------------------------------------------------------------------------------------------

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x")


def _seeds_plot(part: dict[str, Any], div: str) -> str:
    """Every run as a point, methods side by side in each set: the spread itself, before any statistic."""
    import plotly.graph_objects as go

    figure = go.Figure()
    count = len(part["methods"])
    for index, row in enumerate(part["methods"]):
        shift = (index - (count - 1) / 2) * 0.6 / max(count, 1)
        xs, ys, labels = [], [], []
        for place, name in enumerate(part["sets"]):
            for seed, value in zip(row["seeds"], row["scores"][name]["values"], strict=True):
                xs.append(place + shift)
                ys.append(value)
                labels.append(f"{name}: {value:.2f}" + ("" if seed is None else f", seed {seed}"))
        figure.add_scatter(
            x=xs,
            y=ys,
            mode="markers",
            name=escaped(row["method"]),
            text=[escaped(label) for label in labels],
            hovertemplate="%{text}<extra>" + escaped(row["method"]) + "</extra>",
            marker={"color": colour(index), "symbol": _SYMBOLS[index % len(_SYMBOLS)], "size": 9, "opacity": 0.85},
        )
    figure.update_layout(
        # The legend stands above the plot, a line for each method: names may be long.
        height=300 + 20 * count,
        margin={"l": 4, "r": 8, "t": 16 + 20 * count, "b": 4},
        showlegend=True,
        legend={"orientation": "v", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0},
        xaxis={
            **AXIS,
            "showgrid": False,
            "range": [-0.6, len(part["sets"]) - 0.4],
            "tickvals": list(range(len(part["sets"]))),
            "ticktext": [escaped(name) for name in part["sets"]],
        },
        yaxis={**AXIS, "title": {"text": "points", "font": {"size": 12}}},
    )
    return drawn(figure, div)


def _effects_plot(part: dict[str, Any], div: str) -> str | None:
    """Differences with their intervals; None if there is none with one."""
    import plotly.graph_objects as go

    rows = [
        (each["method"], name, one)
        for each in part["effects"]
        for name, one in each["sets"].items()
        if one["probability"] is not None
    ]
    if not rows:
        return None
    order = [row["method"] for row in part["methods"]]
    figure, ticks = go.Figure(), {}
    for y, (method, name, one) in enumerate(reversed(rows)):
        clear = one["low"] > 0 or one["high"] < 0
        paint = colour(order.index(method))
        figure.add_scatter(
            x=[one["difference"]],
            y=[y],
            mode="markers",
            marker={"color": paint, "size": 10, "symbol": "circle" if clear else "circle-open", "line": {"width": 2}},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [one["high"] - one["difference"]],
                "arrayminus": [one["difference"] - one["low"]],
                "color": paint,
                "thickness": 2,
                "width": 5,
            },
            hovertemplate=escaped(
                f"{method}, {name}: {signed(one['difference'])}, 95 % {signed(one['low'])} to {signed(one['high'])}, "
                f"real with {percent(one['probability'])}"
            )
            + "<extra></extra>",
        )
        ticks[y] = escaped(name if len(part["effects"]) == 1 else f"{method}: {name}")
    figure.add_vline(x=0, line={"color": COLOURS[0], "width": 1.5})
    figure.update_layout(
        height=70 + 28 * len(rows),
        margin={"l": 4, "r": 12, "t": 4, "b": 4},
        showlegend=False,
        xaxis={**AXIS, "title": {"text": "points", "font": {"size": 12}}},
        yaxis={
            **AXIS,
            "showgrid": False,
            "range": [-0.6, len(rows) - 0.4],
            "tickvals": list(ticks),
            "ticktext": list(ticks.values()),
        },
    )
    return drawn(figure, div)
