"""A run writes only to its own folder, and resumes only what it began."""

import json
import os
from pathlib import Path

import pytest

from diffcse.errors import InputError
from diffcse.record import read_record
from diffcse.text.corpus import Corpus
from diffcse.training.run import run
from tests.models import SENTENCES, save_tiny
from tests.training.runs import CORPUS, begin, config, refuse


def test_refusals_leave_nothing_behind(tiny, tmp_path):
    out = tmp_path / "out"
    refuse(
        r"training\.batch_size = 64(?!.*--batch-size).*Give more text",
        config(tiny, batch_size=64),
        out,
        Corpus.from_sentences(SENTENCES[:3]),
    )
    refuse(r"training\.max_tokens = 300.*256", config(tiny, max_tokens=300), out)
    refuse("nowhere.tsv", config(tiny, dev=str(tmp_path / "nowhere.tsv")), out)
    refuse("as a hub id", config("nobody/nothing"), out)
    assert not out.exists()


def test_folder_in_use(tiny, tmp_path):
    out = tmp_path / "out"
    run(config(tiny), CORPUS, out)
    refuse(f"^{out}: .*--output.*--resume", config(tiny), out)
    refuse(
        rf"^{out}: .*complete.*training\.learning_rate was 0\.001",
        config(tiny, learning_rate=2e-3),
        out,
        resume=True,
    )
    refuse(f"^{out}: .*text", config(tiny), out, Corpus.from_sentences(SENTENCES[:50]), resume=True)
    (tmp_path / "file").write_text("x")
    refuse(f"^{tmp_path / 'file'}: .*--output", config(tiny), tmp_path / "file")


def test_a_folder_takes_one_run_at_a_time(tiny, tmp_path):
    out, said = tmp_path / "out", []

    def second(event, facts):
        if event == "log" and facts["step"] == 2:
            for resume in (True, False):
                with pytest.raises(InputError) as error:
                    run(config(tiny), CORPUS, out, resume=resume)
                said.append(str(error.value))

    run(config(tiny), CORPUS, out, report=second)
    assert said == [f"{out}: another process is writing there: wait until it ends, or give another --output"] * 2
    assert sorted(path.name for path in out.iterdir()) == ["log.jsonl", "model", "recipe.toml", "run.json"]
    (out / ".lock").touch()  # as a killed process leaves it
    run(config(tiny), CORPUS, out, resume=True)


def test_resume_touches_no_folder_it_did_not_begin(tiny, tmp_path):
    out = tmp_path / "out"
    for name in ("checkpoints/precious.txt", "best/photo.png", "model/mine.py"):
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("keep me")
    refuse(f"^{out}: ", config(tiny), out, resume=True)
    assert sorted(p.name for p in out.rglob("*") if p.is_file()) == ["mine.py", "photo.png", "precious.txt"]
    run(config(tiny, max_steps=1), CORPUS, tmp_path / "new", resume=True)  # nothing there yet is no error


def test_another_dev_file_is_another_run(tiny, dev, tmp_path):
    settings = config(tiny, dev=dev, max_steps=2, eval_every=1)
    run(settings, CORPUS, tmp_path / "out")
    with Path(dev).open("a") as file:
        file.write("1\tone more\tpair\n")
    refuse(f"^{tmp_path / 'out'}: .*dev file", settings, tmp_path / "out", resume=True)


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("part", ["model", "generator"])
def test_a_run_goes_on_from_the_weights_it_began_with(tmp_path, part, complete):
    for name in ("model", "generator"):
        save_tiny(tmp_path / name, "bert")
    folder, out = tmp_path / part, tmp_path / "out"
    settings = config(str(tmp_path / "model"), method={"generator": str(tmp_path / "generator")}, max_steps=3)
    begin(settings, out, complete=complete)
    before = (folder / "model.safetensors").read_bytes()
    save_tiny(folder, "bert", seed=1)
    if complete:
        run(settings, CORPUS, out, resume=True)  # it outlives what it began from
        folder.rename(tmp_path / "moved")
        run(settings, CORPUS, out, resume=True)
    else:
        refuse(f"run.json: .*{folder}", settings, out, resume=True)
        (folder / "model.safetensors").write_bytes(before)
        assert run(settings, CORPUS, out, resume=True).record.data["models_sha256"].keys() == {"model", "generator"}


def test_another_bundled_model_is_told_with_what_to_do(tmp_path):
    settings = config("mini", max_steps=3)
    begin(settings, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    record["data"]["models_sha256"]["model"] = "0" * 64
    record["versions"]["diffcse"] = "0.0.7"
    (tmp_path / "out" / "run.json").write_text(json.dumps(record))
    refuse(r"run\.json: .*0\.0\.7", settings, tmp_path / "out", resume=True)


def test_unwritable_output(tiny, tmp_path):
    refuse("x" * 300, config(tiny), tmp_path / ("x" * 300))
    (tmp_path / "file").write_text("x")
    refuse(f"^{tmp_path / 'file'}", config(tiny), tmp_path / "file" / "out")


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_not_utf8_is_refused(tiny, tmp_path):
    refuse("--output", config(tiny), Path(f"{tmp_path}/nb{os.fsdecode(bytes([255]))}"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("complete", [True, False])
def test_other_documents_are_another_run(tiny, tmp_path, complete):
    one, out = tmp_path / "one.txt", tmp_path / "out"
    one.write_text("\n".join(SENTENCES) + "\n")
    cut = tmp_path / "cut.txt"
    cut.write_text("\n".join(SENTENCES).replace(SENTENCES[40], f"\n{SENTENCES[40]}") + "\n")
    settings = config(tiny, method={"positives": "next"}, max_steps=2)
    begin(settings, out, [one], complete=complete)
    assert "following_sha256" in read_record(out / "run.json").data
    refuse(f"^{out}: .*documents", settings, out, [cut], resume=True)


def test_documents_are_nothing_to_a_run_that_reads_none(tiny, tmp_path):
    documents = Corpus.from_sentences([line for sentence in SENTENCES for line in (sentence, "")], documents=True)
    run(config(tiny, max_steps=1), CORPUS, tmp_path / "out")
    assert "following_sha256" not in read_record(tmp_path / "out" / "run.json").data
    run(config(tiny, max_steps=1), documents, tmp_path / "out", resume=True)
