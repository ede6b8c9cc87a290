"""An evaluation report as tables for the terminal: one for each group of tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffcse.terminal import Figures

Result = dict[str, Any]
"""One encoder's part of a report."""
Task = dict[str, Any]
"""One score of an encoder."""

_AGGREGATIONS = {
    "all": "subsets together",
    "mean": "mean of the subsets",
    "wmean": "mean weighted by pairs",
}


def tables(report: dict[str, Any], *, details: bool = False) -> list[Figures]:
    """The report's tables. `details` adds every subset and each way to average."""
    results = report["results"]
    made = [*_sts_tables(results), *(_sts_details(results) if details else [])]
    made += _transfer_tables(results, details)
    return [*made, *_retrieval_tables(results), *_geometry_tables(results), *_gain_tables(results)]


def _tasks(result: Result, group: str) -> dict[str, Task]:
    return {task["name"]: task for task in result["tasks"].values() if task["group"] == group}


def _by_encoder(results: list[Result], group: str) -> dict[str, list[tuple[str, Task]]]:
    """Set -> (encoder's name, score) of every encoder that has this set."""
    sets: dict[str, list[tuple[str, Task]]] = {}
    for result in results:
        for name, task in _tasks(result, group).items():
            sets.setdefault(name, []).append((result["encoder"]["name"], task))
    return sets


def _number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else f"{value:{form}}"


def _grid(title: str, results: list[Result], group: str, cell: Callable[[Task], str], *, caption: str = "") -> Figures:
    """Encoders x sets. Where an encoder has the average of seven, the last column shows it."""
    names = list(_by_encoder(results, group))
    averages = [result["averages"].get(group, {}).get("value") for result in results]
    with_average = any(value is not None for value in averages)
    rows = []
    for result, mean in zip(results, averages, strict=True):
        tasks = _tasks(result, group)
        cells = [cell(tasks[name]) if name in tasks else "–" for name in names]
        rows.append([result["encoder"]["name"], *cells, *([_number(mean)] if with_average else [])])
    return Figures(title, ["encoder", *names, *(["average of 7"] if with_average else [])], rows, caption=caption)


def _sts_tables(results: list[Result]) -> list[Figures]:
    tasks = [task for result in results for task in _tasks(result, "sts").values()]
    if not tasks:
        return []
    variants = sorted({task["data"]["text_variant"] for task in tasks})
    dev = sorted({task["name"] for task in tasks if task["split"] == "dev"})
    warning = f" Dev splits (for choosing, not for test figures): {', '.join(dev)}." if dev else ""
    return [
        _grid(
            'STS: Spearman of cosine with human scores x 100, aggregation "all"',
            results,
            "sts",
            lambda task: _number(task["value"]),
            caption=(f"text of the sets: {'; '.join(variants)}." if variants != ["natural"] else "") + warning,
        )
    ]


def _sts_details(results: list[Result]) -> list[Figures]:
    """Every subset, and each way to average over subsets: one table an encoder."""
    made = []
    for result in results:
        rows = []
        for name, task in _tasks(result, "sts").items():
            for key, words in _AGGREGATIONS.items():
                rows.append(_correlation_row(f"{name}  {key}: {words}", task["aggregations"][key]))
            if len(task["subsets"]) > 1:
                rows += [_correlation_row(f"    {subset}", score) for subset, score in task["subsets"].items()]
        if rows:
            title = f"{result['encoder']['name']}, points"
            made.append(Figures(title, ["set or subset", "pairs", "Spearman", "Pearson"], rows))
    return made


def _correlation_row(label: str, score: dict[str, Any] | None) -> list[str]:
    if score is None:
        return [label, "–", "–", "–"]
    return [label, f"{score['n']:,}", _number(score["spearman"]), _number(score["pearson"])]


def _transfer_tables(results: list[Result], details: bool) -> list[Figures]:
    tasks = [task for result in results for task in _tasks(result, "transfer").values()]
    if not tasks:
        return []
    probe, split = tasks[0]["probe"], tasks[0]["split"]
    shares = {task["name"]: task["majority"] for task in tasks}
    majority = ", ".join(f"{name} {value:.1f}" for name, value in shares.items())

    def cell(task: Task) -> str:
        return _number(task["value"]) + (f" / F1 {_number(task['f1'])}" if task["f1"] is not None else "")

    title = f"Transfer: {split} accuracy (%) of a linear probe ({probe}) on frozen embeddings"
    made = [_grid(title, results, "transfer", cell, caption=f"The most frequent class alone gives: {majority}.")]
    if details:
        other = "test" if split == "dev" else "dev"
        made.append(
            _grid(
                f"Transfer: {other} accuracy (%)",
                results,
                "transfer",
                lambda task: _number(task[f"{other}_accuracy"]),
                caption="dev: the examples that chose the probe's strength. Do not report these as test figures.",
            )
        )
    return made


def _retrieval_tables(results: list[Result]) -> list[Figures]:
    made = []
    for name, scores in _by_encoder(results, "retrieval").items():
        first = scores[0][1]
        paper = first["metric"] == "recall@1"
        columns = [column for column in first["values"] if not paper or column.startswith("recall")]
        what = "each sentence of a pair graded 5 must find the other" if paper else "BEIR layout, test judgements"
        made.append(
            Figures(
                f"Retrieval on {name}: {what}; {first['n']:,} queries, {first['documents']:,} documents, points",
                ["encoder", *columns],
                [[label, *(_number(task["values"][column]) for column in columns)] for label, task in scores],
            )
        )
    return made


def _geometry_tables(results: list[Result]) -> list[Figures]:
    made = []
    columns = ["alignment ↓", "uniformity ↓", "mean cosine", "effective rank", "90 % in", "first share"]
    for name, scores in _by_encoder(results, "geometry").items():
        first = scores[0][1]
        pairs = f", alignment over {first['positive_pairs']:,} pairs" if first["positive_pairs"] else ""
        made.append(
            Figures(
                f"Geometry on {name}: {first['n']:,} distinct sentences{pairs}",
                ["encoder", *columns],
                [[label, *_geometry_cells(task)] for label, task in scores],
                caption="90 % in: directions with 90 % of the squared length. first share: part of it in one "
                "direction; 100 % is a collapse.",
            )
        )
    return made


def _geometry_cells(task: Task) -> list[str]:
    return [
        _number(task["alignment"], ".3f"),
        _number(task["uniformity"], ".3f"),
        _number(task["mean_cosine"], ".3f"),
        f"{task['effective_rank']:.1f} of {task['width']:,}",
        f"{task['directions_90']:,}",
        f"{task['spectrum'][0]:.0%}" if task["spectrum"] else "–",
    ]


def _gain_tables(results: list[Result]) -> list[Figures]:
    gains = [(r["encoder"]["name"], r["conditional_gain"]) for r in results if "conditional_gain" in r]
    if not gains:
        return []
    rows = []
    for name, gain in gains:
        edits = gain["edits"][0] if len(gain["edits"]) == 1 else f"all {len(gain['edits'])} together"
        rows.append([name, edits, *_gain_cells(gain)])
        if len(gain["edits"]) > 1:
            rows += [["", f"{edit} alone", *_gain_cells(part)] for edit, part in gain["by_edit"].items()]
    first = gains[0][1]
    return [
        Figures(
            f"Conditional gain on {first['text']}, {first['n']:,} sentences, nats a token: does the embedding help D "
            "to tell which tokens were replaced?",
            ["encoder", "edits", "generator", "gain", "own", "another's", "accuracy (majority)"],
            rows,
            caption="gain: D's log-loss given another sentence's embedding minus its log-loss given the sentence's "
            "own. Zero: the embedding tells D nothing.",
        )
    ]


def _gain_cells(gain: dict[str, Any]) -> list[str]:
    return [
        gain["generator"] or "–",
        f"{gain['gain']:+.4f} ± {gain['standard_error']:.4f}",
        f"{gain['own']:.4f}",
        f"{gain['shuffled']:.4f}",
        f"{gain['accuracy']:.1%} ({gain['majority']:.1%})",
    ]
