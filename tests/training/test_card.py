"""The card tells what was trained, and names no folder of this computer."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub.repocard import metadata_load

from diffcse.encoder.share import forces_licence
from diffcse.record import read_record
from diffcse.training.card import start_facts
from diffcse.training.run import run
from tests.models import SENTENCES, save_tiny
from tests.training.runs import CORPUS, config


@pytest.mark.parametrize(
    ("accumulation", "steps", "passes", "said"), [(4, 6, 2.0, "at most 32"), (4, 2, 0.8, "32"), (1, 10, 1.0, "8")]
)
def test_an_accumulation_cut_off_by_the_epochs_end_is_counted_as_it_is(
    tiny, tmp_path, accumulation, steps, passes, said
):
    told = {}
    settings = config(tiny, method={"difference": "none"}, accumulation=accumulation, max_steps=steps)
    record = run(settings, CORPUS, tmp_path / "out", report=lambda event, facts: told.setdefault(event, facts)).record
    assert told["start"]["passes"] == record.scores["sentences_seen"] / len(SENTENCES) == passes
    assert f"{steps} steps of {said} sentences" in (tmp_path / "out/model/README.md").read_text()


def test_card_names_no_folder_of_this_machine(tiny, dev, tmp_path):
    run(config(tiny, dev=dev, max_steps=1), CORPUS, tmp_path / "out")
    for file in (tmp_path / "out" / "model").rglob("*"):
        assert file.is_dir() or str(tmp_path.parent).encode() not in file.read_bytes(), file


def test_the_card_names_no_folder_of_this_machine(tiny, tmp_path):
    causal = save_tiny(tmp_path / "causal", "gpt2", tokens="bert")
    method = {"edits": ("causal_lm",), "causal_generator": str(causal)}
    run(config(tiny, method=method, max_steps=1), CORPUS, tmp_path / "out")
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert 'causal_generator = "causal"' in card
    assert str(tmp_path) not in card


def test_the_card_says_that_edited_copies_were_views(tiny, tmp_path):
    titles = []
    for role in ("difference", "positive"):
        method = {"difference": "none", "edits": ("delete",), "edit_role": role}
        run(config(tiny, method=method, max_steps=1), CORPUS, tmp_path / role)
        card = (tmp_path / role / "model" / "README.md").read_text()
        titles.append(next(line for line in card.splitlines() if line.startswith("# ")))
    plain = "# A sentence encoder trained by SimCSE"
    assert titles == [plain, f"{plain}, with an edited copy of each sentence as one more positive"]


def front(folder):
    return metadata_load(folder / "model" / "README.md")


def test_front_matter_states_what_is_known(tiny, dev, tmp_path):
    run(config(tiny, dev=dev, max_steps=1), CORPUS, tmp_path / "out")
    facts = front(tmp_path / "out")
    assert (facts["library_name"], facts["metrics"]) == ("sentence-transformers", ["spearman_cosine"])
    assert {"license", "base_model", "datasets"}.isdisjoint(facts)
    results = facts["model-index"][0]["results"]
    record = read_record(tmp_path / "out" / "run.json")
    assert results[0]["dataset"]["name"] == Path(dev).name
    assert results[0]["metrics"][0]["value"] == round(record.scores["dev"]["best"], 2)


def test_base_model_and_licence_come_from_the_start(tiny, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(tiny, start)
    (start / "README.md").write_text("---\nlicense: cc-by-sa-3.0\nbase_model: anna/pets\n---\n# Pets\n")
    run(config(str(start), max_steps=1), CORPUS, tmp_path / "out")
    assert {"license": "cc-by-sa-3.0", "base_model": "anna/pets"}.items() <= front(tmp_path / "out").items()
    (start / "README.md").write_text("---\nlicense: mit\n---\n# Pets\n")
    run(config(str(start), max_steps=1), CORPUS, tmp_path / "other")
    assert "license" not in front(tmp_path / "other")


def test_start_facts():
    assert start_facts("mini") == {"license": "cc-by-sa-4.0", "language": "en"}
    assert start_facts("anna/pets") == {"base_model": "anna/pets"}
    assert (forces_licence("CC-BY-SA-4.0"), forces_licence("cc-by-4.0"), forces_licence(None)) == (True, False, False)
