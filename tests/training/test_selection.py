"""Which step is kept, and whether training helped: the arithmetic, and whole runs that choose by held-out text."""

import numpy as np
import pytest

from diffcse.config import Config, Method, Text, Training
from diffcse.encoder.load import load
from diffcse.errors import InputError
from diffcse.evaluation.sts import PairSet
from diffcse.record import chosen_by, read_record, verdict
from diffcse.text.corpus import Corpus
from diffcse.text.examples import read_examples
from diffcse.training import selection
from diffcse.training.collate import Neighbours
from diffcse.training.run import run
from diffcse.training.selection import Graded, Halves, Panel, Without, compare, hold_out
from tests.models import SENTENCES, save_tiny

CORPUS = Corpus.from_sentences(SENTENCES, documents=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("tiny"), "bert"))


@pytest.fixture
def small(monkeypatch):
    """Hold out a quarter of 80 sentences: ordinary corpora are larger."""
    monkeypatch.setattr(selection, "SHARE", 0.25)
    monkeypatch.setattr(selection, "FEWEST", 10)


def config(tiny, *, method=(), **training):
    settings = {
        "batch_size": 8,
        "max_steps": 6,
        "learning_rate": 1e-3,
        "precision": "fp32",
        "eval_every": 2,
        **training,
    }
    return Config(
        method=Method(model=tiny, pooling="mean", difference="none", **dict(method)), training=Training(**settings)
    )


def pairs(grades):
    names = tuple(f"s{i}" for i in range(len(grades)))
    return PairSet("dev", np.array(grades, dtype=float), names, names, names, "")


# ---- the arithmetic --------------------------------------------------------------------------------------------------


def test_without_leaves_out_exactly_those():
    left_out = np.array([0, 3, 4, 9])
    kept = Without(list(range(10)), left_out)
    assert (len(kept), list(kept)) == (6, [1, 2, 5, 6, 7, 8])
    with pytest.raises(IndexError):
        kept[6]


def test_a_follower_that_is_held_out_follows_nothing():
    corpus = Corpus.from_sentences(["One.", "Two.", "Three.", "Four."], documents=True)
    assert list(Neighbours(corpus, [1])) == [
        ("One.", None),
        ("Two.", "Three."),
        ("Three.", "Four."),
        ("Four.", None),
    ]


def test_helped_is_said_only_of_what_the_pairs_can_show():
    random = np.random.default_rng(0)
    grades = np.arange(200.0)
    judge = Graded(pairs(grades))
    good, bad = grades + 20 * random.normal(size=200), grades + 200 * random.normal(size=200)
    nearly = good + random.normal(size=200)
    helped = compare(judge, bad, good, looks=1)
    assert helped["helped"] is True
    assert helped["difference"] == pytest.approx(judge.score(good) - judge.score(bad))
    assert compare(judge, good, bad, looks=1)["helped"] is False
    assert compare(judge, good, nearly, looks=1)["helped"] == "unclear"
    assert compare(judge, good, good, looks=1)["helped"] == "unclear", "no difference is no harm"
    many = compare(judge, bad, good, looks=20)
    assert many["high"] - many["low"] > helped["high"] - helped["low"], "the best of many is luckier"
    assert many["error"] == helped["error"]


def test_the_interval_by_hand():
    start, kept = np.array([0.5, 0.5, 0.5, 0.5]), np.array([1.0, 0.5, 1.0, 0.5])
    found = compare(Halves((), ()), start, kept, looks=1)
    assert found["difference"] == pytest.approx(25)
    # Differences 50, 0, 50, 0: a standard deviation of 28.87, over the root of 4.
    assert found["error"] == pytest.approx(14.434, abs=1e-3)
    assert (found["low"], found["high"]) == pytest.approx((25 - 1.96 * 14.434, 25 + 1.96 * 14.434), abs=1e-3)
    assert found["helped"] == "unclear"
    assert compare(Halves((), ()), start, start + 0.25, looks=1)["helped"] is True, "each one, and by the same"


@pytest.mark.parametrize("truth", [0.0, 0.3])
def test_the_interval_covers_the_truth(truth):
    """The best of five equally good checkpoints is hardly ever said to have helped, or to differ from the truth."""
    random = np.random.default_rng(0)
    missed = 0
    for _ in range(400):
        start = random.random(100)
        kept = [start + truth + random.normal(size=100) for _ in range(5)]
        found = compare(Halves((), ()), start, max(kept, key=lambda values: values.mean()), looks=5)
        missed += not found["low"] <= 100 * truth <= found["high"]
    assert missed / 400 < 0.05


def test_the_panel_remembers_the_first_and_the_kept(tmp_path):
    judge = Graded(pairs([0, 1, 2, 3]))
    found = iter([np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [1.0, 9.0]]), np.eye(4)[:, :2] + 1, np.ones((4, 2))])
    panel = Panel([judge], lambda sentences: next(found), tmp_path)
    measure = panel.measures()["dev"]
    measure()
    measure()
    panel.keep()
    measure()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept-dev.npy", "start-dev.npy"]
    assert np.load(tmp_path / "kept-dev.npy").shape == (4,)


# ---- what is said ----------------------------------------------------------------------------------------------------


def judged(helped, **more):
    return {"difference": 1.0, "low": 0.5, "high": 1.5, "helped": helped, "selects": True, **more}


def test_one_sentence_says_whether_training_helped():
    assert verdict({}) is None
    said = verdict({"label_free": judged(False), "dev": judged(True)})
    assert said == (
        "training helped: by dev Spearman, model/ is +1.00 points from the start "
        "(95 % interval +0.50 to +1.50, wider for every look)"
    )
    assert verdict({"label_free": judged(False)}).startswith("training hurt: by held-out text, without labels")
    assert verdict({"label_free": judged(False)}).endswith("; the start is the better encoder")
    assert "unclear" in verdict({"dev": judged("unclear")})


def test_what_chose_the_step():
    assert chosen_by({}) is None
    assert chosen_by({"dev": {"best": 1.0}}) == "dev"
    assert chosen_by({"dev": judged(True, selects=False)}) is None
    assert chosen_by({"dev": judged(True, selects=False), "label_free": judged(True)}) == "label_free"


# ---- what is held out ------------------------------------------------------------------------------------------------

STORY = [
    f"the {word} {verb} on day {day}"
    for word, verb in (("cat", "sat"), ("dog", "ran"), ("bird", "sang"))
    for day in range(40)
]


def test_a_dev_file_holds_nothing_out(tiny, small):
    assert hold_out(config(tiny, dev="dev.tsv"), CORPUS) == (None, [])
    assert hold_out(config(tiny, select="last"), CORPUS) == (None, [])
    assert hold_out(config(tiny, dev="dev.tsv", select="label_free"), CORPUS)[0] is not None


def test_too_small_a_corpus_is_said_to_be(tiny):
    held_out, note = hold_out(config(tiny), CORPUS)
    assert held_out is None
    assert "80 sentences" in note[0]
    assert "5,000" in note[0]


def test_the_seed_decides_what_is_held_out(tiny, small):
    corpus = Corpus.from_sentences(STORY, documents=True)
    one, again, other = (hold_out(config(tiny, seed=seed), corpus)[0] for seed in (1, 1, 2))
    assert one.left_out.tolist() == again.left_out.tolist() != other.left_out.tolist()
    assert one.judge == again.judge != other.judge


def test_halves_of_what_is_left_out(tiny, small):
    """Order is of no use to it: a corpus read without documents will do."""
    corpus = Corpus.from_sentences(SENTENCES)
    held_out, note = hold_out(config(tiny), corpus)
    assert note == []
    assert len(held_out.left_out) == 20
    assert held_out.left_out.tolist() == sorted({*held_out.left_out.tolist()})
    long = [corpus[i] for i in held_out.left_out if len(corpus[i].split()) >= 6]
    assert [f"{a} {b}" for a, b in zip(held_out.judge.first, held_out.judge.second, strict=True)] == long


def test_sentences_too_short_to_cut_are_said_to_be(tiny, small):
    held_out, note = hold_out(config(tiny), Corpus.from_sentences([f"word {i}" for i in range(80)]))
    assert held_out is None
    assert "too short to be cut in two" in note[0]


def test_labelled_examples_are_not_held_out(tiny, tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_text("a\tb\n" + "".join(f"{SENTENCES[i]}\t{SENTENCES[i + 1]}\n" for i in range(60)))
    text = Text(anchor="a", positive="b")
    examples = read_examples([file], text=text, cache_dir=tmp_path / "cache")
    held_out, note = hold_out(Config(text=text), examples)
    assert held_out is None
    assert "text.anchor" in note[0]
    with pytest.raises(InputError, match=r"training\.select.*text\.anchor"):
        hold_out(Config(text=text, training=Training(select="label_free")), examples)


def test_labels_are_asked_for_without_any(tiny, tmp_path):
    with pytest.raises(InputError, match=r"training\.select.*training\.dev"):
        run(config(tiny, select="labels"), CORPUS, tmp_path / "out")


# ---- whole runs ------------------------------------------------------------------------------------------------------


def test_held_out_text_picks_the_step(tiny, small, tmp_path):
    corpus = Corpus.from_sentences(STORY, documents=True)
    out = tmp_path / "out"
    record = run(config(tiny), corpus, out).record
    assert sorted(p.name for p in out.iterdir()) == ["last", "log.jsonl", "model", "recipe.toml", "run.json"]
    logged = {entry["step"]: entry["label_free"] for entry in record.log if "label_free" in entry}
    assert list(logged) == [0, 2, 4, 6]
    found = record.scores["label_free"]
    trained = {step: score for step, score in logged.items() if step}
    assert (found["start"], found["last"]) == (logged[0], logged[6])
    assert found["best"] == max(trained.values()) == logged[found["best_step"]]
    assert found["selects"]
    assert "dev" not in record.scores
    held_out, _ = hold_out(config(tiny), corpus)
    assert record.data["held_out"] == len(held_out.left_out)

    # What lies in model/ and last/ has the scores that are told of them.
    judge = held_out.judge
    for name, score in (("model", found["best"]), ("last", found["last"])):
        assert judge.score(judge.values(load(out / name))) == pytest.approx(score, abs=1e-6)
    assert found["difference"] == pytest.approx(found["best"] - found["start"])
    said = verdict(record.scores)
    for name in ("model", "last"):
        assert said[1:] in (out / name / "README.md").read_text()


def test_no_held_out_sentence_is_trained_on(tiny, small, tmp_path, monkeypatch):
    corpus = Corpus.from_sentences(STORY, documents=True)
    settings = config(tiny, method={"positives": "next"}, max_steps=12)
    held_out, _ = hold_out(settings, corpus)
    seen = set()
    from diffcse.training import run as train

    class Spy(train.Collate):
        def __call__(self, examples):
            seen.update(sentence for example in examples for sentence in example if sentence)
            return super().__call__(examples)

    monkeypatch.setattr(train, "Collate", Spy)
    run(settings, corpus, tmp_path / "out")
    assert len(seen) > 60
    assert not seen & {corpus[i] for i in held_out.left_out}


def test_both_are_logged_and_the_dev_file_says_whether_it_helped(tiny, small, tmp_path):
    dev = tmp_path / "dev.tsv"
    dev.write_text("".join(f"{i % 5}\t{SENTENCES[i]}\t{SENTENCES[i + 20]}\n" for i in range(20)))
    record = run(config(tiny, dev=str(dev), select="label_free"), CORPUS, tmp_path / "out").record
    assert [set(entry) & {"dev", "label_free"} for entry in record.log if "dev" in entry] == [{"dev", "label_free"}] * 4
    assert record.scores["label_free"]["selects"]
    assert not record.scores["dev"]["selects"]
    kept = record.scores["label_free"]["best_step"]
    at_kept = next(entry["dev"] for entry in record.log if entry["step"] == kept and "dev" in entry)
    assert record.scores["dev"]["difference"] == pytest.approx(at_kept - record.scores["dev"]["start"])
    assert "by dev Spearman" in verdict(record.scores)


def test_the_last_step_can_be_asked_for_beside_a_dev_file(tiny, tmp_path):
    dev = tmp_path / "dev.tsv"
    dev.write_text("".join(f"{i % 5}\t{SENTENCES[i]}\t{SENTENCES[i + 20]}\n" for i in range(20)))
    record = run(config(tiny, dev=str(dev), select="last"), CORPUS, tmp_path / "out").record
    assert not (tmp_path / "out" / "last").exists()
    found = record.scores["dev"]
    assert not found["selects"]
    assert found["difference"] == pytest.approx(found["last"] - found["start"], abs=1e-6)


def test_a_dev_file_changes_no_training(tiny, small, tmp_path):
    """With a dev file all sentences are trained on, as they were before anything could be held out."""
    dev = tmp_path / "dev.tsv"
    dev.write_text("".join(f"{i % 5}\t{SENTENCES[i]}\t{SENTENCES[i + 20]}\n" for i in range(20)))
    with_dev = run(config(tiny, dev=str(dev)), CORPUS, tmp_path / "dev").record
    last = run(config(tiny, select="last"), CORPUS, tmp_path / "last").record
    assert [e["loss"] for e in with_dev.log if "loss" in e] == [e["loss"] for e in last.log if "loss" in e]


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_resumed_it_ends_as_if_never_stopped(tiny, small, tmp_path, stop_at):
    corpus = Corpus.from_sentences(STORY, documents=True)
    settings = config(tiny, checkpoint_every=2, log_every=1, max_steps=6)
    whole = run(settings, corpus, tmp_path / "whole")

    def stop(event, facts):
        if event == "log" and facts["step"] >= stop_at and "loss" in facts:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, corpus, tmp_path / "stopped", report=stop)
    run(settings, corpus, tmp_path / "stopped", resume=True)
    one, other = (read_record(tmp_path / name / "run.json") for name in ("whole", "stopped"))
    assert one.scores == other.scores
    for name in ("model", "last"):
        weights = [(tmp_path / which / name / "model.safetensors").read_bytes() for which in ("whole", "stopped")]
        assert weights[0] == weights[1]
    assert whole.record.scores["label_free"]["best_step"] == one.scores["label_free"]["best_step"]


def test_held_out_text_asked_for_by_name_is_there_or_an_error(tmp_path):
    corpus = Corpus.from_sentences([f"sentence number {i} of a text that is too short" for i in range(60)])
    (tmp_path / "dev.tsv").write_text("1\ta\tb\n2\tc\td\n")
    for dev in (None, str(tmp_path / "dev.tsv")):
        config = Config(training=Training(select="label_free", dev=dev))
        with pytest.raises(InputError, match=r"training\.select.*60 sentences.*5,000"):
            hold_out(config, corpus)
    found, said = hold_out(Config(training=Training()), corpus)
    assert found is None
    assert "too few" in said[0]
