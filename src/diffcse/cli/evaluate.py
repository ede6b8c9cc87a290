"""`diffcse evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import Positional, arg

from diffcse.config import EncoderPooling
from diffcse.errors import InputError


@dataclass(frozen=True)
class Evaluate:
    """Measure encoders: does cosine order sentence pairs as people do?"""

    models: Annotated[Positional[tuple[str, ...]], arg(metavar="MODEL...", help_behavior_hint="")]
    """Model folders, runs of `diffcse train`, hub ids, or "mini"."""
    data: Path | None = None
    """Folder of *.tsv files: score, sentence 1, sentence 2 and optionally subset, separated by tabs."""
    tasks: Literal["sts"] = "sts"
    """What to measure."""
    pooling: EncoderPooling | None = None
    """Overrides what the folder says; needed for a plain checkpoint."""
    allow_partial: bool = False
    """Accept well-known sets with another number of pairs than they should have."""
    floors: bool = False
    """Add a row for TF-IDF, fitted on each set: what lexical overlap alone gets."""
    json: Path | None = None
    """Also write all scores to this file."""

    def __call__(self, console: Console) -> None:
        if not self.models:
            raise InputError("no model: give a model folder, e.g. diffcse evaluate out/model --data sts")
        if self.data is None:
            raise InputError("no data: give --data DIR, a folder of *.tsv files")
        from diffcse.evaluation.floors import TfIdf
        from diffcse.evaluation.sts import StsScore, find_sets, score_sts
        from diffcse.files import write_json
        from diffcse.record import versions
        from diffcse.terminal import say, table

        sets = find_sets(self.data, allow_partial=self.allow_partial)
        from diffcse.encoder.load import load

        rows: dict[str, dict[str, StsScore]] = {}
        facts: dict[str, dict[str, object]] = {}
        for name in self.models:
            encoder = load(name, pooling=self.pooling)
            label = f"{name} ({encoder.pooling})"
            facts[label] = {"pooling": encoder.pooling, "max_tokens": encoder.max_tokens}
            rows[label] = {task: score_sts(encoder, pairs) for task, pairs in sets.items()}
        if self.floors:
            rows["TF-IDF, fitted on each set"] = {
                task: score_sts(TfIdf(list({*pairs.first, *pairs.second})), pairs) for task, pairs in sets.items()
            }
        console.print(
            table(
                "Spearman of cosine, points; all pairs of a set together",
                ["encoder", *sets],
                [
                    [label, *(f"{score.all.spearman:.2f}" for score in scores.values())]
                    for label, scores in rows.items()
                ],
            )
        )
        if self.json:
            results = {
                label: {**facts.get(label, {}), "tasks": {task: score.to_dict() for task, score in scores.items()}}
                for label, scores in rows.items()
            }
            data = {task: {"pairs": len(pairs), "sha256": pairs.sha256} for task, pairs in sets.items()}
            write_json(self.json, {"results": results, "data": data, "versions": versions()})
            say(console, f"written  {self.json}")
