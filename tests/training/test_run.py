"""Training from corpus to folder: what it leaves, that it is the loop it claims to be, and what it refuses."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from diffcse.config import Config, Method, Text, Training, to_dict
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.errors import InputError
from diffcse.evaluation.sts import OWN_PAIRS, read_pairs
from diffcse.method import draws
from diffcse.method.build import build
from diffcse.record import read_record
from diffcse.text.corpus import Corpus
from diffcse.training.collate import Collate, Shuffled, updates_per_epoch
from diffcse.training.folder import PARTS
from diffcse.training.run import run
from tests.models import SENTENCES, save_tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("tiny"), "bert"))


@pytest.fixture
def dev(tmp_path):
    path = tmp_path / "dev.tsv"
    rows = [f"{i % 5}.5\t{SENTENCES[i]}\t{SENTENCES[(i * 7 + 3) % 80]}" for i in range(20)]
    path.write_text("\n".join(rows) + "\n")
    return str(path)


CORPUS = Corpus.from_sentences(SENTENCES)


def config(tiny, *, method=(), **training):
    settings = {"batch_size": 8, "max_steps": 6, "learning_rate": 1e-3, "precision": "fp32", "log_every": 2, **training}
    return Config(method=Method(model=tiny, **dict(method)), training=Training(**settings))


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


def test_truncated_sentences_are_counted(tiny, tmp_path):
    record = run(config(tiny, max_tokens=6, max_steps=10, epochs=1), CORPUS, tmp_path / "out").record
    tokenizer = tiny_tokenizer()
    longer = sum(len(tokenizer(s)["input_ids"]) > 6 for s in SENTENCES)
    assert record.scores["sentences_seen"] == 80
    assert record.scores["truncated"] == longer


@pytest.mark.parametrize(("accumulation", "judge_rate", "decay"), [(1, None, 0.0), (2, None, 0.0), (1, 5e-3, 1.0)])
def test_trainer_is_the_plain_loop(tiny, tmp_path, accumulation, judge_rate, decay):
    """Same weights, to the last bits, as AdamW on L, clipped over all trained weights, decayed linearly."""
    # Without BatchNorm, which would make the gradient of a shift of h rounding noise, for Adam to blow up.
    method = {"rtd_weight": 0.5, "projector": "tanh"}
    rates = {"accumulation": accumulation, "discriminator_learning_rate": judge_rate, "weight_decay": decay}
    settings = config(tiny, method=method, max_steps=7, max_grad_norm=0.1, **rates)
    trained = run(settings, CORPUS, tmp_path / "out").model

    model, tokenizer = build(settings.method, seed=42)
    model.train()
    weights = [p for p in model.parameters() if p.requires_grad]
    # Each weight a group of its own: its rate by its part, and no decay of what is a bias or scales a normalisation.
    groups = [
        {
            "params": [p],
            "peak": judge_rate if judge_rate and name.startswith(("discriminator", "head")) else 1e-3,
            "weight_decay": 0.0 if name.endswith("bias") or "LayerNorm" in name else decay,
        }
        for name, p in model.named_parameters()
        if p.requires_grad
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    collate, order = Collate(tokenizer, 32), Shuffled(len(CORPUS), 42)
    per_epoch, number, update = len(CORPUS) // 8, 0, 0
    clipped = False
    while update < 7:
        order.epoch = update // updates_per_epoch(len(CORPUS), 8, accumulation)
        rows = list(order)
        batches = [rows[i * 8 : i * 8 + 8] for i in range(per_epoch)]
        for start in range(0, per_epoch, accumulation):
            group = batches[start : start + accumulation]
            for offset, batch in enumerate(group):
                number = update * accumulation + offset
                torch.manual_seed(draws.key(42, number) >> 1)
                terms = model(collate([CORPUS[i] for i in batch]), step=number)
                (terms.total / len(group)).backward()
            norm = torch.nn.utils.clip_grad_norm_(weights, 0.1)
            clipped |= norm.item() > 0.1
            for group_ in optimizer.param_groups:
                group_["lr"] = group_["peak"] * (7 - update) / 7
            optimizer.step()
            optimizer.zero_grad()
            update += 1
            if update == 7:
                break
    assert clipped
    for (name, ours), (_, plain) in zip(trained.named_parameters(), model.named_parameters(), strict=True):
        # The same holds for the keys' bias: attention does not depend on it.
        if name.endswith("key.bias"):
            continue
        # Adam makes a whole step of a gradient that is rounding noise: one number in thousands may go another way.
        assert ((ours - plain).abs() > 2e-6).float().mean() < 5e-4, name
    assert not torch.equal(
        trained.encoder.get_input_embeddings().weight, build(settings.method)[0].encoder.get_input_embeddings().weight
    )


def test_a_ramp_ends_at_the_full_weight(tiny, tmp_path):
    settings = config(tiny, method={"rtd_schedule": "linear", "rtd_weight": 0.4}, max_steps=5, log_every=1)
    log = run(settings, CORPUS, tmp_path / "out").record.log
    found = [(entry["loss"] - entry["contrastive"]) / entry["difference"] for entry in log]
    assert found == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-5)


def test_prepending_needs_a_position_more(tiny, tmp_path):
    settings = config(tiny, method={"inject": "prepend"}, max_tokens=256)
    refuse(r"training\.max_tokens = 256.*257.*by 1", settings, tmp_path / "out")


@pytest.mark.parametrize(
    "method",
    [
        {"edits": ("mlm", "insert_random"), "generator": None},  # D, and G, read the copies
        {"edits": ("insert_random",), "difference": "none", "edit_role": "positive"},  # the encoder does
    ],
)
def test_insertions_need_positions_of_their_own(tiny, tmp_path, method):
    settings = config(tiny, method=method, max_tokens=256)
    refuse(r"training\.max_tokens = 256.*333 with insert_random.*by 77", settings, tmp_path / "out")


def test_sampler_gives_every_sentence_once_an_epoch_in_a_new_order():
    order = Shuffled(100, 1)
    first = list(order)
    assert sorted(first) == list(range(100))
    assert list(order) == first
    order.epoch = 1
    assert sorted(order) == list(range(100))
    assert list(order) != first
    assert list(Shuffled(100, 2)) != first


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


def test_same_seed_same_weights_other_seed_others(tiny, tmp_path):
    def weights(name, seed):
        run(config(tiny, seed=seed, max_steps=3), CORPUS, tmp_path / name)
        return (tmp_path / name / "model" / "model.safetensors").read_bytes()

    assert weights("a", 1) == weights("b", 1)
    assert weights("c", 2) != weights("a2", 1)


@pytest.mark.parametrize("environment", ["bf16", "fp16"])
def test_the_environment_does_not_change_the_precision_asked_for(tiny, tmp_path, monkeypatch, environment):
    run(config(tiny), CORPUS, tmp_path / "plain")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", environment)
    run(config(tiny), CORPUS, tmp_path / "set")
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("plain", "set"))
    assert all(torch.equal(one[name], other[name]) for name in one)


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


def test_plain_electra_is_said_to_teach_the_encoder_nothing(tiny, tmp_path):
    record = run(config(tiny, method={"condition": "none"}, max_steps=1), CORPUS, tmp_path / "out").record
    assert "method.condition" in record.warnings[0]


# ---- what is refused -------------------------------------------------------------------------------------------------


def refuse(match, settings, folder, corpus=CORPUS, **options):
    with pytest.raises(InputError, match=match):
        run(settings, corpus, folder, **options)


def begin(settings, folder, corpus=CORPUS, *, complete=False):
    """A run of `settings`, or one that was killed at its first log entry."""

    def kill(event, facts):
        if event == "log" and not complete:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        run(settings, corpus, folder, report=kill)
    assert (read_record(folder / "run.json").status == "complete") == complete


def test_refusals_leave_nothing_behind(tiny, tmp_path):
    out = tmp_path / "out"
    refuse(
        r"training\.batch_size = 64.*--batch-size 2",
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


def test_what_may_change_on_resume_has_its_effect(tiny, tmp_path):
    out, logged, saved = tmp_path / "out", [], []

    def look(event, facts):
        if event == "log":
            logged.append(facts["step"])
            saved.extend(path.name[-1] for path in (out / "checkpoints").glob("step-*"))

    begin(config(tiny, log_every=3, checkpoint_every=2, max_steps=9), out)
    changed = dataclasses.replace(
        config(tiny, log_every=2, checkpoint_every=5, max_steps=9, gradient_checkpointing=True),
        reproduces="changed: training.gradient_checkpointing",
        hardware="another",
    )
    run(changed, CORPUS, out, resume=True, report=look)
    assert logged == [4, 6, 8, 9]
    assert sorted(set(saved)) == ["2", "5"]


def test_model_removed_from_a_complete_run(tiny, tmp_path):
    import shutil

    run(config(tiny, max_steps=1), CORPUS, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "model")
    refuse(f"^{tmp_path / 'out' / 'model'}: ", config(tiny, max_steps=1), tmp_path / "out", resume=True)


def test_unwritable_output(tiny, tmp_path):
    refuse("x" * 300, config(tiny), tmp_path / ("x" * 300))
    (tmp_path / "file").write_text("x")
    refuse(f"^{tmp_path / 'file'}", config(tiny), tmp_path / "file" / "out")


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_not_utf8_is_refused(tiny, tmp_path):
    refuse("--output", config(tiny), Path(f"{tmp_path}/nb{os.fsdecode(bytes([255]))}"))
    assert not list(tmp_path.iterdir())


def test_generator_in_use_is_written_down_and_kept(tiny, tmp_path):
    record = run(config(tiny, max_steps=1), CORPUS, tmp_path / "out").record
    assert record.config["method"]["generator"] == tiny
    run(config(tiny, max_steps=1), CORPUS, tmp_path / "out", resume=True)


def test_what_is_not_used_is_said(tiny, tmp_path):
    settings = config(tiny, method={"difference": "none", "generator": "/nowhere"}, max_steps=1)
    assert "method.generator" in run(settings, CORPUS, tmp_path / "out").record.warnings[0]


def test_card_names_no_folder_of_this_machine(tiny, dev, tmp_path):
    run(config(tiny, dev=dev, max_steps=1), CORPUS, tmp_path / "out")
    for file in (tmp_path / "out" / "model").rglob("*"):
        assert file.is_dir() or str(tmp_path.parent).encode() not in file.read_bytes(), file


def test_the_pairs_that_come_along_are_a_dev_set(tiny, tmp_path):
    record = run(config(tiny, dev="pairs", max_steps=1), CORPUS, tmp_path / "out").record
    assert record.data["dev_sha256"] == read_pairs(OWN_PAIRS).sha256
    # A path that ends in that name stays a path where folders are left out.
    (tmp_path / "pairs").write_text(OWN_PAIRS.read_text())
    run(config(tiny, dev=str(tmp_path / "pairs"), max_steps=1), CORPUS, tmp_path / "other")
    assert 'dev = "./pairs"' in (tmp_path / "other/model/README.md").read_text()


def test_divergence_leaves_the_last_good_checkpoint(tiny, tmp_path):
    settings = config(
        tiny, method={"projector": "none"}, learning_rate=1e30, max_steps=20, checkpoint_every=1, log_every=20
    )
    refuse("--learning-rate[^-]*$", settings, tmp_path / "out")  # --precision fp32 is set already
    for file in (tmp_path / "out").glob("checkpoints/*/trained.safetensors"):
        assert all(value.isfinite().all() for value in load_file(file).values())


def test_divergence_is_an_error_not_a_model(tiny, tmp_path):
    settings = config(tiny, method={"projector": "none"}, learning_rate=1e30, max_steps=20)
    refuse("--learning-rate", settings, tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()
    assert read_record(tmp_path / "out" / "run.json").status == "running"


def test_several_processes_are_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    refuse("WORLD_SIZE", config(tiny), tmp_path / "out")


# ---- the real thing --------------------------------------------------------------------------------------------------


def test_mini_model_end_to_end(tmp_path):
    """The bundled model, the command line, a text file with a dev file, and the result in a stranger's hands."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"{s}, said {n}." for s in SENTENCES for n in ("anna", "the king", "a fish")) + "\n")
    pairs = tmp_path / "dev.tsv"
    pairs.write_text("".join(f"{5 - i % 6}\t{SENTENCES[i]}\t{SENTENCES[i + i % 6]}\n" for i in range(40)))
    command = [sys.executable, "-m", "diffcse", "train", str(text), "--output", str(tmp_path / "out")]
    options = ["--max-steps", "12", "--batch-size", "32", "--dev", str(pairs), "--eval-every", "6", "--log-every", "4"]
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


def test_another_pooling_than_the_folder_was_made_for_is_said(tiny, tmp_path):
    save(load(tiny, pooling="mean"), tmp_path / "by-mean", "# A model\n")
    for pooling, warned in (("mean", False), ("cls", True)):
        settings = config(str(tmp_path / "by-mean"), method={"pooling": pooling, "difference": "none"}, max_steps=1)
        found = run(settings, CORPUS, tmp_path / pooling).record.warnings
        assert any("method.pooling" in w and "--pooling mean" in w for w in found) == warned


def test_config_dataclasses_are_all_recorded(tiny, tmp_path):
    settings = config(tiny, max_steps=1)
    recorded = run(settings, CORPUS, tmp_path / "out").record.config
    assert recorded["method"] == {**to_dict(settings.method), "generator": tiny}
    assert recorded["training"] == dataclasses.asdict(settings.training)


# What was set and cannot work, or would do nothing


def test_a_text_without_neighbours_is_refused_where_they_are_needed(tiny, tmp_path):
    text = tmp_path / "lone.txt"
    text.write_text("\n\n".join(SENTENCES) + "\n")
    for method in ({"positives": "next"}, {"pairing": "next"}):
        with pytest.raises(InputError, match=rf"method\.{next(iter(method))}"):
            run(config(tiny, method=method), [text], tmp_path / "out")


def test_neighbours_are_read_from_files_and_train(tiny, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(SENTENCES) + "\n")
    for name, method in (("next", {"positives": "next"}), ("both", {"pairing": "both"})):
        log = run(config(tiny, method=method, max_steps=2), [text], tmp_path / name).record.log
        assert all(entry["difference"] > 0 for entry in log if "loss" in entry)


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


def test_a_log_entry_in_which_no_token_was_judged_is_shown(tiny, tmp_path):
    from diffcse.terminal import loss_parts

    lines = []
    settings = config(tiny, method={"difference": "mlm", "mask_ratio": 1e-9}, max_steps=1, log_every=1)
    run(
        settings,
        CORPUS,
        tmp_path / "out",
        report=lambda event, facts: event == "log" and lines.extend(loss_parts(facts)),
    )
    assert any("accuracy –" in line for line in lines)


def test_a_complete_run_comes_back_with_the_generator_it_had(tiny, tmp_path, monkeypatch):
    import diffcse.training.network as module

    other = save_tiny(tmp_path / "other", "distilbert")
    monkeypatch.setattr(module, "default_generator", lambda model: str(other))
    settings = config(tiny, max_steps=1, keep_training_parts=True)
    first = run(settings, CORPUS, tmp_path / "out").model
    again = run(settings, CORPUS, tmp_path / "out", resume=True).model
    assert type(again.generator) is type(first.generator)
    assert "DistilBert" in type(again.generator).__name__


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


def test_a_document_column_that_nothing_reads_is_told(tiny, tmp_path):
    settings = dataclasses.replace(config(tiny, max_steps=1), text=Text(document="page"))
    assert "text.document" in run(settings, CORPUS, tmp_path / "out").record.warnings[0]


def test_a_rate_for_a_discriminator_that_is_not_there_is_said(tiny, tmp_path):
    settings = config(tiny, method={"difference": "none"}, max_steps=1, discriminator_learning_rate=1e-3)
    warned = run(settings, CORPUS, tmp_path / "out").record.warnings[0]
    assert "training.discriminator_learning_rate" in warned
