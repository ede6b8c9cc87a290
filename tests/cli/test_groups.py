"""`diffcse dedup` and `diffcse cluster` as a person types them."""

import csv
import json

import pytest

from tests.cli.runs import command
from tests.models import SENTENCES, save_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"), "bert")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "texts.csv"
    rows = [*SENTENCES, f"{SENTENCES[0].upper()}!", "a, b"]
    path.write_text("title,id\n" + "".join(f'"{row}",n{i}\n' for i, row in enumerate(rows)))
    return path


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_dedup_writes_what_is_kept_and_what_decided(capsys, tiny, text, tmp_path):
    options = ("--column", "title", "--model", tiny, "--pooling", "mean", "--threshold", "1", "--keep", "id")
    code, out, err = command(capsys, "dedup", text, *options, "--output", tmp_path / "out")
    assert code == 0, err
    kept, dropped = rows_of(tmp_path / "out" / "kept.csv"), rows_of(tmp_path / "out" / "dropped.csv")
    assert dropped[-1] | {"score": ""} == {
        "row": str(len(SENTENCES)), "title": f"{SENTENCES[0].upper()}!", "kind": "exact", "score": "",
        "kept_row": "0", "kept_text": SENTENCES[0], "id": f"n{len(SENTENCES)}",
    }  # fmt: skip
    assert kept[0] == {"row": "0", "title": SENTENCES[0], "id": "n0"}
    assert kept[-1]["title"] == "a, b"
    facts = json.loads((tmp_path / "out" / "dedup.json").read_text())
    assert facts["kept"] == len(kept)
    assert sum(facts["dropped"].values()) == len(dropped)
    assert "repeat an earlier one" in (tmp_path / "out" / "dedup.html").read_text()
    assert "dedup.html" in out


def test_cluster_writes_a_row_for_each_text(capsys, tiny, text, tmp_path):
    options = ("--column", "title", "--model", tiny, "--pooling", "mean")
    code, out, err = command(
        capsys, "cluster", text, *options, "--k", 3, "--keep", "id", "--output", tmp_path / "c.csv"
    )
    assert code == 0, err
    rows = rows_of(tmp_path / "c.csv")
    assert [row["title"] for row in rows[: len(SENTENCES)]] == SENTENCES
    assert [row["row"] for row in rows] == [str(i) for i in range(len(rows))]
    assert [row["id"] for row in rows] == [f"n{i}" for i in range(len(rows))]
    assert {row["cluster"] for row in rows} == {"0", "1", "2"}
    assert "in 3 clusters" in (tmp_path / "c.html").read_text()
    again = ("cluster", text, *options, "--k", 2, "--output", tmp_path / "c.csv")
    code, _, err = command(capsys, *again)
    assert (code, "c.csv: exists" in err) == (2, True)
    assert command(capsys, *again, "--overwrite")[0] == 0
    assert {row["cluster"] for row in rows_of(tmp_path / "c.csv")} == {"0", "1"}
    code, out, err = command(capsys, "cluster", text, *options)
    assert code == 0, err
    assert "silhouette" in out


def test_a_carriage_return_in_a_text_ends_no_row(capsys, tiny, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "the cat\\rsat"}\n{"text": "a dog ran over the hill"}\n')
    options = ("--model", tiny, "--pooling", "mean", "--threshold", "1", "--output", tmp_path / "out")
    code, _, err = command(capsys, "dedup", tmp_path / "t.jsonl", *options)
    assert code == 0, err
    assert [row["text"] for row in rows_of(tmp_path / "out" / "kept.csv")] == [
        "the cat\rsat",
        "a dog ran over the hill",
    ]


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        ("--output DIR", ["dedup", "TEXT"]),
        ("no file", ["dedup", "--output", "OUT"]),
        ("--threshold 7", ["dedup", "TEXT", "--threshold", "7", "--output", "OUT"]),
        ("is a file", ["dedup", "TEXT", "--output", "TEXT"]),
        ("not empty", ["dedup", "TEXT", "--output", "FULL"]),
        ("not empty", ["export", "mini", "--to", "static", "--output", "FULL"]),
        ("no column 'text'", ["dedup", "TEXT", "--output", "OUT"]),
        ("no such folder", ["dedup", "TEXT", "--column", "title", "--model", "./none", "--output", "OUT"]),
        ("ends in .csv", ["cluster", "TEXT", "--output", "FULL"]),
        ("also an input", ["cluster", "TEXT", "--column", "title", "--output", "TEXT", "--overwrite"]),
        ("page.html: exists", ["cluster", "TEXT", "--column", "title", "--output", "PAGE"]),
        ("--column kind", ["dedup", "TEXT", "--column", "kind", "--output", "OUT"]),
        ("--keep row", ["dedup", "TEXT", "--keep", "row", "--output", "OUT"]),
        ("no column 'x'", ["cluster", "TEXT", "--column", "title", "--keep", "x"]),
        ("--k 0", ["cluster", "TEXT", "--k", "0"]),
        ("does not exist", ["cluster", "none.csv"]),
    ],
)
def test_mistakes_are_answered_before_anything_is_written(capsys, text, tmp_path, match, arguments):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    (tmp_path / "page.html").write_text("of someone else")
    names = {"TEXT": text, "OUT": tmp_path / "out", "FULL": tmp_path / "full", "PAGE": tmp_path / "page.csv"}
    code, _, err = command(capsys, *(names.get(argument, argument) for argument in arguments))
    assert code == 2
    assert match in err
    assert "--resume" not in err, "no verb here has it"
    assert (tmp_path / "page.html").read_text() == "of someone else"
    assert not (tmp_path / "out").exists()
