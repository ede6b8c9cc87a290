"""Recipes on one text, trained and compared in one command, by the names that the user gave."""

import json

import pytest

import diffcse
from diffcse.config import load_recipe
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.errors import InputError
from diffcse.tables.recipes import named_recipe, train_recipes
from tests.cli.runs import command
from tests.models import save_tiny
from tests.training.test_adapt import texts


def test_recipes_are_trained_measured_and_shown(capsys, tmp_path):
    made, topics = texts()
    (tmp_path / "t.csv").write_text("\n".join(["body,topic", *(f"{a},{b}" for a, b in zip(made, topics, strict=True))]))
    start = save_tiny(tmp_path / "tiny", "bert", hidden=32)
    arguments = (
        *("compare", tmp_path / "t.csv", "--recipes", "adapt", "simcse", "--seeds", "2", "--model", start),
        *("--train-column", "body", "--max-steps", "2", "--output", tmp_path / "runs", "--json", tmp_path / "c.json"),
        *("--texts", tmp_path / "t.csv", "--column", "body", "--label", "topic"),
    )
    code, out, err = command(capsys, *arguments)
    assert (code, err) == (0, "")
    compared = json.loads((tmp_path / "c.json").read_text())
    assert compared["methods"] == ["adapt", "simcse"]
    part = compared["checkpoints"]["given"]
    assert part["sets"] == ["precision@10 on t.csv"]
    assert all(len(row["scores"]["precision@10 on t.csv"]["values"]) == 2 for row in part["methods"])
    assert part["effects"][0]["sets"]["precision@10 on t.csv"]["error_pairs"] > 0
    assert "|---" not in out
    assert command(capsys, *arguments)[0] == 0, "complete runs are opened"


def test_python_compares_recipes_on_a_table_and_encoders_on_data(tmp_path):
    made, topics = texts()
    table = {"body": made, "topic": list(topics)}
    own = {"texts": table, "column": "body", "label": "topic"}
    start = save_tiny(tmp_path / "tiny", "bert", hidden=32)
    save(load(start, pooling="mean"), tmp_path / "start", "")
    options = {"seeds": 2, "train_column": "body", "output": tmp_path / "runs", "model": tmp_path / "start"}
    compared = diffcse.compare(table, recipes=["adapt", "simcse"], max_steps=2, **options, **own)
    assert compared.to_dict()["methods"] == ["adapt", "simcse"]
    assert "simcse against adapt" in repr(compared)
    assert "<table>" in compared._repr_html_()
    encoders = {"before": tmp_path / "start", "after": tmp_path / "runs" / "adapt-seed-0"}
    report = diffcse.compare(encoders, **own)
    assert [each["encoder"]["name"] for each in report.to_dict()["results"][:2]] == ["before", "after"]
    assert "precision@10" in repr(report)
    for arguments, problem in (({}, "no data"), ({"model": "mini", **own}, "model: goes with recipes")):
        with pytest.raises(InputError, match=problem):
            diffcse.compare(encoders, **arguments)


def test_names_are_recipes_or_presets():
    assert named_recipe("simcse").method.difference == "none"
    assert named_recipe("adapt") == load_recipe("adapt")
    with pytest.raises(InputError, match="adpt"):
        named_recipe("adpt")
    with pytest.raises(InputError, match="twice"):
        train_recipes(["adapt", "adapt"], [], "x")
