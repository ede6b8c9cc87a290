"""`diffcse explore`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from rich.console import Console
from tyro.conf import Positional, arg

from diffcse.cli.paths import check_new
from diffcse.errors import InputError

if TYPE_CHECKING:
    from diffcse.grouping.stored import Stored

_CLUSTER = "cluster"


@dataclass(frozen=True)
class Explore:
    """Draw a map of embedded texts as one HTML file: hover, search, colour by a column, and save a selection as CSV.
    The file needs no network.
    """

    COMMON: ClassVar = ("output", "color", "map", "column", "texts", "overwrite", "atlas")

    source: Annotated[Positional[Path], arg(metavar="PARQUET|INDEX|NPY", help_behavior_hint="")]
    """What `diffcse embed` wrote (a .parquet file, a folder of such files, or a .npy file), or an index of
    `diffcse index`."""
    output: Annotated[Path | None, arg(metavar="FILE.html")] = None
    """The page to write. Its CSV of a selection counts rows from 0."""
    color: Annotated[str | None, arg(metavar="NAME|cluster")] = None
    """Colour the points by this column, or by clusters that are made here. The page can change to any column."""
    map: Literal["auto", "pca", "umap"] = "auto"
    """How the points are placed. auto: umap for at most 5,000 points if it is installed, else pca (the first two
    principal components). umap takes minutes for 50,000 texts."""
    column: str | None = None
    """Column with the texts. Unset: "text"."""
    texts: str | None = None
    """For .npy: the file that was embedded, so that the points have texts."""
    vectors: str | None = None
    """Column with the embeddings. Unset: "embedding", or the only column of number lists."""
    k: Annotated[str, arg(metavar="N|auto")] = "auto"
    """Number of clusters for --color cluster, as in `diffcse cluster`."""
    seed: int = 0
    """Of umap and of the clusters."""
    overwrite: bool = False
    """Replace FILE.html if it exists."""
    atlas: bool = False
    """Hand the .parquet file to embedding-atlas, which shows it on this machine until Ctrl-C; no file is written."""

    def __call__(self, console: Console) -> None:
        self._check()
        if self.atlas:
            self._atlas()
            return
        from diffcse.report.explore import explore_page, require_plotly

        require_plotly()
        stored = self._read()
        from diffcse.files import write_text
        from diffcse.terminal import say

        columns = dict(stored.columns)
        if self.color == _CLUSTER and _CLUSTER not in columns:
            columns = {_CLUSTER: self._clusters(stored, console), **columns}
        self._check_colour(columns)
        from diffcse.grouping.maps import chosen_map, flat_map

        chosen, why = chosen_map(self.map, len(stored.texts))
        kind = {"pca": "principal components", "umap": "UMAP"}[chosen]
        if why:
            say(console, f"note     points are placed by principal components: {why}")
        with console.status(f"placing {len(stored.texts):,} points by {kind}"):
            points = flat_map(stored.rows, self.map, self.seed)
        page = explore_page(
            stored.texts,
            points.tolist(),
            columns,
            title=f"{len(stored.texts):,} texts of {self.source.name}",
            about=f"Near points are texts with near embeddings, as far as two dimensions can show it ({kind}, seed "
            f"{self.seed}). Choose points by lasso, by search or by a group.",
            colour=self.color,
        )
        assert self.output is not None
        write_text(self.output, page)
        say(console, f"written  {self.output}  ({len(stored.texts):,} points, {len(page.encode()) / 1e6:.1f} MB)")

    def _check(self) -> None:
        if not self.source.exists():
            raise InputError(f"{self.source}: does not exist. Relative paths start at {Path.cwd()}.")
        if self.source.is_file() and self.source.suffix not in (".parquet", ".npy"):
            raise InputError(
                f"{self.source}: must be .parquet or .npy. For a text, first run: "
                f"diffcse embed MODEL {self.source} --output vectors.parquet"
            )
        if (self.source / "index.json").is_file():
            from diffcse.searching.place import require_extra

            require_extra()
            if idle := [name for name in ("column", "vectors") if getattr(self, name) is not None]:
                raise InputError(f"--{idle[0]}: has no effect on an index, whose columns are known. Leave it out")
        if self.texts is not None and self.source.suffix != ".npy":
            raise InputError(f"--texts {self.texts}: goes with a .npy file only")
        if self.atlas:
            return
        from diffcse.grouping.settings import check_k

        check_k(self.k)
        if self.output is None or self.output.suffix not in (".html", ".htm"):
            raise InputError("no output: give --output FILE.html")
        if self.output.is_dir():
            raise InputError(f"--output {self.output}: is a folder. Give a file")
        check_new(self.output, overwrite=self.overwrite)
        if self.color not in (None, _CLUSTER):
            self._check_schema()

    def _check_schema(self) -> None:
        """Check --color before vectors are read, if the first .parquet file can be opened."""
        import pyarrow as pa
        from pyarrow import parquet

        file = self.source if self.source.is_file() else next(iter(sorted(self.source.glob("*.parquet"))), None)
        if file is None or file.suffix != ".parquet":
            return
        try:
            schema = parquet.read_schema(file)
        except (pa.ArrowException, OSError, ValueError):  # the reader answers
            return
        self._check_colour(
            each.name for each in schema if each.name != (self.column or "text") and not pa.types.is_nested(each.type)
        )

    def _check_colour(self, columns: Iterable[str]) -> None:
        names = list(columns)
        if self.color is not None and self.color not in names:
            raise InputError(
                f"--color {self.color}: no such column. There are: {', '.join(names) or 'none'}. "
                "Or give --color cluster"
            )

    def _read(self) -> Stored:
        from diffcse.grouping.stored import from_table, read_npy, read_parquet

        if (self.source / "index.json").is_file():
            from diffcse.searching.index import Index

            return from_table(Index.open(self.source).whole(), self.source)
        if self.source.suffix != ".npy":
            return read_parquet(self.source, column=self.column, vectors=self.vectors)
        if self.texts is None:
            return read_npy(self.source)
        from diffcse.encoder.inputs import Sentences

        return read_npy(self.source, list(Sentences([self.texts], self.column)))

    def _clusters(self, stored: Stored, console: Console) -> list[Any]:
        from diffcse.cli.own_rows import stages
        from diffcse.grouping.clusters import cluster

        line, show = stages(console)
        with line:
            result = cluster(stored.texts, rows=stored.rows, k=self.k, seed=self.seed, report=show)
        names = [f"{each.number}: {', '.join(each.words[:3])}" for each in result.clusters]
        return [names[label] for label in result.labels]

    def _atlas(self) -> None:
        program = shutil.which("embedding-atlas")
        if program is None:
            raise InputError("--atlas needs the program embedding-atlas. Install it: pip install embedding-atlas")
        if self.source.suffix != ".parquet":
            raise InputError(f"{self.source}: --atlas reads one .parquet file")
        options = ["--text", self.column or "text", "--vector", self.vectors or "embedding"]
        done = subprocess.run([program, str(self.source), *options], check=False)
        if done.returncode:
            raise InputError(f"embedding-atlas ended with code {done.returncode}; its message is above")
