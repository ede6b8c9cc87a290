"""The picture of README: differences to a reference on several sets, as SVG in light and dark.

    python -m benchmarks.forest_plot docs/forest.json --output docs/forest
    python -m benchmarks.forest_plot docs/own-text.json --output docs/own-text

The JSON names tables of `diffcse ablate` and rows in them. All figures are read from these tables. It has "title",
"note", "columns" (each: "label", "column" of the tables) and "rows" (each: "label", "table" relative to the JSON file,
"row", and "against", a row of that table). A difference is drawn if the table has its interval. Where the table
compares the two rows the other way round, its sign is turned. A row with "start" is one of `benchmarks.domains`:
"table" is its domains.json, and "column" a domain.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from diffcse.files import write_text
from diffcse.report.forest import THEMES, Interval, Panel, forest_picture


def main() -> None:
    """Write OUTPUT-light.svg and OUTPUT-dark.svg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="the JSON file")
    parser.add_argument("--output", type=Path, required=True, help="path without -light.svg and -dark.svg")
    options = parser.parse_args()
    picture = json.loads(options.picture.read_text(encoding="utf-8"))
    folder = options.picture.parent
    panels = [
        Panel(column["label"], [interval(folder, row, column["column"]) for row in picture["rows"]])
        for column in picture["columns"]
    ]
    labels = [row["label"] for row in picture["rows"]]
    for theme in THEMES:
        file = Path(f"{options.output}-{theme}.svg")
        write_text(file, forest_picture(picture["title"], labels, panels, picture["note"], theme))
        print(f"written  {file}")


def interval(folder: Path, row: dict[str, Any], column: str) -> Interval | None:
    """The row's difference in one column of its table; None where the table has no interval for it."""
    table = json.loads((folder / row["table"]).read_text(encoding="utf-8"))
    if "start" in row:
        return domain_interval(table, row, column)
    against = {each["name"]: each["against"] for each in table["rows"]}
    turned = against[row["row"]] != row["against"]
    name = row["against"] if turned else row["row"]
    if against[name] != (row["row"] if turned else row["against"]):
        raise SystemExit(f"{row['table']}: has no difference between {row['row']} and {row['against']}")
    score = table["columns"].get(column, {"rows": {}})["rows"].get(name)
    if score is None or score["effect"] is None or score["effect"]["low"] is None:
        return None
    effect = score["effect"]
    if turned:
        effect = {"difference": -effect["difference"], "low": -effect["high"], "high": -effect["low"]}
    verdict = score["verdict"] if not turned else {"better": "worse", "worse": "better"}.get(score["verdict"], "tie")
    return Interval.of(row["label"], effect, verdict)


def domain_interval(table: dict[str, Any], row: dict[str, Any], domain: str) -> Interval:
    """The row's difference from its start on one domain; clear if its interval over queries excludes zero."""
    wanted = (row["start"], row["row"], domain)
    result = next(each for each in table["results"] if (each["start"], each["row"], each["domain"]) == wanted)
    low, high = result["difference"]["low"], result["difference"]["high"]
    verdict = "better" if low > 0 else "worse" if high < 0 else "tie"
    return Interval(row["label"], result["difference"]["value"], low, high, verdict)


if __name__ == "__main__":
    main()
