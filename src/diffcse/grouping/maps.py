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


def chosen_map(asked: Map) -> Literal["pca", "umap"]:
    """The kind of map: with "auto" UMAP if it is installed, else the first two principal components.

    Raises:
        InputError: UMAP is asked for and not installed.
    """
    if find_spec("umap") is not None:
        return "pca" if asked == "pca" else "umap"
    if asked == "umap":
        raise InputError('--map umap needs the package umap-learn. Install it: pip install "diffcse[umap]"')
    return "pca"


def flat_map(rows: Rows, asked: Map = "auto", seed: int = 0) -> npt.NDArray[np.float32]:
    """The place of each row, (N, 2).

    UMAP (McInnes et al., arXiv 1802.03426) reads the first 50 principal components, scaled to length 1. Fewer than 20
    rows are placed by principal components.

    Raises:
        InputError: as `chosen_map`; or there are fewer than 3 rows.
    """
    kind = chosen_map(asked)
    if len(rows) < 3:
        raise InputError(f"{len(rows)} rows: a map needs at least 3")
    if kind == "pca" or len(rows) < _NEIGHBOURS + 5:
        flat = components(rows, 2, seed)
        return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    import warnings

    from umap import UMAP

    points = to_unit(components(rows, _DIMENSIONS, seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that a seed means one thread, which is what we ask for
        return np.asarray(UMAP(n_neighbors=_NEIGHBOURS, random_state=seed).fit_transform(points), np.float32)
