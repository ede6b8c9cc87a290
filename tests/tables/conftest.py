"""A tiny model, text and dev set for tables, and a cache of their own."""

import pytest

from tests.models import SENTENCES, save_tiny
from tests.tables.grid import ended, made


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model, a text and a dev set."""
    folder = tmp_path_factory.mktemp("tables")
    save_tiny(folder / "model", "bert", hidden=16)
    (folder / "text.txt").write_text("\n".join(SENTENCES[:40]))
    pairs = zip(range(40), SENTENCES[40:], SENTENCES[:40], strict=True)
    (folder / "dev.tsv").write_text("".join(f"{i * 7 % 11 / 2}\t{a}\t{b}\n" for i, a, b in pairs))
    return folder


@pytest.fixture(scope="module")
def done(place, tmp_path_factory):
    output = tmp_path_factory.mktemp("done")
    grid, cells, shared = made(place, output)
    assert ended(cells, shared) == [("plain", 1), ("plain", 2), ("half", 1), ("half", 2)]
    return output, grid, cells, shared
