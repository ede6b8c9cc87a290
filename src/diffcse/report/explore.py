"""A map of texts as one HTML file that needs no network: plotly's library is in it, drawn by WebGL.

Texts and column names come from the user's data. They are written as JSON with every "<" escaped, and the page shows
them as text nodes only. So markup in a text is shown and never run. The page's policy forbids every request; it allows
eval, by which plotly compiles its WebGL commands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.util import find_spec
from math import isfinite
from typing import Any

from diffcse.errors import InputError
from diffcse.report.parts import page_template

_MOST_GROUPS = 250
"""A column of more distinct texts is shown beside a point, and colours nothing."""
_FEW_NUMBERS = 20
"""A column of at most so many distinct numbers is one of groups, such as labels."""


def require_plotly() -> None:
    """Check that plotly and jinja2 are installed.

    Raises:
        InputError: one is not; names the command that installs it.
    """
    for package, extra in (("plotly", "explore"), ("jinja2", "report")):
        if find_spec(package) is None:
            raise InputError(f'the map needs the package {package}. Install it: pip install "diffcse[{extra}]"')


def explore_page(
    texts: Sequence[str],
    points: Sequence[Sequence[float]],
    columns: Mapping[str, Sequence[Any]],
    *,
    title: str,
    about: str,
    colour: str | None = None,
) -> str:
    """The page.

    Args:
        texts: N texts.
        points: N pairs (x, y).
        columns: name -> N values: numbers, text or None.
        about: a sentence below the title.
        colour: the column that colours the points at first; None: no colour.

    Raises:
        InputError: plotly or jinja2 is missing.
    """
    require_plotly()
    from plotly.offline import get_plotlyjs

    data = {
        "x": [round(float(x), 4) for x, _ in points],
        "y": [round(float(y), 4) for _, y in points],
        "texts": list(texts),
        "columns": [{"name": name, **_column(values)} for name, values in columns.items()],
        "colour": colour,
    }
    script = resources.files("diffcse.report").joinpath("explore.js").read_text(encoding="utf-8")
    template = page_template("explore.html")
    return str(template.render(title=title, about=about, plotly=get_plotlyjs(), script=script, data=as_json(data)))


def _column(values: Sequence[Any]) -> dict[str, Any]:
    """Numbers as they are; text and few numbers as codes into a list of distinct values."""
    numbers = all(value is None or isinstance(value, int | float) for value in values)
    counts: dict[Any, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    if numbers and len(counts) > _FEW_NUMBERS:
        return {"kind": "numbers", "values": list(values)}
    places = {value: _place(value) for value in counts}
    if any(value is not None and place is None for value, place in places.items()):
        names = sorted(counts, key=lambda value: (-counts[value], str(value)))
    else:
        names = sorted(counts, key=lambda value: (value is None, places[value] or 0.0, str(value)))
    codes = {value: code for code, value in enumerate(names)}
    kind = "groups" if len(names) <= _MOST_GROUPS else "texts"
    shown = ["–" if name is None else str(name) for name in names]
    return {"kind": kind, "names": shown, "codes": [codes[value] for value in values]}


def _place(value: Any) -> float | None:
    """The number that a label is or begins with ("3", "3: words"); None: it has none."""
    try:
        number = float(str(value).partition(":")[0])
    except ValueError:
        return None
    return number if isfinite(number) else None


def as_json(value: Any) -> str:
    """JSON that may stand in a script element of HTML."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return (
        text.encode(errors="replace").decode().replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    )
