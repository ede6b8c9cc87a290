"""The recipe adapt: a linear layer learned from the user's own text, folded into what ships."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback

from diffcse.config import load_recipe
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.errors import InputError
from diffcse.record import verdict
from diffcse.text.corpus import Corpus
from diffcse.training import adapt
from diffcse.training.adapt import fit_map, learn_map, with_map
from diffcse.training.own_text import own_text_vectors, unit_rows
from diffcse.training.run import run
from tests.models import save_tiny, save_with_pooler

TOPICS = {
    "sea": ["boat", "wave", "shore", "sail", "harbour", "fish", "storm", "sailor", "deck", "anchor"],
    "kitchen": ["bread", "oven", "flour", "butter", "salt", "pan", "spoon", "soup", "sugar", "onion"],
    "garden": ["tree", "root", "flower", "leaf", "seed", "soil", "rain", "bee", "hedge", "rose"],
}


def texts(count=300, seed=0):
    """(texts, topics): each text has words of one topic and words of all."""
    random = np.random.default_rng(seed)
    topics = random.choice(list(TOPICS), count)
    shared = ["the", "a", "we", "saw", "and", "in", "old", "new"]
    made = [" ".join([*random.choice(TOPICS[topic], 4), *random.choice(shared, 4)]) for topic in topics]
    return [f"{text} {i}" for i, text in enumerate(made)], topics


def agreement(rows, topics):
    """Share of texts whose nearest other text has their topic."""
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -1)
    return float((topics[cosines.argmax(1)] == topics).mean())


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "model"
    save_tiny(folder, "bert", hidden=32)
    return folder


def config_of(model, **training):
    recipe = load_recipe("adapt")
    return dataclasses.replace(
        recipe,
        method=dataclasses.replace(recipe.method, model=str(model), pooling="mean"),
        training=dataclasses.replace(recipe.training, precision="fp32", **training),
    )


def test_the_map_adds_the_predicted_similarity():
    random = np.random.default_rng(0)
    x, target = unit_rows(random.normal(size=(50, 6))), unit_rows(random.normal(size=(50, 4)))
    strength, ridge = 1.5, 0.3
    gram = x.T @ x
    r = np.linalg.inv(gram + ridge * np.trace(gram) / 6 * np.eye(6)) @ x.T @ target
    r /= np.sqrt(np.mean([np.sum((row @ r) ** 2) for row in x]))
    mapped = x @ fit_map(x, target, strength=strength, ridge=ridge)
    for i in range(5):
        for j in range(5):
            assert mapped[i] @ mapped[j] == pytest.approx(x[i] @ x[j] + strength * (x[i] @ r) @ (x[j] @ r), abs=1e-4)


def test_texts_that_share_a_field_come_nearer():
    made, topics = texts()
    random = np.random.default_rng(1)
    # A start that knows a little of the topics and much that is not asked for.
    centres = random.normal(size=(3, 24))
    known = np.array([centres[list(TOPICS).index(topic)] for topic in topics])
    x = unit_rows(0.35 * known + random.normal(size=(len(made), 24)))
    mapped = unit_rows(x @ learn_map(made, x, load_recipe("adapt").method, seed=0))
    assert agreement(mapped, topics) > agreement(x, topics) + 0.05


def test_vectors_of_the_own_text_know_the_topics():
    made, topics = texts()
    vectors = own_text_vectors(made, 16, seed=0)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert agreement(vectors, topics) > 0.9
    assert (vectors == own_text_vectors(made, 16, seed=0)).all()


def test_texts_without_common_words_are_refused():
    with pytest.raises(InputError, match="corpus"):
        own_text_vectors([f"w{i}a v{i}b" for i in range(50)], 8, seed=0)


def test_a_run_ships_the_map_and_the_same_run_again(start, tmp_path):
    made, _ = texts()
    trained = run(config_of(start), Corpus.from_sentences(made), tmp_path / "out")
    encoder = load(tmp_path / "out" / "model")
    expected = trained.encoder(made[:8])
    np.testing.assert_allclose(encoder(made[:8]), expected, atol=1e-5)
    library = SentenceTransformer(str(tmp_path / "out" / "model"), device="cpu")
    np.testing.assert_allclose(library.encode(made[:8]), expected, atol=1e-5)
    assert not np.allclose(expected, unit_rows(load(start, pooling="mean")(made[:8])), atol=1e-3)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["scores"]["shipped"] == "adapted"
    again = run(config_of(start), Corpus.from_sentences(made), tmp_path / "again")
    assert (again.encoder(made[:8]) == expected).all()
    resumed = run(config_of(start), Corpus.from_sentences(made), tmp_path / "out", resume=True)
    np.testing.assert_allclose(resumed.encoder(made[:8]), expected, atol=1e-5)


def test_a_start_with_a_trained_head_keeps_it(tmp_path):
    plain = save_with_pooler(tmp_path / "plain", "bert")
    save(load(plain, pooling="pooler"), tmp_path / "start", "")
    config, (made, _) = config_of(tmp_path / "start", select="last"), texts()
    config = dataclasses.replace(config, method=dataclasses.replace(config.method, pooling=None))
    trained = run(config, Corpus.from_sentences(made), tmp_path / "out")
    x = unit_rows(load(plain, pooling="pooler")(made))
    expected = unit_rows(x @ learn_map(made, x, config.method, config.training.seed))
    np.testing.assert_allclose(trained.encoder(made), expected, atol=1e-4)
    np.testing.assert_allclose(load(tmp_path / "out")(made), expected, atol=1e-4)


def test_a_complete_run_outlives_its_start(start, tmp_path):
    shutil.copytree(start, tmp_path / "start")
    config, corpus = config_of(tmp_path / "start"), Corpus.from_sentences(texts()[0])
    config = dataclasses.replace(config, method=dataclasses.replace(config.method, pooling=None))
    expected = run(config, corpus, tmp_path / "out").encoder(["the boat"])
    (tmp_path / "start").rename(tmp_path / "moved")
    np.testing.assert_allclose(
        run(config, corpus, tmp_path / "out", resume=True).encoder(["the boat"]), expected, atol=1e-5
    )


def test_a_map_that_makes_graded_pairs_worse_is_not_shipped(start, tmp_path, monkeypatch):
    made, _ = texts()
    pairs = tmp_path / "pairs.tsv"
    first, second = made[:60], made[60:120]
    x = unit_rows(load(start, pooling="mean")([*first, *second]))
    cosines = (x[:60] * x[60:]).sum(1)
    # The start is perfect on these pairs, so any map makes them worse.
    rows = zip(cosines, first, second, strict=True)
    pairs.write_text("".join(f"{5 * score:.6f}\t{a}\t{b}\n" for score, a, b in rows))
    trained = run(config_of(start, dev=str(pairs)), Corpus.from_sentences(made), tmp_path / "out")
    assert trained.record.scores["shipped"] == "start"
    assert verdict(trained.record.scores).startswith("model/ is the start")
    assert "start, unchanged" in (tmp_path / "out" / "model" / "README.md").read_text()
    np.testing.assert_allclose(
        load(tmp_path / "out" / "model")(made[:5]), load(start, pooling="mean")(made[:5]), atol=1e-5
    )
    dev = trained.record.scores["dev"]
    assert dev["best"] == dev["start"] > dev["last"]  # "best" is the encoder in model/
    cards = [(tmp_path / "out" / name / "README.md").read_text() for name in ("model", "last")]
    assert ["with a linear layer behind it" in card for card in cards] == [False, True]
    assert load(tmp_path / "out" / "last").normalised, "the map, as the encoder of the last step of other recipes"
    kept = run(config_of(start, dev=str(pairs), select="last"), Corpus.from_sentences(made), tmp_path / "kept")
    assert kept.record.scores["shipped"] == "adapted"
    assert not kept.record.scores["dev"]["selects"]


def test_the_map_follows_what_the_folder_has(start):
    encoder = load(start, pooling="mean")
    mapped = with_map(with_map(encoder, 2 * np.eye(32, dtype=np.float32)), np.eye(32, dtype=np.float32))
    np.testing.assert_allclose(mapped(["the cat"]), unit_rows(encoder(["the cat"])), atol=1e-5)


def test_too_few_texts_are_refused(start, tmp_path):
    with pytest.raises(InputError, match="200"):
        run(config_of(start), Corpus.from_sentences(texts(50)[0]), tmp_path / "out")


def test_a_long_corpus_is_sampled_by_the_seed(start, tmp_path, monkeypatch):
    monkeypatch.setattr(adapt, "ADAPT_MOST", 250)
    made, _ = texts(400)
    trained = run(config_of(start), Corpus.from_sentences(made), tmp_path / "out")
    assert trained.record.scores["sentences_seen"] == 250


def test_settings_without_effect_are_named(start, tmp_path):
    trained = run(config_of(start, max_steps=7), Corpus.from_sentences(texts()[0]), tmp_path / "out")
    assert any("training.max_steps" in line for line in trained.record.warnings)


@pytest.mark.parametrize("select", ["labels", "label_free"])
def test_a_judge_that_the_recipe_does_not_have_is_refused(start, tmp_path, select):
    with pytest.raises(InputError, match=r"training\.select"):
        run(config_of(start, select=select), Corpus.from_sentences(texts()[0]), tmp_path / "out")


def test_texts_that_the_encoder_cuts_are_counted(start, tmp_path):
    made, _ = texts()
    limit = load(start, pooling="mean").max_tokens
    long = [*made[:-3], *(f"{text} boat" + " boat" * limit for text in made[-3:])]
    trained = run(config_of(start), Corpus.from_sentences(long), tmp_path / "out")
    assert trained.record.scores["truncated"] == 3


def test_a_pooling_that_the_start_does_not_state_is_said(start, tmp_path):
    made = Corpus.from_sentences(texts()[0])
    save(load(start, pooling="max"), tmp_path / "stated", "")
    warned = {
        name: any("method.pooling" in line for line in run(config_of(folder), made, tmp_path / name).record.warnings)
        for name, folder in {"plain": start, "mean": tmp_path / "stated"}.items()
    }
    recipe = config_of(tmp_path / "stated")
    recipe = dataclasses.replace(recipe, method=dataclasses.replace(recipe.method, pooling=None))
    assert (warned, run(recipe, made, tmp_path / "kept").record.warnings) == ({"plain": True, "mean": True}, [])


def test_callbacks_are_said_to_have_no_effect(start, tmp_path):
    made = Corpus.from_sentences(texts()[0])
    warned = run(config_of(start), made, tmp_path / "a", callbacks=[TrainerCallback()]).record.warnings
    assert "callbacks" in warned[0]


def test_what_a_killed_run_left_is_removed(start, tmp_path):
    made, out = Corpus.from_sentences(texts()[0]), tmp_path / "out"
    run(config_of(start), made, out)
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "status": "running"}))
    (out / ".model.1.partial").mkdir()
    run(config_of(start), made, out, resume=True)
    assert not list(out.glob(".*"))


def test_training_parts_are_not_missed(start, tmp_path):
    made, recipe = Corpus.from_sentences(texts()[0]), config_of(start, keep_training_parts=True)
    expected = run(recipe, made, tmp_path / "out").encoder(["the boat"])
    again = run(recipe, made, tmp_path / "out", resume=True)
    np.testing.assert_allclose(again.encoder(["the boat"]), expected, atol=1e-5)


def test_a_text_that_the_start_cannot_read_is_a_warning(tmp_path):
    unread = [f"第{i}条河从山上流到海里，两岸有许多村庄" for i in range(250)]
    trained = run(load_recipe("adapt"), Corpus.from_sentences(unread), tmp_path / "out")
    assert [line for line in trained.record.warnings if "does not know" in line]


def test_the_embedding_of_many_texts_is_reported(start, tmp_path, monkeypatch):
    made, _ = texts()
    monkeypatch.setattr(adapt, "_AT_ONCE", 100)
    done = []
    report = lambda event, facts: done.append((facts["done"], facts["total"])) if event == "embedded" else None  # noqa: E731
    trained = run(config_of(start), Corpus.from_sentences(made), tmp_path / "out", report=report)
    assert done == [(min(n, len(made)), len(made)) for n in range(100, len(made) + 100, 100)]
    monkeypatch.setattr(adapt, "_AT_ONCE", 10_000)
    whole = run(config_of(start), Corpus.from_sentences(made), tmp_path / "whole")
    assert np.allclose(trained.encoder(made[:5]), whole.encoder(made[:5]), atol=1e-4)
