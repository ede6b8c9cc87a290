"""Results -> docs/performance.md and its pictures. Every figure on that page comes from benchmarks/results/*.json.

python -m benchmarks.speed.render [--results FOLDER] [--docs FOLDER]
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.speed import measure
from diffcse.files import write_text

PAGE = "performance.md"
_INTRO = """# Performance

For readers who want to know how fast training, embedding and start-up are, and on which processor. This page is
written by `python -m benchmarks.speed.render` from `benchmarks/results/*.json`. Do not edit it; `make bench` measures
everything again.

**How to read it.** Compare ratios, not times. All rows of a table ran in turn in one process, round by round, so noise
affected all alike. "× other" says how many times as fast as the other row it was by the clock: the median over rounds,
with the least and greatest in brackets. Absolute times are medians on this machine. CPU seconds are those of all
threads.

- "Ours" is what the commands do. "Plain" is [the step written from the paper](../benchmarks/speed/plain.py): padded,
  the generator's logits at every position, torch's own dropout, and an AdamW that is not fused.
- For ours, [our code](../src/diffcse/machine.py) chooses how memory is freed and which library multiplies float32. The
  others use torch's defaults. sentence-transformers' bf16 is torch's autocast. ONNX Runtime and OpenVINO run the graph
  that torch exports, on sentence-transformers' batches.
- "% of GEMM peak" is the work of the matrix products on real tokens ([counted](../benchmarks/speed/work.py), the same
  for all rows) per second, as a share of the fastest single matrix product in the same run. Ours also gets credit for
  work that it skips: with [CLS] pooling some 3 % of a BERT-base step.
- Sentences are from the Python standard library's documentation, unless a command names a text. A table ends after 300
  s, from its third round on, so larger shapes have fewer rounds.
- "base" is BERT-base with a DistilBERT as generator, both with random weights, so its cosines say little. "mini" is
  the bundled model.
- Sentences a second are without starting and loading. The commands set `GOMP_SPINCOUNT=3000` themselves;
  `OMP_PROC_BIND` is set by these benchmarks alone.
"""
_TITLES = {
    "step": "A training step",
    "encode": "Embedding sentences",
    "scaling": "As things grow",
    "startup": "Before any work",
}
_ACCENT, _GREY, _INK = "#2f6f9f", "#b5bcc4", "#22272e"
_PALETTE = ("#8c96a3", "#2f6f9f", "#7fb2d5", "#d98c3f", "#4f9d69", "#c9ced6", "#a3506b", "#e0b84c", "#6d5b97")
_LABEL, _PLOT, _VALUE, _BAR = 250, 400, 90, 26


def render(results: Sequence[Mapping[str, Any]], search: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Every file of the page, by its path under docs/; `search` has the figures of `benchmarks.search_scale`."""
    files: dict[str, str] = {}
    sections = [_section(result, files) for result in results]
    sections += [_search_section(search)] if search else []
    return {PAGE: "\n".join([_INTRO, *sections]), **files}


def _search_section(figures: Mapping[str, Any]) -> str:
    machine, steps = figures["hardware"], [name for name in ("exact", "ivf-pq", "hnsw") if name in figures]
    packages = ", ".join(f"{key} {value}" for key, value in figures["versions"].items())
    labels = ("rows", "build s", "GB on disk", "recall@10", "p50 ms", "p95 ms", "p50 ms, 1 % pass a filter", "peak GB")
    lines = [
        "## Search",
        "",
        f"    python -m benchmarks.search_scale FOLDER --steps {' '.join(['write', *steps])}",
        "",
        f"{machine['processor']}, {machine['cores']} cores, shared with other jobs; {packages}.",
        "",
        "Rows of 384 numbers on disk, read through the page cache. They are random: a mixture of Gaussians in 48",
        "dimensions, mapped to 384. 40 queries by exact search and 400 by an approximate index, one after the other,",
        "k = 10. The line exact is the table itself; the others are what an approximate index adds. Memory is the peak",
        "of the process that searches. Recall is that of 1,000 rows. Other jobs ran beside it, which adds time.",
        "",
        f"| | {' | '.join(labels)} |",
        f"|{'---|' * (len(labels) + 1)}",
    ]
    for step in steps:
        row = {**figures.get("write", {}), **figures[step]} if step == "exact" else figures[step]
        lines.append(f"| {step} | {' | '.join(number(row[name]) if name in row else '–' for name in labels)} |")
    return "\n".join(lines) + "\n"


def _section(result: Mapping[str, Any], files: dict[str, str]) -> str:
    name, _, device = result["benchmark"].partition("-")
    machine, versions = result["machine"], result["versions"]
    on = f"{machine['processor']}, {machine['cores']} cores, {machine.get('memory_gib', '?')} GiB"
    if accelerator := machine.get("accelerator"):
        on = f"{accelerator}; {on}"
    threads = f", {machine['threads']} threads" if "threads" in machine else ""
    environment = " ".join(f"{key}={value}" for key, value in result["environment"].items())
    packages = ", ".join(f"{key} {value}" for key, value in versions.items())
    lines = [
        f"## {_TITLES.get(name, name)}{f' ({device})' if device else ''}",
        "",
        f"    {environment} {result['command']}".replace("     ", "    "),
        "",
        f"{on}{threads}; {result['busy_percent']:.0f} % busy with other things at the start; {result['created'][:10]}, "
        f"commit {result['commit']}, seed {result['seed']}; {packages}.",
    ]
    for group in result["groups"]:
        slug = re.sub(r"[^a-z0-9]+", "-", f"{result['benchmark']} {group['name']}".lower()).strip("-")
        lines += ["", f"### {group['name']}", "", *_facts(group), *_table(group)]
        for picture, drawn in _charts(group).items():
            files[f"performance/{slug}{picture}.svg"] = drawn
            lines += ["", f"![{group['name'].replace('`', '')}](performance/{slug}{picture}.svg)"]
    return "\n".join(lines) + "\n"


def _facts(group: Mapping[str, Any]) -> list[str]:
    lines = [f"- {key}: {_fact(value)}" for key, value in group["facts"].items()]
    lines += [f"- not measured: {name}: {reason}" for name, reason in group["missing"].items()]
    return [*lines, ""] if lines else []


def _fact(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_fact, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(group: Mapping[str, Any]) -> list[str]:
    rows = group["rows"]
    references = [name for name in group["references"] if any(name in row["ratio"] for row in rows)]
    labels = list(dict.fromkeys(label for row in rows for label in row["figures"]))
    head = ["", "rounds", "wall s", "CPU s", *(f"× {name}" for name in references), *labels]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = [row["name"], str(len(row["samples"])), number(row["wall_s"]), number(row["cpu_s"])]
        cells += [_ratio(row, name) for name in references]
        cells += [number(row["figures"].get(label), label) for label in labels]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ratio(row: Mapping[str, Any], reference: str) -> str:
    if reference not in row["ratio"]:
        return "–"
    if row["name"] == reference:
        return "1"
    least, greatest = row["ratio_range"][reference]
    spread = f" ({number(least)}–{number(greatest)})" if least < greatest else ""
    return f"**{number(row['ratio'][reference])}**{spread}"


def number(value: Any, label: str = "") -> str:
    """About three digits; cosines five, because what matters of them is far behind the point.

    >>> number(31250.4), number(36.04), number(3.14159), number(0.0123), number(0.99994, "least cosine")
    ('31,250', '36.0', '3.14', '0.012', '0.99994')
    """
    if value is None:
        return "–"
    if not isinstance(value, int | float):
        return str(value)
    if "cosine" in label:
        return f"{value:.5f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


# ---- pictures --------------------------------------------------------------------------------------------------------


def _charts(group: Mapping[str, Any]) -> dict[str, str]:
    rows, chart, name = group["rows"], group["chart"], group["name"].replace("`", "")
    if chart is None:
        reference = group["references"][0]
        title = f"{name}: times as fast as {reference}"
        values = {row["name"]: row["ratio"].get(reference) for row in rows}
    else:
        title = f"{name}: {chart}"
        values = {row["name"]: row["wall_s"] if chart == "wall s" else row["figures"].get(chart) for row in rows}
    charts = {"": bars(title, {name: {"": value} for name, value in values.items() if value is not None})}
    if rows and all("parts" in row for row in rows):
        charts["-parts"] = bars(f"{name}: seconds by part", {row["name"]: row["parts"] for row in rows})
    return charts


def bars(title: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """Horizontal bars as an SVG picture, of one value each or of several stacked parts with a legend."""
    parts = list(dict.fromkeys(part for values in rows.values() for part in values))
    stacked, named = len(parts) > 1, any("ours" in name for name in rows)
    totals = {name: sum(values.values()) for name, values in rows.items()}
    scale = _PLOT / (max(totals.values(), default=0) or 1)
    width, top = _LABEL + _PLOT + _VALUE, 44
    legend = [(parts[i : i + 5]) for i in range(0, len(parts), 5)] if stacked else []
    height = top + _BAR * len(rows) + 22 * len(legend) + 12
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="13" fill="{_INK}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for index, (name, values) in enumerate(rows.items()):
        y, x = top + _BAR * index, float(_LABEL)
        drawn.append(f'<text x="{_LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
        for part, value in values.items():
            length = max(value, 0.0) * scale
            fill = (
                _PALETTE[parts.index(part) % len(_PALETTE)]
                if stacked
                else _ACCENT
                if "ours" in name or not named
                else _GREY
            )
            drawn.append(f'<rect x="{x:.1f}" y="{y + 2}" width="{length:.1f}" height="{_BAR - 8}" fill="{fill}"/>')
            x += length
        drawn.append(f'<text x="{x + 6:.1f}" y="{y + 15}">{number(totals[name])}</text>')
    for line, names in enumerate(legend):
        for column, part in enumerate(names):
            x, y = 12 + column * 145, top + _BAR * len(rows) + 22 * line + 6
            fill = _PALETTE[parts.index(part) % len(_PALETTE)]
            drawn.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{fill}"/>')
            drawn.append(f'<text x="{x + 17}" y="{y + 11}">{escape(part)}</text>')
    return "\n".join([*drawn, "</svg>"]) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page and its pictures; pictures of results that are gone go too."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=measure.RESULTS)
    parser.add_argument("--docs", type=Path, default=measure.ROOT / "docs")
    options = parser.parse_args(argv)
    files = render(read_results(options.results), read_search(options.results))
    pictures = options.docs / "performance"
    pictures.mkdir(parents=True, exist_ok=True)
    for old in pictures.glob("*.svg"):
        if f"performance/{old.name}" not in files:
            old.unlink()
    for path, text in files.items():
        write_text(options.docs / path, text)
    print(f"written  {options.docs / PAGE}")


def read_search(results: Path) -> dict[str, Any] | None:
    """The figures of `benchmarks.search_scale`, beside the folder of results; None if there are none."""
    path = results.parent / "search_scale.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results, in the order of the page."""
    order = list(_TITLES)
    found = [measure.read(file) for file in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda r: (order.index(r["benchmark"].partition("-")[0]), r["benchmark"]))


if __name__ == "__main__":
    main()
