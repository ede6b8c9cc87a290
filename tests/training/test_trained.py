"""What a run leaves in memory: a table, and what people do next."""

import dataclasses

import numpy as np
import pytest

from diffcse.config import Config, Method, Training
from diffcse.encoder.load import load
from diffcse.errors import InputError
from diffcse.record import verdict
from diffcse.text.corpus import Corpus
from diffcse.training.inputs import read_dev
from diffcse.training.run import run
from tests.models import SENTENCES, save_tiny
from tests.training.test_adapt import config_of, texts

CORPUS = Corpus.from_sentences(SENTENCES)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "model"
    save_tiny(folder, "bert", hidden=32)
    return folder


@pytest.fixture(scope="module")
def adapted(start, tmp_path_factory):
    return run(config_of(start), Corpus.from_sentences(texts()[0]), tmp_path_factory.mktemp("run") / "out")


def test_it_prints_as_a_table_that_says_nothing_judged_it(adapted):
    for shown in (repr(adapted), adapted._repr_html_()):
        assert "adapt" in shown
        assert "unknown" in shown
    assert max(map(len, repr(adapted).splitlines())) <= 100
    assert "<th" not in adapted._repr_html_(), "a table without heads has no empty first row"


def test_neighbours_before_and_after_and_of_any_sentence(adapted):
    made, _ = texts()
    assert len(adapted.neighbours().rows) == len(adapted.record.scores["neighbours"])
    table = adapted.neighbours(made[0], k=3)
    assert table.rows[0] == [made[0], ""]
    cosines = adapted.encoder(made[:1]) @ adapted.encoder(made).T
    best = np.argsort(-cosines[0])[1:4]
    assert [row[0].strip() for row in table.rows[1:]] == [made[i] for i in best]
    own = adapted.neighbours(["a boat", "bread"], texts=made[:20], k=1)
    assert len(own.rows) == 4
    with pytest.raises(InputError, match="k = 0"):
        adapted.neighbours("x", k=0)
    with pytest.raises(InputError, match="texts"):
        adapted.neighbours("x", texts=[])


def test_it_is_measured_beside_its_start(adapted):
    made, topics = texts()
    report = adapted.evaluate(texts={"body": made, "topic": list(topics)}, column="body", label="topic")
    assert [each["encoder"]["name"] for each in report["results"][:2]] == ["start", "trained"]
    assert report["results"][0]["difference"]["value"] == 0


def test_save_writes_what_loads(adapted, tmp_path):
    adapted.save(tmp_path / "mine")
    np.testing.assert_allclose(load(tmp_path / "mine")(SENTENCES[:3]), adapted.encoder.encode(SENTENCES[:3]), atol=1e-6)
    assert "adapted" in (tmp_path / "mine" / "README.md").read_text()
    with pytest.raises(InputError, match="mine: the folder exists: give a new one"):
        adapted.save(tmp_path / "mine")


def write_dev(folder, kind):
    made, topics = texts()
    rows = zip(made, topics, strict=True) if kind == "dev_label" else zip(made[:60], made[60:120], strict=True)
    (folder / "dev.csv").write_text("\n".join(["body,other", *(f"{a},{b}" for a, b in rows)]))
    return {"dev": str(folder / "dev.csv"), "dev_column": "body", kind: "other"}


@pytest.mark.parametrize(("kind", "metric"), [("dev_label", "precision@10"), ("dev_answer", "MRR@10")])
def test_labels_and_answers_judge_the_map(kind, metric, start, tmp_path):
    made, _ = texts()
    trained = run(config_of(start, **write_dev(tmp_path, kind)), Corpus.from_sentences(made), tmp_path / "out")
    judged = trained.record.scores["dev"]
    assert judged["metric"] == f"{metric}, points"
    assert metric in verdict(trained.record.scores) or trained.record.scores["shipped"] == "start"
    assert (trained.record.scores["shipped"] == "start") == (judged["last"] < judged["start"])
    if kind == "dev_label":
        report = trained.evaluate(texts={"text": made, "label": list(texts()[1])})
        assert report["results"][1]["precision@10"]["value"] == pytest.approx(judged["last"], abs=0.2)


def test_a_dev_table_names_the_options_it_lacks(tmp_path):
    fields = write_dev(tmp_path, "dev_label")
    for changed, says in (
        ({"dev_label": "nolabel"}, r"\(--dev-label\)"),
        ({"dev_column": "no"}, r"\(--dev-column\)"),
        ({"dev_label": None, "dev_column": None}, "is a table: name its label column with --dev-label NAME"),
    ):
        with pytest.raises(InputError, match=says):
            read_dev(Config(training=dataclasses.replace(Training(), **(fields | changed))))


def test_labels_choose_the_step_of_trained_weights(start, tmp_path):
    dev = write_dev(tmp_path, "dev_label")
    training = Training(
        batch_size=8, max_steps=12, precision="fp32", eval_every=2, patience=2, learning_rate=0.05, **dev
    )
    config = Config(method=Method(model=str(start), difference="none", pooling="mean"), training=training)
    trained = run(config, CORPUS, tmp_path / "out")
    log = trained.record.log
    scores = [entry["dev"] for entry in log if "dev" in entry and entry["step"] > 0]
    best = scores.index(max(scores))
    assert len(scores) == min(best + 3, 6)
    assert trained.record.scores["steps"] == 2 * len(scores)
    assert log[-1]["step"] == trained.record.scores["steps"]
    assert trained.record.scores["dev"]["best_step"] == 2 * (best + 1)
    np.testing.assert_allclose(trained.encoder(SENTENCES[:3]), load(tmp_path / "out")(SENTENCES[:3]), atol=1e-6)


def test_patience_without_a_judge_is_refused(start, tmp_path):
    training = Training(batch_size=8, max_steps=2, patience=2, select="last")
    config = Config(method=Method(model=str(start), difference="none", pooling="mean"), training=training)
    with pytest.raises(InputError, match="patience"):
        run(config, CORPUS, tmp_path / "out")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"dev_label": "a"}, "training.dev"),
        ({"dev": "x.csv", "dev_label": "a", "dev_answer": "b"}, "dev_answer"),
        ({"dev": "x.csv", "dev_column": "a"}, "dev_label"),
        ({"dev": "pairs", "dev_label": "a"}, "pairs"),
    ],
)
def test_dev_columns_that_do_not_fit_are_refused(fields, named):
    with pytest.raises(InputError, match=named):
        dataclasses.replace(Training(), **fields)
