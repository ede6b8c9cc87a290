"""`diffcse dedup`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from rich.console import Console
from tyro.conf import Positional, arg

from diffcse.cli.own_rows import OwnRows, cut, has_pages, read_all, stages, write_csv
from diffcse.errors import InputError
from diffcse.record import versions

if TYPE_CHECKING:
    from diffcse.grouping.duplicates import Deduped, Duplicate

_SHOWN = 5


@dataclass(frozen=True)
class Dedup(OwnRows):
    """Leave out texts that repeat an earlier one: equal, of nearly the same words, or of nearly the same meaning. The
    first of several stays; for each text left out, a table names the kept text that decided.
    """

    COMMON: ClassVar = ("model", "threshold", "output", "column", "keep")

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="TEXT...", help_behavior_hint="")] = ()
    """Files or globs: .txt, .csv, .tsv, .jsonl, .json, .parquet, hub data sets, also packed; "-" for lines of
    standard input."""
    threshold: Annotated[str, arg(metavar="X|auto")] = "auto"
    """Cosine from which two texts count as the same. auto: the cosine that 75 % of your texts reach with themselves
    without one word."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """New folder for kept.csv, dropped.csv, dedup.json and dedup.html (a plot of the threshold). Rows are counted
    from 0."""

    def __call__(self, console: Console) -> None:
        if self.output is None:
            raise InputError("no output: give --output DIR, a new folder")
        from diffcse.cli.paths import check_output
        from diffcse.grouping.settings import check_threshold, require_rensa

        check_threshold(self.threshold)
        if self.output.is_file():
            raise InputError(f"--output {self.output}: is a file. Give a new folder")
        check_output(self.output, resume=None)
        require_rensa()
        sentences = self.open("dedup", self.files)
        from diffcse.terminal import say

        texts, kept = read_all(sentences, console)
        encoder = self.encoder(console)
        from diffcse.grouping.duplicates import dedup

        line, show = stages(console)
        with line:
            result = dedup(texts, encoder, threshold=self.threshold, precision=self.precision, report=show)
        facts = _facts(self.model, texts, result)
        self._write(self.output, facts, texts, result, sentences.keep, kept)
        _show(facts, console)
        say(console, f"written  {self.output}: {', '.join(sorted(path.name for path in self.output.iterdir()))}")

    def _write(
        self,
        output: Path,
        facts: dict[str, Any],
        texts: list[str],
        result: Deduped,
        names: tuple[str, ...],
        more: list[tuple[Any, ...]],
    ) -> None:
        """Write the folder; `names` and `more` are the columns that --keep names, and their values for each text."""
        from diffcse.files import staged_folder, write_json, write_text
        from diffcse.report.groups import dedup_page

        name = self.column or "text"
        pairs = (
            (each.row, texts[each.row], each.kind, f"{each.score:.4f}", each.kept, texts[each.kept])
            for each in result.dropped
        )
        heads = ["row", name, "kind", "score", "kept_row", "kept_text", *names]
        with staged_folder(output) as folder:
            rows = ((row, texts[row], *more[row]) for row in result.kept)
            write_csv(folder / "kept.csv", ["row", name, *names], rows)
            write_csv(folder / "dropped.csv", heads, ((*pair, *more[pair[0]]) for pair in pairs))
            write_json(folder / "dedup.json", facts)
            if has_pages():
                samples = {name: getattr(result.threshold, name).tolist() for name in _SAMPLES}
                write_text(folder / "dedup.html", dedup_page(facts, samples))


_SAMPLES = ("random", "nearest", "copies")


def _facts(model: str, texts: list[str], result: Deduped) -> dict[str, Any]:
    """What dedup.json holds and the page shows."""
    kinds = {kind: [each for each in result.dropped if each.kind == kind] for kind in ("exact", "MinHash", "embedding")}
    return {
        "model": model,
        "texts": len(texts),
        "kept": len(result.kept),
        "dropped": {kind: len(pairs) for kind, pairs in kinds.items()},
        "threshold": result.threshold.value,
        "rule": result.threshold.rule,
        "examples": [
            {"kind": kind, "score": each.score, "text": texts[each.row], "kept": texts[each.kept]}
            for kind, pairs in kinds.items()
            for each in _examples(pairs)
        ],
        "versions": versions(),
    }


def _examples(pairs: list[Duplicate]) -> list[Duplicate]:
    """The pair of the lowest score, which is the most doubtful one, and others at equal distances up the ranks."""
    ranked = sorted(pairs, key=lambda each: each.score)
    return ranked[:: max(1, -(-len(ranked) // _SHOWN))]


def _show(facts: dict[str, Any], console: Console) -> None:
    from diffcse.terminal import Figures, print_figures, say

    rows = [
        [kind, f"{count:,}", f"{count / facts['texts']:.1%}"]
        for kind, count in {**facts["dropped"], "kept": facts["kept"]}.items()
    ]
    caption = f"embedding: cosine of at least {facts['threshold']:.3f}, {facts['rule']}"
    print_figures(
        console, Figures(f"{facts['texts']:,} texts", ["repeats an earlier text", "texts", "share"], rows, caption)
    )
    doubtful = [each for each in facts["examples"] if each["kind"] == "embedding"][:2]
    if doubtful:
        say(console, "The least alike of those dropped by embedding:")
    for each in doubtful:
        say(console, f"  {each['score']:.3f}  {cut(each['text'])}")
        say(console, f"         {cut(each['kept'])}")
