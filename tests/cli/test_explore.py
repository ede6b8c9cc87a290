"""`diffcse explore`: what it reads and refuses, and its page driven in a browser."""

import csv
import json
import re
import shutil
from importlib import resources

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from diffcse.grouping.maps import chosen_map
from tests.cli.runs import command
from tests.models import SENTENCES, save_tiny

BAD = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script></script>&amp;"
TEXTS = [f"a text about {'cats' if i % 2 else 'dogs'}, number {i}" for i in range(60)]
TEXTS[5] = BAD


@pytest.fixture
def table(tmp_path):
    """Texts of two groups, one on the left and one on the right, with a column of each kind."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 8)) * 0.1 + np.eye(8)[0] * np.where(np.arange(60) % 2, 2, -2)[:, None]
    columns = {
        "text": TEXTS, "embedding": rows.astype(np.float32).tolist(),
        "topic": ["cats" if i % 2 else BAD for i in range(60)], "tags": [["a"]] * 60,
        "year": [1900 + i for i in range(60)],
        "score": [float("nan"), *([0.5] * 59)],
    }  # fmt: skip
    path = tmp_path / "vectors.parquet"
    parquet.write_table(pa.table(columns), path)
    return path


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S).group(1))


def test_a_page_has_the_points_and_the_columns(capsys, table, tmp_path):
    code, out, err = command(
        capsys, "explore", table, "--map", "pca", "--color", "topic", "--output", tmp_path / "m.html"
    )
    assert code == 0, err
    assert "60 points" in out
    data = data_of(tmp_path / "m.html")
    assert (data["texts"], data["colour"]) == (TEXTS, "topic")
    columns = {column.pop("name"): column for column in data["columns"]}
    assert list(columns) == ["topic", "year", "score"]
    assert (columns["topic"]["names"], columns["topic"]["codes"][:3]) == ([BAD, "cats"], [0, 1, 0])
    assert columns["year"] == {"kind": "numbers", "values": list(range(1900, 1960))}
    assert columns["score"]["names"] == ["0.5", "–"]
    x, odd = np.array(data["x"]), np.arange(60) % 2 == 1
    assert (np.sign(x[odd]) == np.sign(x[1])).all()
    assert (np.sign(x[~odd]) == -np.sign(x[1])).all()


def test_clusters_colour_the_points_and_a_folder_of_parts_is_one_table(capsys, table, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(2):
        shutil.copy(table, folder / f"part-{number}.parquet")
    options = ("--map", "pca", "--color", "cluster", "--k", 2, "--output", tmp_path / "m.html")
    code, _, err = command(capsys, "explore", folder, *options)
    assert code == 0, err
    data = data_of(tmp_path / "m.html")
    assert data["colour"] == "cluster"
    codes = np.array(data["columns"][0]["codes"])
    assert len(codes) == 120
    assert len(set(codes[::2].tolist())) == len(set(codes[1::2].tolist())) == 1
    assert {name.partition(": ")[2].split(", ")[0] for name in data["columns"][0]["names"]} == {"cats", "dogs"}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["10", "2", "2", None, "10", "10"], ["2", "10", "–"]),
        ([3, 1, 3, 12], ["1", "3", "12"]),
        (["10: a", "2: b", "10: a"], ["2: b", "10: a"]),
        (["a", "b", "b", "7"], ["b", "7", "a"]),
    ],
)
def test_groups_are_ordered_by_number_else_by_count(capsys, tmp_path, values, names):
    rows = {"text": ["a"] * len(values), "embedding": [[1.0, float(i)] for i in range(len(values))], "label": values}
    parquet.write_table(pa.table(rows), tmp_path / "v.parquet")
    output = ("--color", "label", "--output", tmp_path / "m.html")
    assert command(capsys, "explore", tmp_path / "v.parquet", *output)[0] == 0
    column = data_of(tmp_path / "m.html")["columns"][0]
    assert column["names"] == names
    assert [column["names"][code] for code in column["codes"]] == ["–" if v is None else str(v) for v in values]


def test_the_colours_of_groups_differ_and_are_visible_on_both_papers():
    script = resources.files("diffcse.report").joinpath("explore.js").read_text(encoding="utf-8")
    palette = re.findall(r"#[0-9a-f]{6}", re.search(r"PALETTE = \[(.*?)\]", script).group(1))
    assert len(palette) >= 12

    def linear(colours):
        codes = np.array([[int(each[i : i + 2], 16) / 255 for i in (1, 3, 5)] for each in colours])
        return np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)

    luminance = linear([*palette, "#ffffff", "#14171c"]) @ [0.2126, 0.7152, 0.0722] + 0.05
    assert (luminance[-2] / luminance[:-2]).min() > 2
    assert (luminance[:-2] / luminance[-1]).min() > 3
    lms = [[0.41222, 0.53633, 0.05145], [0.2119, 0.6807, 0.1074], [0.0883, 0.28172, 0.62998]]
    oklab = [[0.21045, 0.79362, -0.00407], [1.978, -2.42859, 0.45059], [0.0259, 0.78277, -0.80868]]
    points = np.cbrt(linear(palette) @ np.transpose(lms)) @ np.transpose(oklab)
    distances = np.linalg.norm(points[:, None] - points, axis=2) + np.eye(len(points))
    assert distances.min() > 0.15


def test_auto_takes_umap_for_few_points_only(capsys, monkeypatch, table, tmp_path):
    monkeypatch.setattr("diffcse.grouping.maps.find_spec", lambda name: name)
    assert chosen_map("auto", 5_000) == ("umap", "")
    kind, why = chosen_map("auto", 5_001)
    assert (kind, "--map umap" in why) == ("pca", True)
    assert chosen_map("umap", 5_001) == ("umap", "")
    assert chosen_map("umap", 19)[0] == "pca"
    monkeypatch.setattr("diffcse.grouping.maps._FAST", 59)
    code, out, err = command(capsys, "explore", table, "--output", tmp_path / "m.html")
    assert (code, "--map umap" in out) == (0, True), err


def test_a_page_that_exists_and_a_wrong_column_are_answered_before_vectors_are_read(
    capsys, monkeypatch, table, tmp_path
):
    page, options = tmp_path / "m.html", ("explore", table, "--map", "pca", "--output", tmp_path / "m.html")
    page.write_text("of someone else")
    with monkeypatch.context() as patch:
        patch.setattr("diffcse.grouping.stored.read_parquet", None)
        code, _, err = command(capsys, *options)
        assert (code, "m.html: exists" in err, "--overwrite" in err) == (2, True, True)
        code, _, err = command(capsys, *options, "--overwrite", "--color", "lable")
        assert (code, "--color lable" in err, "topic, year, score" in err) == (2, True, True)
    assert page.read_text() == "of someone else"
    assert command(capsys, *options, "--overwrite")[0] == 0
    assert len(data_of(page)["texts"]) == 60


def test_the_rows_of_an_index(capsys, tmp_path):
    tiny = save_tiny(tmp_path / "tiny", "bert")
    (tmp_path / "t.csv").write_text("text,topic\n" + "".join(f"{text},{text[0]}\n" for text in SENTENCES))
    made = ("--model", tiny, "--pooling", "mean", "--keep", "topic", "--output", tmp_path / "index")
    code, _, err = command(capsys, "index", tmp_path / "t.csv", *made)
    assert code == 0, err
    options = ("--map", "pca", "--output", tmp_path / "m.html")
    code, _, err = command(capsys, "explore", tmp_path / "index", *options)
    assert code == 0, err
    data = data_of(tmp_path / "m.html")
    assert data["texts"] == SENTENCES
    assert [column["name"] for column in data["columns"]] == ["row", "topic"]
    assert "--column" in command(capsys, "explore", tmp_path / "index", "--column", "a", *options)[2]


def test_an_array_has_numbers_or_the_texts_of_its_file(capsys, tmp_path):
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    (tmp_path / "t.txt").write_text("a\nb\n\nd\n")
    for options, texts in (
        ((), [f"row {i}" for i in range(4)]),
        (("--texts", tmp_path / "t.txt"), ["a", "b", "", "d"]),
    ):
        code, _, err = command(
            capsys, "explore", tmp_path / "v.npy", *options, "--output", tmp_path / "m.html", "--overwrite"
        )
        assert code == 0, err
        assert data_of(tmp_path / "m.html")["texts"] == texts
    (tmp_path / "t.txt").write_text("a\n")
    code, _, err = command(
        capsys, "explore", tmp_path / "v.npy", "--texts", tmp_path / "t.txt", "--output", tmp_path / "n.html"
    )
    assert (code, "4 rows" in err) == (2, True)


@pytest.mark.parametrize(
    ("match", "change", "options"),
    [
        ("no column 'text'", {"text": None}, ()),
        ("no column 'title'", {}, ("--column", "title")),
        ("--vectors", {"embedding": None, "tags": None}, ()),
        ("not lists of floating-point", {"embedding": [[1, 2]] * 3}, ()),
        ("no embedding", {"embedding": [[1.0], None, [2.0]]}, ()),
        ("several lengths", {"embedding": [[1.0, 2.0], [1.0], [1.0, 2.0, 3.0]]}, ()),
        ("finite", {"embedding": [[1.0], [float("nan")], [2.0]]}, ()),
        ("--color nothing", {}, ("--color", "nothing")),
        ("at least 3", {name: [value] for name, value in {"text": "a", "embedding": [1.0, 2.0]}.items()}, ()),
    ],
)
def test_tables_that_are_no_map_are_refused(capsys, tmp_path, match, change, options):
    columns = {"text": ["a", "b", "c"], "embedding": [[1.0, 2.0]] * 3} | change
    parquet.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), tmp_path / "v.parquet")
    code, _, err = command(capsys, "explore", tmp_path / "v.parquet", *options, "--output", tmp_path / "m.html")
    assert code == 2
    assert match in err
    assert not (tmp_path / "m.html").exists()


def test_mistakes_in_the_options(capsys, table, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a\n")
    (tmp_path / "torn.parquet").write_bytes(table.read_bytes()[:500])
    output = ("--output", tmp_path / "m.html")
    for match, arguments in (
        ("does not exist", ("none.parquet", *output)),
        ("diffcse embed", (tmp_path / "a.txt", *output)),
        ("--output FILE.html", (table,)),
        ("--texts", (table, "--texts", "a.txt", *output)),
        ("--k 1", (table, "--k", 1, *output)),
        ("cannot be read", (tmp_path / "torn.parquet", *output)),
        ("pip install embedding-atlas", (table, "--atlas")),
    ):
        code, _, err = command(capsys, "explore", *arguments)
        assert (code, match in err) == (2, True), err
    monkeypatch.setattr("diffcse.report.explore.find_spec", lambda name: None)
    assert 'pip install "diffcse[explore]"' in command(capsys, "explore", table, *output)[2]
    monkeypatch.undo()
    monkeypatch.setattr("diffcse.grouping.maps.find_spec", lambda name: None)
    assert 'pip install "diffcse[umap]"' in command(capsys, "explore", table, "--map", "umap", *output)[2]


def test_atlas_gets_the_same_file(capsys, table, tmp_path, monkeypatch):
    program = tmp_path / "embedding-atlas"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/seen\nexit 3\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    code, _, err = command(capsys, "explore", table, "--atlas")
    assert (tmp_path / "seen").read_text().split() == [str(table), "--text", "text", "--vector", "embedding"]
    assert (code, "code 3" in err) == (2, True)


# ---- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture
def visit(browser, capsys, table, tmp_path):
    """Opens the page; afterwards: no request but for the page, no error, and no text that ran."""
    assert (
        command(capsys, "explore", table, "--map", "pca", "--color", "topic", "--output", tmp_path / "m.html")[0] == 0
    )
    url, requests, errors, contexts = (tmp_path / "m.html").as_uri(), [], [], []

    def opened(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#map .main-svg")
        return page

    yield opened
    for context in contexts:
        assert context.pages[0].title() == "60 texts of vectors.parquet"
        context.close()
    assert {each for each in requests if not each.startswith(("data:", "blob:"))} == {url}
    assert errors == []


def saved(page, tmp_path):
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "s.csv")
    return list(csv.DictReader((tmp_path / "s.csv").open(encoding="utf-8", newline="")))


@pytest.mark.browser
def test_search_group_lasso_and_save(visit, tmp_path):
    page = visit(viewport={"width": 1200, "height": 800})
    assert page.inner_text("#count") == "60 texts"
    page.fill("#search", "IMG onerror")
    page.wait_for_selector("#list li")
    assert page.inner_text("#list li") == BAD
    assert saved(page, tmp_path) == [{"row": "5", "text": BAD, "topic": "cats", "year": "1905", "score": "0.5"}]
    page.click("#clear")
    page.click("#legend button:has-text('cats')")
    assert page.inner_text("#count") == "30 of 60 chosen"
    every, taken = page.evaluate("document.getElementById('map').data.map(({marker, x}) => ({...marker, n: x.length}))")
    assert (every["n"], taken["n"]) == (60, 30), "the chosen points are drawn on top"
    assert (every["color"], taken["size"] > every["size"]) == ("#8a9099", True)
    assert every["opacity"] < 0.2 < taken["opacity"]
    page.click("#clear")
    box = page.locator("#map .nsewdrag").bounding_box()
    corners = [(0.01, 0.01), (0.5, 0.01), (0.5, 0.99), (0.01, 0.99), (0.01, 0.01)]
    places = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()
    page.wait_for_selector("#list li")
    rows = saved(page, tmp_path)
    assert len({row["topic"] for row in rows}) == 1, "one group is left, the other right"
    assert len(rows) == 30


@pytest.mark.browser
def test_hover_shows_the_text_and_its_columns(visit):
    page = visit(viewport={"width": 1200, "height": 800})
    assert page.locator(".no-webgl").count() == 0
    place = page.evaluate(
        """() => {
            const map = document.getElementById("map"), box = map.getBoundingClientRect(), full = map._fullLayout;
            const [x, y] = [map.data[0].x[7], map.data[0].y[7]];
            return [box.x + full._size.l + full.xaxis.d2p(x), box.y + full._size.t + full.yaxis.d2p(y)];
        }"""
    )
    page.mouse.move(place[0] - 3, place[1])
    page.mouse.move(*place, steps=3)
    page.wait_for_selector("#tip:not([hidden])")
    assert "number" in page.inner_text("#tip")
    assert "year: 19" in page.inner_text("#tip")


@pytest.mark.browser
def test_dark_and_a_phone(visit):
    page = visit(color_scheme="dark", viewport={"width": 390, "height": 800})
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == page.evaluate(
        "getComputedStyle(document.querySelector('#map .main-svg')).backgroundColor"
    )
    assert page.evaluate(paper) == "rgb(20, 23, 28)"
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.emulate_media(color_scheme="light")
    page.wait_for_function(
        "getComputedStyle(document.querySelector('#map .main-svg')).backgroundColor === 'rgb(255, 255, 255)'"
    )
    page.select_option("#colour", "year")
    assert page.locator("#legend button").count() == 0
