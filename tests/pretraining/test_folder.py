"""Which folder takes a run, and which run may continue in it."""

import pytest
import torch

from diffcse.config import Text
from diffcse.errors import InputError
from diffcse.pretraining.run import pretrain
from diffcse.record import Record
from diffcse.text.corpus import Corpus
from tests.models import save_tiny
from tests.pretraining.texts import CORPUS, DOCUMENTS, LINES, TEXT, TINY, begun, tiny, weights_of


def test_folder_that_holds_something(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        pretrain(TINY, CORPUS, tmp_path)
    with pytest.raises(InputError, match="no run to resume"):
        pretrain(TINY, CORPUS, tmp_path, resume=True)


@pytest.mark.parametrize(("kind", "status"), [("train", "running"), ("pretrain", "complete"), (None, None)])
def test_a_record_that_was_kept_stays(tmp_path, kind, status):
    if kind is None:
        (tmp_path / "recipe.toml").write_text("mine")
    else:
        Record(kind, {}, 1, status=status).write(tmp_path / "run.json")
    with pytest.raises(InputError, match="not empty"):
        pretrain(TINY, CORPUS, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1 + (tmp_path / "cache").exists()


def test_a_refused_run_does_not_block_the_mended_one(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="vocabulary"):
        pretrain(tiny(vocabulary=5000), CORPUS, out)
    alone = Corpus.from_sentences([line for sentence in TEXT for line in (sentence, "")], documents=True)
    with pytest.raises(InputError, match="--recipe masked"):
        pretrain(tiny(next_weight=0.1), alone, out)
    pretrain(tiny(max_steps=1), CORPUS, out)
    assert (out / "model").is_dir()
    with pytest.raises(InputError, match="not empty"):
        pretrain(tiny(max_steps=1), CORPUS, out)


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_run_goes_on_from_the_model_it_began_with(tmp_path, file, complete):
    save_tiny(tmp_path / "first", "bert", hidden=16)
    config = tiny(model=str(tmp_path / "first"), max_steps=20, start_share=0.5)
    begun(config, tmp_path / "out", complete=complete)
    before = (tmp_path / "first" / file).read_bytes()
    if file == "config.json":
        (tmp_path / "first" / file).write_bytes(before.replace(b'"gelu"', b'"relu"'))
    else:
        save_tiny(tmp_path / "first", "bert", hidden=16, seed=1)
    if not complete:  # a complete run is only opened
        with pytest.raises(InputError, match=r"run\.json: .*first"):
            pretrain(config, CORPUS, tmp_path / "out", resume=True)
        (tmp_path / "first" / file).write_bytes(before)
    assert pretrain(config, CORPUS, tmp_path / "out", resume=True).record.status == "complete"


@pytest.mark.parametrize("relative", [True, False])
def test_only_a_complete_run_outlives_its_start(tmp_path, monkeypatch, relative):
    monkeypatch.chdir(tmp_path)
    first = save_tiny(tmp_path / "first", "bert", hidden=16)
    config = tiny(model="first" if relative else str(first), max_steps=20)
    begun(config, tmp_path / "killed", complete=False)
    begun(config, tmp_path / "complete", complete=True)
    first.rename(tmp_path / "moved")
    assert pretrain(config, CORPUS, tmp_path / "complete", resume=True).record.status == "complete"
    with pytest.raises(InputError, match=r"run\.json: .*first" if relative else "first"):
        pretrain(config, CORPUS, tmp_path / "killed", resume=True)
    (tmp_path / "moved").rename(first)
    assert pretrain(config, CORPUS, tmp_path / "killed", resume=True).record.status == "complete"


@pytest.mark.parametrize("complete", [True, False])
def test_other_documents_are_another_run(tmp_path, complete):
    config = tiny(next_weight=0.1, max_steps=10)
    begun(config, tmp_path / "out", complete=complete, corpus=DOCUMENTS)
    other = Corpus.from_sentences([line for line in LINES if line], documents=True)
    assert other.sha256 == DOCUMENTS.sha256
    with pytest.raises(InputError, match=r"out: .*documents"):
        pretrain(config, other, tmp_path / "out", resume=True)
    assert pretrain(config, DOCUMENTS, tmp_path / "out", resume=True).record.status == "complete"


def test_what_of_the_files_was_read_is_recorded_and_the_same_on_resume(tmp_path):
    file = tmp_path / "text.csv"
    file.write_text("text,page\n" + "".join(f"{sentence},{i // 9}\n" for i, sentence in enumerate(TEXT)))
    config, out = tiny(next_weight=0.1, max_steps=1), tmp_path / "out"
    read = pretrain(config, [file], out, text=Text(document="page")).record.data["text"]
    assert read == {
        "column": "text",
        "columns": None,
        "document": "page",
        "encoding": None,
        "quoting": "auto",
        "split_sentences": False,
        "language": "en",
        "max_line_bytes": Text().max_line_bytes,
        "max_blank_lines": Text().max_blank_lines,
        "max_expansion": Text().max_expansion,
    }
    with pytest.raises(InputError, match=r"out: .*text\.document was \"page\""):
        pretrain(config, [file], out, resume=True)
    pretrain(config, [file], out, text=Text(document="page"), resume=True)


def test_an_unfinished_run_can_be_stored_in_another_format(tmp_path):
    begun(tiny(max_steps=20), tmp_path / "out", complete=False)
    pretrain(tiny(max_steps=20, store="fp32"), CORPUS, tmp_path / "out", resume=True)
    assert {value.dtype for value in weights_of(tmp_path / "out").values()} == {torch.float32}
    with pytest.raises(InputError, match="store was"):
        pretrain(tiny(max_steps=20), CORPUS, tmp_path / "out", resume=True)
