"""`diffcse cluster`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from rich.console import Console
from tyro.conf import Positional, arg

from diffcse.cli.own_rows import OwnRows, cut, has_pages, read_all, stages, write_csv
from diffcse.cli.paths import check_new
from diffcse.errors import InputError
from diffcse.record import versions

if TYPE_CHECKING:
    from diffcse.grouping.clusters import Clusters


@dataclass(frozen=True)
class Cluster(OwnRows):
    """Divide texts into clusters by k-means. Each is named by the words that tell it from the others."""

    COMMON: ClassVar = ("model", "k", "output", "column", "keep", "seed")

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="TEXT...", help_behavior_hint="")] = ()
    """Files or globs: .txt, .csv, .tsv, .jsonl, .json, .parquet, hub data sets, also packed; "-" for lines of
    standard input."""
    k: Annotated[str, arg(metavar="N|auto")] = "auto"
    """Number of clusters. auto: of 2 to 200 the number with the highest silhouette on a sample of 4,000 texts."""
    seed: int = 0
    """Of the sample and of the starts of k-means."""
    output: Annotated[Path | None, arg(metavar="FILE.csv")] = None
    """Table to write: row (counted from 0), cluster, distance from its centre, text. FILE.html beside it shows the
    clusters and the choice of k. Unset: print the clusters only."""
    overwrite: bool = False
    """Replace FILE.csv and FILE.html if they exist."""

    def __call__(self, console: Console) -> None:
        from diffcse.grouping.settings import check_k

        check_k(self.k)
        if self.output is not None and (self.output.suffix != ".csv" or self.output.is_dir()):
            raise InputError(f"--output {self.output}: must be a file that ends in .csv")
        if self.output is not None:
            check_new(self.output, self.output.with_suffix(".html"), overwrite=self.overwrite)
        sentences = self.open("cluster", self.files)
        if self.output is not None and any(
            source.path.resolve() == self.output.resolve() for source in sentences.sources
        ):
            raise InputError(f"{self.output}: is also an input: give another --output")
        texts, kept = read_all(sentences, console)
        encoder = self.encoder(console)
        from diffcse.grouping.clusters import cluster

        line, show = stages(console)
        with line:
            result = cluster(texts, encoder, k=self.k, seed=self.seed, precision=self.precision, report=show)
        facts = _facts(self.model, self.seed, texts, result)
        _show(facts, console)
        if self.output is not None:
            self._write(self.output, facts, result, texts, [sentences.keep, *kept], console)

    def _write(
        self,
        output: Path,
        facts: dict[str, Any],
        result: Clusters,
        texts: list[str],
        kept: list[tuple[Any, ...]],
        console: Console,
    ) -> None:
        """Write table and page; `kept` has the names of the columns of --keep, then their values for each text."""
        from diffcse.files import write_text
        from diffcse.report.groups import cluster_page
        from diffcse.terminal import say

        names, *more = kept
        columns = zip(texts, result.labels.tolist(), result.distances.tolist(), more, strict=True)
        rows = ((i, label, f"{distance:.4f}", text, *rest) for i, (text, label, distance, rest) in enumerate(columns))
        write_csv(output, ["row", "cluster", "distance", self.column or "text", *names], rows)
        say(console, f"written  {output}")
        if has_pages():
            page = output.with_suffix(".html")
            write_text(page, cluster_page(facts))
            say(console, f"written  {page}")
        else:
            say(console, 'note     no page: it needs jinja2. Install it: pip install "diffcse[report]"')


def _facts(model: str, seed: int, texts: list[str], result: Clusters) -> dict[str, Any]:
    """What the page shows."""
    return {
        "model": model,
        "seed": seed,
        "texts": len(texts),
        "choices": [asdict(choice) for choice in result.choices],
        "clusters": [{**asdict(each), "typical": texts[each.typical]} for each in result.clusters],
        "versions": versions(),
    }


def _show(facts: dict[str, Any], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    best = max(facts["choices"], key=lambda choice: choice["silhouette"], default=None)
    how = (
        f", the highest silhouette ({best['silhouette']:.3f}) of {len(facts['choices'])} tried values of k"
        if best
        else ""
    )
    title = f"{facts['texts']:,} texts in {len(facts['clusters'])} clusters{how}"
    view = Table(title=title, title_justify="left")
    view.add_column("", justify="right", no_wrap=True)
    view.add_column("texts", justify="right", no_wrap=True)
    view.add_column("words", ratio=2, overflow="fold")
    view.add_column("a typical text", ratio=3, overflow="fold")
    for each in facts["clusters"]:
        words = ", ".join(each["words"][:5])
        view.add_row(str(each["number"]), f"{each['size']:,}", escape(words), escape(cut(each["typical"])))
    console.print(view)
