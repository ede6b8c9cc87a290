"""What is pushed is the model alone, and loads back; every obstacle is said."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.repocard import metadata_load

from diffcse.encoder.load import load
from diffcse.encoder.share import card_for, files_of, model_folder
from diffcse.errors import InputError
from diffcse.record import read_record
from diffcse.training.trained import Trained
from tests.cli.runs import command, make_run
from tests.encoder.hub_server import TOKEN, hub
from tests.models import SENTENCES


@pytest.fixture
def trained(tmp_path):
    """A run with all that a run may leave, and a card with no licence."""
    folder = make_run(tmp_path / "run", 1)
    (folder / "log.jsonl").write_text('{"loss": 1}\n')
    (folder / "checkpoints").mkdir()
    (folder / "model" / "sentences.txt").write_text("\n".join(SENTENCES))
    (folder / "model" / "notes.json").write_text("{}")
    return folder


@pytest.fixture
def here(monkeypatch):
    """A function that makes this process use the hub at an address, with a token."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)

    def use(endpoint, token):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setenv("HF_TOKEN", token)

    return use


def test_what_is_pushed_loads_back_and_nothing_else_is_there(trained, here, capsys):
    def push(name, *options):
        return command(capsys, "push", trained, name, "--yes", *options)

    with hub() as (endpoint, repositories):
        here(endpoint, TOKEN)
        code, out, _ = push("anna/pets", "--license", "apache-2.0")
        assert (code, f"{endpoint}/anna/pets" in out) == (0, True)
        files = repositories["anna/pets"]
        assert sorted(files) == files_of(trained / "model")
        assert {"notes.json", "sentences.txt", "run.json", "log.jsonl"}.isdisjoint(files)
        assert files["README.md"].startswith(b"---\n")
        assert b"license: apache-2.0" in files["README.md"]
        code, _, err = push("anna/pets", "--license", "mit")
        assert (code, "--update" in err, err.count("\n")) == (2, True, 1)
        assert push("anna/pets", "--license", "mit", "--update")[0] == 0
        assert b"license: mit" in files["README.md"]
        code, _, err = push("anna/pets", "--license", "cc0-1.0", "--update", "--private")
        assert (code, "everyone can see it" in err, err.count("\n")) == (2, True, 1)
        assert b"license: mit" in files["README.md"]
        here(endpoint, "hf_wrong")
        code, _, err = push("anna/other", "--license", "mit")
        assert (code, "token" in err, err.count("\n")) == (2, True, 1)
    code, _, err = push("anna/other", "--license", "mit")
    assert (code, "network" in err, err.count("\n")) == (2, True, 1)


def test_a_result_in_python_pushes_itself(trained, here):
    start = load(trained / "model")
    result = Trained(None, start, read_record(trained / "run.json"), trained)
    with hub() as (endpoint, repositories):
        here(endpoint, TOKEN)
        assert result.push("anna/pets", license="mit").endswith("anna/pets")
        assert sorted(repositories["anna/pets"]) == files_of(trained / "model")
        assert b"license: mit" in repositories["anna/pets"]["README.md"]
    with pytest.raises(InputError, match="no folder to push"):
        dataclasses.replace(result, output=None).push("anna/pets")


PROGRAM = """
import sys, numpy
from diffcse.cli import main
main(["push", sys.argv[1], "anna/pets", "--license", "mit", "--yes"])
import diffcse
numpy.save(sys.argv[2], diffcse.encode("anna/pets", ["the cat", "a dog"]))
"""


def test_it_loads_back_from_the_address_in_the_environment(trained, tmp_path):
    with hub() as (endpoint, _):
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {"HF_ENDPOINT": endpoint}
        env |= {"HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        program = [sys.executable, "-c", PROGRAM, trained, tmp_path / "rows.npy"]
        subprocess.run(program, env=env, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "rows.npy"), load(trained)(["the cat", "a dog"]), atol=1e-6)


def test_what_stops_a_push_before_the_network(trained, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    (tmp_path / "empty").mkdir()
    for arguments, says in (
        ((trained, "pets"), "OWNER/NAME"),
        ((tmp_path / "empty", "anna/pets"), "no model folder"),
        ((tmp_path / "no", "anna/pets"), "no such folder"),
        ((trained, "anna/pets"), "--license"),
        ((trained, "anna/pets", "--license", "mit"), "hf auth login"),
        ((trained, "anna/pets", "--license", "mit", "--yes"), "hf auth login"),
    ):
        code, out, err = command(capsys, "push", *arguments)
        assert (code, out, says in err, err.count("\n")) == (2, "", True, 1), err
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    for reason, says in (("no route", "cannot be reached (no route)"), ("", "--yes")):
        monkeypatch.setattr("diffcse.encoder.share.why_unreachable", lambda reason=reason: reason)
        code, out, err = command(capsys, "push", trained, "anna/pets", "--license", "mit")
        assert (code, says in err, bool(out)) == (2, True, not reason), err


def test_a_start_under_cc_by_sa_decides(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-sa-4.0\nlanguage: en\n---\n# Card\n")
    with pytest.raises(InputError, match=r"cc-by-sa-4\.0"):
        card_for(tmp_path, "anna/pets", "mit")
    for given in (None, "cc-by-sa-4.0"):
        (tmp_path / "again.md").write_text(card_for(tmp_path, "anna/pets", given))
        facts = metadata_load(tmp_path / "again.md")
        assert (facts["license"], facts["language"]) == ("cc-by-sa-4.0", "en")


def test_a_folder_without_a_card_gets_one(tmp_path):
    card = card_for(tmp_path, "anna/pets", "mit")
    assert "license: mit" in card
    assert "# pets" in card


def test_a_run_that_is_not_finished_is_no_model(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="finished run"):
        model_folder(tmp_path)
