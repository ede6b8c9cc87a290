"""Whole runs, from the text to the folder that ships."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from diffcse.config import to_dict
from diffcse.encoder.load import load
from diffcse.record import Record, read_record
from diffcse.training.folder import PARTS
from diffcse.training.run import _log_report, run
from tests.models import SENTENCES
from tests.training.runs import CORPUS, config, refuse


def test_folder_after_a_run(tiny, dev, tmp_path):
    trained = run(config(tiny, dev=dev, eval_every=2, checkpoint_every=3), CORPUS, tmp_path / "out")
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["last", "log.jsonl", "model", "recipe.toml", "run.json"]

    # run.json tells the whole story.
    record = read_record(out / "run.json")
    assert record.status == "complete"
    assert record.data["sha256"] == CORPUS.sha256
    assert record.data["sentences"] == len(SENTENCES)
    assert record.versions["torch"]
    assert record.hardware["cores"] >= 1
    logged = [entry for entry in record.log if "loss" in entry]
    assert [entry["step"] for entry in logged] == [2, 4, 6]
    for name in (
        "contrastive",
        "difference",
        "rtd_accuracy",
        "rtd_majority",
        "rtd_log_loss",
        "positive_cosine",
        "grad_norm",
    ):
        assert all(name in entry for entry in logged), name
    for entry in logged:
        assert entry["loss"] == pytest.approx(entry["contrastive"] + 0.005 * entry["difference"], rel=1e-4)
    assert [entry["step"] for entry in record.log if "dev" in entry] == [0, 2, 4, 6]
    assert record.scores["sentences_seen"] == 48
    assert [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] == record.log

    # The best step by dev score is in model/, the last in last/; neither holds anything that was for training.
    scores = {entry["step"]: entry["dev"] for entry in record.log if "dev" in entry}
    best = max((s for s in scores if s > 0), key=lambda s: scores[s])
    assert record.scores["dev"]["best"] == scores[best]
    assert record.scores["dev"]["best_step"] == best
    names = set(load_file(out / "model" / "model.safetensors"))
    assert names == {name for name, _ in trained.encoder.model.named_parameters()}
    assert load(out).max_tokens == 256, "the encoder keeps its own limit, not training's"
    for key, value in trained.encoder.model.state_dict().items():
        if key in names:
            assert torch.equal(value, load_file(out / "last" / "model.safetensors")[key])


def test_same_seed_same_weights_other_seed_others(tiny, tmp_path):
    def weights(name, seed):
        run(config(tiny, seed=seed, max_steps=3), CORPUS, tmp_path / name)
        return (tmp_path / name / "model" / "model.safetensors").read_bytes()

    assert weights("a", 1) == weights("b", 1)
    assert weights("c", 2) != weights("a2", 1)


def test_training_parts_are_kept_on_demand_and_restored(tiny, tmp_path):
    settings = config(tiny, keep_training_parts=True)
    trained = run(settings, CORPUS, tmp_path / "out")
    with safe_open(tmp_path / "out" / PARTS, "pt") as file:
        names = set(file.keys())
    assert names == set(trained.model.trained_state())
    again = run(settings, CORPUS, tmp_path / "out", resume=True)
    for (name, a), (_, b) in zip(trained.model.state_dict().items(), again.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert again.record.log == trained.record.log


def test_complete_run_is_not_trained_again(tiny, tmp_path):
    settings = config(tiny)
    run(settings, CORPUS, tmp_path / "out")
    before = (tmp_path / "out" / "model" / "model.safetensors").stat().st_mtime_ns
    again = run(settings, CORPUS, tmp_path / "out", resume=True)
    assert again.model is None
    assert (tmp_path / "out" / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_model_removed_from_a_complete_run(tiny, tmp_path):
    import shutil

    run(config(tiny, max_steps=1), CORPUS, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "model")
    refuse(f"^{tmp_path / 'out' / 'model'}: ", config(tiny, max_steps=1), tmp_path / "out", resume=True)


def test_mini_model_end_to_end(tmp_path):
    """The bundled model, the command line, a text file with a dev file, and the result in a stranger's hands."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"{s}, said {n}." for s in SENTENCES for n in ("anna", "the king", "a fish")) + "\n")
    pairs = tmp_path / "dev.tsv"
    pairs.write_text("".join(f"{5 - i % 6}\t{SENTENCES[i]}\t{SENTENCES[i + i % 6]}\n" for i in range(40)))
    command = [sys.executable, "-m", "diffcse", "train", str(text), "--output", str(tmp_path / "out")]
    options = [
        "--recipe",
        "mini_cpu",
        "--max-steps",
        "12",
        "--batch-size",
        "32",
        "--dev",
        str(pairs),
        "--eval-every",
        "6",
        "--log-every",
        "4",
    ]
    done = subprocess.run(command + options, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "240 sentences" in done.stdout
    assert "dev Spearman" in done.stdout
    record = read_record(tmp_path / "out" / "run.json")
    losses = [entry["loss"] for entry in record.log if "loss" in entry]
    assert losses[-1] < losses[0]

    # Someone who has sentence-transformers and transformers, and not this package.
    program = f"""
import sys
sys.modules["diffcse"] = None
from sentence_transformers import SentenceTransformer
from transformers import AutoModel
model = SentenceTransformer({str(tmp_path / "out" / "model")!r})
long = "word " * 200
assert model.max_seq_length == 128
a, b, c = model.encode(["A cat sleeps.", "A kitten is asleep.", long])
assert a.shape == (384,)
assert type(AutoModel.from_pretrained({str(tmp_path / "out" / "model")!r})).__name__ == "BertModel"
print(float(model.similarity(a, b)))
"""
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert other.returncode == 0, other.stderr
    ours = load(tmp_path / "out")(["A cat sleeps.", "A kitten is asleep."])
    cosine = torch.cosine_similarity(*map(torch.tensor, ours), dim=0).item()
    assert float(other.stdout.splitlines()[-1]) == pytest.approx(cosine, abs=1e-5)


def test_config_dataclasses_are_all_recorded(tiny, tmp_path):
    settings = config(tiny, max_steps=1)
    recorded = run(settings, CORPUS, tmp_path / "out").record.config
    assert recorded["method"] == {**to_dict(settings.method), "generator": tiny, "pooling": "cls"}
    assert recorded["training"] == dataclasses.asdict(settings.training)


def test_a_solved_contrast_is_noted_once(monkeypatch):
    record = Record(kind="train", config={}, seed=0)
    events = []
    log = _log_report(9, record, lambda event, facts: events.append(event))
    log({"step": 1, "contrastive": 0.5})
    log({"step": 2, "contrastive": 0.001})
    log({"step": 3, "contrastive": 0.0})
    log({"step": 4, "dev": 1.0})
    assert events == ["log", "log", "warning", "log", "log"]
    assert len(record.warnings) == 1
    assert "step 2" in record.warnings[0]
