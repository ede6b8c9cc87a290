"""The results of `diffcse dedup` and `diffcse cluster` as HTML pages that need no network.

Each page shows by a plot how its threshold or number of clusters was chosen. Drawn from plain JSON values alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffcse.report.curves import Curve, curves_html
from diffcse.report.parts import colour, page_template

_BINS = 50
_SAMPLES = {
    "random": ("random pairs", colour(0), "2 3"),
    "nearest": ("a text and its nearest other text", colour(2), "none"),
    "copies": ("a text and its copy without one word", colour(1), "6 3"),
}
_KINDS = {
    "exact": "Equal but for case, white space and punctuation at the edges of words",
    "MinHash": "Nearly the same words",
    "embedding": "Nearly the same meaning",
}
_SCORES = {"exact": "", "MinHash": "Jaccard similarity", "embedding": "cosine"}


def dedup_page(facts: Mapping[str, Any], samples: Mapping[str, Sequence[float]]) -> str:
    """The page of `diffcse dedup`.

    Args:
        facts: what dedup.json holds.
        samples: cosines of "random", "nearest" and "copies".

    Raises:
        InputError: jinja2 is not installed.
    """
    dropped = facts["texts"] - facts["kept"]
    curves = [Curve(name, _shares(samples[key]), paint, dash) for key, (name, paint, dash) in _SAMPLES.items()]
    curves = [curve for curve in curves if curve.points]
    how = {"exact": "equal", "MinHash": "of nearly the same words", "embedding": "of nearly the same meaning"}
    counts = ", ".join(f"{facts['dropped'][kind]:,} {words}" for kind, words in how.items())
    parts = []
    for kind, title in _KINDS.items():
        if pairs := [each for each in facts["examples"] if each["kind"] == kind]:
            score = _SCORES[kind]
            heads = [*([score] if score else []), "left out", "kept"]
            rows = [[*([f"{each['score']:.3f}"] if score else []), each["text"], each["kept"]] for each in pairs]
            count = facts["dropped"][kind]
            about = "From the least alike to the most alike. " if score else ""
            if len(pairs) < count:
                about += f"{len(pairs)} of {count:,} are shown; all are in dropped.csv."
            title = f"{title}: {count:,} left out"
            parts.append({"title": title, "about": about, "heads": heads, "texts": heads[-2:], "rows": rows})
    return _page(
        facts,
        title=f"{dropped:,} of {facts['texts']:,} texts repeat an earlier one",
        lead=f"Kept: {facts['kept']:,}. Left out: {counts}.",
        plot_title=f"The threshold: cosine {facts['threshold']:.3f}",
        curves=curves,
        figure=curves_html(curves, form=".1%", values=(0.0,), height=240, mark=facts["threshold"]),
        about=f"The threshold is {facts['rule']}. Across: cosine. Up: share of the pairs in a fiftieth of the axis. "
        "Cosines below 0 are not drawn. A pair right of the line counts as the same text. Texts that repeat by their "
        "words are out already.",
        parts=parts,
    )


def _shares(values: Sequence[float]) -> list[tuple[float, float]]:
    """(middle of a bin of cosines, share of the values in it), from 0 on."""
    if not len(values):
        return []
    counts = [0] * _BINS
    for value in values:
        if value >= 0:
            counts[min(int(value * _BINS), _BINS - 1)] += 1
    return [((i + 0.5) / _BINS, count / len(values)) for i, count in enumerate(counts)]


def cluster_page(facts: Mapping[str, Any]) -> str:
    """The page of `diffcse cluster`.

    Args:
        facts: "texts", "seed", "choices" (k, silhouette, sd), "clusters" (number, size, words, typical), "model",
            "versions".

    Raises:
        InputError: jinja2 is not installed.
    """
    number, choices = len(facts["clusters"]), facts["choices"]
    curves = []
    if choices:
        curves = [Curve("mean silhouette", [(c["k"], c["silhouette"]) for c in choices], colour(2))]
    lead = f"The number was given; seed {facts['seed']}."
    if choices:
        lead = f"{number} clusters: the highest silhouette of {len(choices)} tried values of k; seed {facts['seed']}."
    heads = ["cluster", "texts", "words", "a typical text"]
    rows = [[str(c["number"]), f"{c['size']:,}", ", ".join(c["words"]), c["typical"]] for c in facts["clusters"]]
    return _page(
        facts,
        title=f"{facts['texts']:,} texts in {number} clusters",
        lead=lead,
        plot_title=f"The number of clusters: {number}",
        curves=curves,
        figure=curves_html(curves, form=".3f", height=200, mark=number) if choices else "",
        about="Across: number of clusters. Up: how much nearer a text is to its own cluster than to the next one (mean "
        "silhouette on a sample, over three starts of k-means; 1 is best).",
        parts=[{"title": "Clusters", "about": "", "heads": heads, "texts": heads[2:], "rows": rows}],
    )


def _page(facts: Mapping[str, Any], **values: Any) -> str:
    return str(page_template("groups.html").render(model=facts["model"], versions=facts["versions"], **values))
