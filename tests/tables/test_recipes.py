"""Recipes on one text, trained and compared in one command, by the names that the user gave."""

import json

import pytest

from diffcse.config import load_recipe
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


def test_names_are_recipes_or_presets():
    assert named_recipe("simcse").method.difference == "none"
    assert named_recipe("adapt") == load_recipe("adapt")
    with pytest.raises(InputError, match="adpt"):
        named_recipe("adpt")
    with pytest.raises(InputError, match="twice"):
        train_recipes(["adapt", "adapt"], [], "x")
