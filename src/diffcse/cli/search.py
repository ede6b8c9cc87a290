"""`diffcse search`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional, arg

from diffcse.cli.paths import check_files, check_model
from diffcse.errors import InputError
from diffcse.machine import tune
from diffcse.record import finite
from diffcse.searching.place import Place, Record, check_queries, require_extra

if TYPE_CHECKING:
    from diffcse.searching.hits import Hit

_LONGEST = 240
"""Characters of a text in the table; --json has the whole text."""


@dataclass(frozen=True)
class Search:
    """Search an index that `diffcse index` made: the texts nearest to a query, by meaning."""

    index: Annotated[Positional[str], arg(metavar="INDEX", help_behavior_hint="")]
    """The folder or address of the index."""
    query: Annotated[Positional[tuple[str, ...]], arg(metavar="QUERY...", help_behavior_hint="")] = ()
    """One query or several, each in quotes."""
    queries: Annotated[str | None, arg(metavar="FILE")] = None
    """File with a query on each line; "-": standard input."""
    k: int = 10
    """Number of answers, also -k 5."""
    where: Annotated[str | None, arg(metavar="FILTER")] = None
    """Only rows that pass a filter on text and kept columns, in SQL: "lang = 'en' AND year > 2000"."""
    hybrid: bool = False
    """Join the ranking by meaning with one by words (BM25), for names, codes and exact terms."""
    exact: bool = False
    """Compare every row, also where the index has an approximate one."""
    json: bool = False
    """Print one JSON object a query instead of a table."""
    model: str | None = None
    """The model that made the index, if its folder has moved. Unset: the one in the index's record."""

    RENAMED: ClassVar[Mapping[str, str]] = {"-k": "--k"}

    def __call__(self, console: Console) -> None:
        self._check()
        from diffcse.encoder.inputs import Sentences

        queries = list(self.query)
        if self.queries is not None:
            queries += [line for line in Sentences([self.queries], lines=True) if line.strip()]
        check_queries(queries, self.k)
        require_extra()
        if Record.read(Place.of(self.index)) is None:
            raise InputError(f"{self.index}: no index. Make it: diffcse index TEXT --model MODEL --output {self.index}")
        from diffcse.searching.index import Index

        index = Index.open(self.index, model=self.model)
        index.check(queries, self.k, where=self.where, hybrid=self.hybrid)
        tune()
        answers: Any = index.search(queries, self.k, where=self.where, hybrid=self.hybrid, exact=self.exact)
        for query, hits in zip(queries, answers, strict=True):
            if self.json:
                row = finite({"query": query, "hits": [hit.to_dict() for hit in hits]})
                sys.stdout.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            else:
                _show(console, query, hits, hybrid=self.hybrid, titled=len(queries) > 1)

    def _check(self) -> None:
        if self.query and self.queries is not None:
            raise InputError("give queries or --queries, not both")
        if self.queries is not None and self.queries != "-":
            check_files([self.queries])
        if self.model is not None:
            check_model(self.model, "--model")


def _show(console: Console, query: str, hits: Sequence[Hit], *, hybrid: bool, titled: bool) -> None:
    if titled:
        console.print(f"\n{query}", style="bold", markup=False, highlight=False)
    if not hits:
        console.print("no row passes the filter")
        return
    from diffcse.figures import without_controls

    view = Table()
    view.add_column("rank", justify="right", no_wrap=True)
    view.add_column("score", justify="right", no_wrap=True, min_width=6)
    view.add_column("text", overflow="fold", ratio=1, min_width=20)
    for name in hits[0].columns:
        view.add_column(escape(name), overflow="fold")
    for hit in hits:
        text = without_controls(hit.text if len(hit.text) <= _LONGEST else f"{hit.text[: _LONGEST - 2]} …")
        cells = ["" if value is None else escape(without_controls(str(value))) for value in hit.columns.values()]
        view.add_row(str(hit.rank), f"{hit.score:.{4 if hybrid else 3}f}", escape(text), *cells)
    console.print(view)
    if hybrid:
        console.print("score: joined ranks, not a cosine", style="dim", highlight=False)
