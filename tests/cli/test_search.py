"""diffcse index and diffcse search, as a person types them."""

import io
import json

import pytest

from diffcse.encoder.load import load
from tests.models import SENTENCES, save_tiny
from tests.test_cli import run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"), "bert")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "texts.csv"
    rows = [f'"{text}",{n},{"en" if n % 2 else "de"}' for n, text in enumerate(SENTENCES)]
    path.write_text("\n".join(["title,id,lang", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def index(tiny, table, tmp_path_factory):
    from diffcse import Index

    place = tmp_path_factory.mktemp("shared") / "index"
    Index.build(table, place, model=tiny, pooling="mean", column="title", keep=["id", "lang"])
    return place


def test_index_then_search(capsys, tiny, table, tmp_path):
    place = tmp_path / "index"
    options = ("--column", "title", "--keep", "id,lang", "--pooling", "mean", "--precision", "fp32")
    code, out, err = run(capsys, "index", table, "--model", tiny, "--output", place, *options)
    assert (code, err) == (0, "")
    assert f"{len(SENTENCES)} rows" in out
    assert "kept columns: id, lang" in out
    code, out, _ = run(capsys, "search", place, SENTENCES[3], "-k", 2, "--where", "lang = 'en'")
    assert code == 0
    assert [word in out for word in ("rank", "score", "lang", "1.000", SENTENCES[3])] == [True] * 5

    code, out, _ = run(capsys, "index", table, "--output", place, "--column", "title", "--add")
    assert code == 0
    assert f"{len(SENTENCES)} rows added, {2 * len(SENTENCES)} in all" in out
    code, out, _ = run(capsys, "index", "--output", place, "--delete", "lang = 'de'")
    assert code == 0
    assert f"{2 * len(SENTENCES[1::2])} are left" in out


def test_a_folder_that_embed_has_not_finished_is_refused(capsys, tiny, table, tmp_path):
    made = ("embed", tiny, table, "--column", "title", "--pooling", "mean", "--output", tmp_path / "parts")
    assert run(capsys, *made, "--rows-per-part", 20, "--shard", "1/2")[0] == 0
    build = ("index", tmp_path / "parts", "--model", tiny, "--pooling", "mean", "--output", tmp_path / "index")
    for reads in (build, ("explore", tmp_path / "parts", "--output", tmp_path / "m.html")):
        code, _, err = run(capsys, *reads)
        assert code == 2
        assert "parts: parts are missing" in err
    assert not (tmp_path / "index").exists()
    assert run(capsys, *made, "--rows-per-part", 20)[0] == 0
    code, out, err = run(capsys, *build)
    assert (code, err) == (0, "")
    assert f"{len(SENTENCES)} rows," in out


def test_text_of_standard_input_and_a_limit_that_is_raised(capsys, tiny, tmp_path, monkeypatch):
    long = "cat " * 300_000
    options = ("--model", tiny, "--pooling", "mean", "--output", tmp_path / "index")
    for more, expected in (((), 2), (("--limits", "max_line_bytes=2000000"), 0)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"the cat\n{long}\n".encode())))
        code, _, err = run(capsys, "index", "-", *options, *more)
        assert code == expected
        assert ("--limits max_line_bytes=N in embed, evaluate, index" in err) == bool(expected)


def test_a_resumed_run_builds_the_approximate_index_it_lacks(capsys, tiny, tmp_path):
    (tmp_path / "t.txt").write_text("".join(f"the cat {i}\n" for i in range(300)))
    build = ("index", tmp_path / "t.txt", "--model", tiny, "--pooling", "mean", "--output", tmp_path / "index")
    assert run(capsys, *build)[0] == 0
    code, out, _ = run(capsys, *build, "--ann", "--resume")
    assert (code, "hnsw: recall@10" in out) == (0, True)


def test_control_characters_of_a_text_do_not_reach_the_terminal(capsys, tiny, tmp_path):
    (tmp_path / "t.txt").write_text("the \x1b[31mcat\x1b]0;title\x07 sat\n")
    build = ("index", tmp_path / "t.txt", "--model", tiny, "--pooling", "mean", "--output", tmp_path / "index")
    assert run(capsys, *build)[0] == 0
    code, out, _ = run(capsys, "search", tmp_path / "index", "cat")
    assert (code, "\x1b" in out, "\x07" in out, "[31mcat" in out) == (0, False, False, True)


def test_json_has_one_object_a_query(capsys, index, tiny, tmp_path):
    (tmp_path / "queries.txt").write_text(f"{SENTENCES[0]}\n\n{SENTENCES[1]}\n")
    code, out, _ = run(capsys, "search", index, "--queries", tmp_path / "queries.txt", "--json", "-k", 1)
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [answer["query"] for answer in answers] == SENTENCES[:2]
    for row, answer in enumerate(answers):
        [hit] = answer["hits"]
        assert hit["score"] == pytest.approx(1, abs=1e-3)
        rest = {"rank": 1, "row": row, "text": SENTENCES[row], "id": row, "lang": "en" if row % 2 else "de"}
        assert {key: value for key, value in hit.items() if key != "score"} == rest
    code, out, _ = run(capsys, "search", index, SENTENCES[0], "the cat", "--hybrid", "--json")
    assert (code, len(out.splitlines())) == (0, 2)


def test_an_approximate_index_says_its_recall(capsys, index, tiny, tmp_path):
    (tmp_path / "many.txt").write_text("".join(f"{SENTENCES[n % len(SENTENCES)]} {n}\n" for n in range(300)))
    options = ("--model", tiny, "--pooling", "mean", "--output", tmp_path / "many")
    code, out, _ = run(capsys, "index", tmp_path / "many.txt", *options, "--ann")
    assert code == 0
    assert "recall@10" in out
    code, out, _ = run(capsys, "index", "--output", tmp_path / "many", "--ann", "--ann-kind", "ivf-pq")
    assert "ivf-pq: recall@10" in out
    code, _, err = run(capsys, "index", "--output", index, "--ann")
    assert code == 2
    assert "256" in err


TITLES = ("index", "TABLE", "--column", "title", "--model", "mini", "--output", "NEW")
WRONG = {
    "no output": (("index", "TABLE", "--model", "mini"), "no output"),
    "no model": (("index", "TABLE", "--output", "NEW"), "--model"),
    "no text": (("index", "--model", "mini", "--output", "NEW"), "no text"),
    "missing file": (("index", "no.csv", "--model", "mini", "--output", "NEW"), "no.csv does not exist"),
    "missing model": (("index", "TABLE", "--model", "./no", "--output", "NEW"), "--model ./no"),
    "missing column": (("index", "TABLE", "--model", "mini", "--output", "NEW"), "no column 'text'"),
    "missing kept": ((*TITLES, "--keep", "ids"), "--keep"),
    "exists": (("index", "TABLE", "--model", "mini", "--output", "INDEX"), "an index exists"),
    "add to none": (("index", "TABLE", "--output", "NEW", "--add"), "no index"),
    "keep with add": (("index", "TABLE", "--output", "INDEX", "--add", "--keep", "id"), "--keep"),
    "bad delete": (("index", "--output", "INDEX", "--delete", "langs = 1"), "no column 'langs'"),
    "delete names its option": (("index", "--output", "INDEX", "--delete", "lang ="), "--delete lang ="),
    "add by another": ((*TITLES[:-1], "INDEX", "--add"), "Add with the model that made the index"),
    "language": ((*TITLES, "--language", "x"), "--language x"),
    "no index": (("search", "NEW", "a"), "no index"),
    "no query": (("search", "INDEX"), "no query"),
    "empty query": (("search", "INDEX", " "), "query: is empty"),
    "k": (("search", "INDEX", "a", "-k", "0"), "k = 0"),
    "k no number": (("search", "INDEX", "a", "-k", "many"), "--k many"),
    "where": (("search", "INDEX", "a", "--where", "lang ="), "--where lang ="),
    "text of a filter": (("search", "INDEX", "a", "--where", "lang = 5 and id = 3"), "--where lang"),
    "nearly mini": (("search", "INDEX", "a", "--model", "minni"), "Did you mean mini?"),
    "two kinds of queries": (("search", "INDEX", "a", "--queries", "TABLE"), "not both"),
    "queries missing": (("search", "INDEX", "--queries", "no.txt"), "no.txt does not exist"),
    "other model": (("search", "INDEX", "a", "--model", "mini"), "mini is another encoder"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(capsys, name, table, index, tmp_path):
    arguments, says = WRONG[name]
    places = {"TABLE": table, "INDEX": index, "NEW": tmp_path / "new"}
    code, out, err = run(capsys, *(places.get(word, word) for word in arguments))
    assert (code, out) == (2, "")
    assert says in err
    assert not (tmp_path / "new").exists()


def test_a_missing_extra_says_its_pip_line(capsys, table, index, tmp_path, monkeypatch):
    monkeypatch.setattr("diffcse.searching.place.find_spec", lambda name: None)
    for arguments in (("search", index, "a"), ("index", table, "--model", "mini", "--output", tmp_path / "new")):
        code, _, err = run(capsys, *arguments)
        assert code == 2
        assert 'pip install "diffcse[search]"' in err


def test_the_bundled_model_finds_by_meaning():
    import diffcse

    texts = ["A cat sleeps on the sofa.", "Stocks fell in London.", "The function returns a list."]
    assert diffcse.search(texts, "share prices dropped", model=load("mini"), k=1)[0].row == 1
