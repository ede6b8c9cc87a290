"""Embeddings -> a flat map: near texts are near points."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import numpy as np
import numpy.typing as npt

from diffcse.encoder.similarity import to_unit
from diffcse.errors import InputError
from diffcse.grouping.vectors import Rows, components

Map = Literal["auto", "pca", "umap"]
_DIMENSIONS, _NEIGHBOURS = 50, 15
_FAST = 5_000
"""Most rows for which "auto" takes UMAP, which needs minutes for tens of thousands."""


def chosen_map(asked: Map, count: int) -> tuple[Literal["pca", "umap"], str]:
    """(kind of map for `count` rows, why it is not UMAP or "").

    "auto" is UMAP for at most 5,000 rows if it is installed, else the first two principal components. Fewer than 20
    rows are placed by principal components.

    Raises:
        InputError: UMAP is asked for and not installed.
    """
    installed = find_spec("umap") is not None
    if asked == "umap" and not installed:
        raise InputError('--map umap needs the package umap-learn. Install it: pip install "diffcse[umap]"')
    if asked == "pca":
        return "pca", ""
    if count < _NEIGHBOURS + 5:
        return "pca", f"UMAP needs at least {_NEIGHBOURS + 5} points" if asked == "umap" else ""
    if asked == "auto" and installed and count > _FAST:
        return "pca", f"UMAP takes minutes above {_FAST:,} points; --map umap asks for it"
    return ("umap" if installed else "pca"), ""


def flat_map(rows: Rows, asked: Map = "auto", seed: int = 0) -> npt.NDArray[np.float32]:
    """The place of each row, (N, 2).

    UMAP (McInnes et al., arXiv 1802.03426) reads the first 50 principal components, scaled to length 1.

    Raises:
        InputError: as `chosen_map`; or there are fewer than 3 rows.
    """
    kind, _ = chosen_map(asked, len(rows))
    if len(rows) < 3:
        raise InputError(f"{len(rows)} rows: a map needs at least 3")
    if kind == "pca":
        flat = components(rows, 2, seed)
        return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    import warnings

    from umap import UMAP

    points = to_unit(components(rows, _DIMENSIONS, seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that a seed means one thread, which is what we ask for
        return np.asarray(UMAP(n_neighbors=_NEIGHBOURS, random_state=seed).fit_transform(points), np.float32)
