"""The card tells what was trained, and names no folder of this computer."""

import pytest

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
