"""diffcse.train takes texts as people have them."""

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

import diffcse
from diffcse.config import load_recipe
from tests.models import save_tiny
from tests.training.test_adapt import texts

TEXTS, _ = texts()


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "model"
    save_tiny(folder, "bert", hidden=32)
    return folder


def silent(event, facts):
    pass


@pytest.mark.parametrize(
    "shape", ["list", "generator", "series", "frame", "dict", "dataset", "file", "csv", "paths", "corpus"]
)
def test_texts_in_any_shape_train_the_same_encoder(shape, start, tmp_path):
    plain = tmp_path / "texts.txt"
    plain.write_text("\n".join(TEXTS))
    table = pd.DataFrame({"id": range(len(TEXTS)), "title": TEXTS})
    table.to_csv(tmp_path / "texts.csv", index=False)
    given, column = {
        "list": (TEXTS, None),
        "generator": ((text for text in TEXTS), None),
        "series": (table["title"], None),
        "frame": (table, "title"),
        "dict": ({"title": TEXTS}, "title"),
        "dataset": (Dataset.from_dict({"title": TEXTS}), "title"),
        "file": (str(plain), None),
        "csv": (tmp_path / "texts.csv", "title"),
        "paths": ([plain], None),
        "corpus": (diffcse.Corpus.from_sentences(TEXTS), None),
    }[shape]
    out = tmp_path / "out"
    trained = diffcse.train(given, output=out, model=start, column=column, precision="fp32", report=silent)
    wanted = diffcse.train(TEXTS, output=tmp_path / "x", model=start, precision="fp32", report=silent)
    np.testing.assert_allclose(trained.encoder(TEXTS[:3]), wanted.encoder(TEXTS[:3]), atol=1e-6)
    assert "adapt" in repr(trained)
    assert "unknown" in repr(trained)
    assert "<table>" in trained._repr_html_()


def test_settings_go_to_their_sections(start, tmp_path):
    trained = diffcse.train(
        TEXTS, output=tmp_path / "out", model=start, recipe="mini_deletion", max_steps=1, temperature=0.1, batch_size=8
    )
    config = trained.record.config
    assert (config["training"]["max_steps"], config["method"]["temperature"]) == (1, 0.1)


def test_a_config_has_all_settings(start, tmp_path):
    import dataclasses

    config = load_recipe("adapt")
    config = dataclasses.replace(config, method=dataclasses.replace(config.method, model=str(start)))
    trained = diffcse.train(config, TEXTS, tmp_path / "out", report=silent)
    assert trained.record.scores["shipped"] == "adapted"


@pytest.mark.parametrize(
    ("given", "options", "named"),
    [
        (pd.DataFrame({"title": TEXTS}), {}, "title"),
        (pd.DataFrame({"title": TEXTS}), {"column": "titel"}, "titel"),
        ([*TEXTS, None], {}, str(len(TEXTS))),
        (TEXTS, {"max_step": 3}, "max_steps"),
        (TEXTS, {"recipe": "adpt"}, "adapt"),
        (7, {}, "int"),
    ],
)
def test_bad_input_is_named(given, options, named, tmp_path):
    with pytest.raises(diffcse.InputError, match=named):
        diffcse.train(given, output=tmp_path / "out", report=silent, **options)


def test_an_output_is_needed():
    with pytest.raises(diffcse.InputError, match="output"):
        diffcse.train(TEXTS)


@pytest.mark.parametrize(
    ("more", "named"), [({"max_steps": 3}, "max_steps"), ({"recipe": "adapt"}, "recipe"), ({"model": "mini"}, "model")]
)
def test_settings_beside_a_config_are_refused(more, named, tmp_path):
    with pytest.raises(diffcse.InputError, match=f"^{named}: "):
        diffcse.train(load_recipe("adapt"), TEXTS, tmp_path / "out", report=silent, **more)


def test_a_corpus_beside_texts_is_refused(tmp_path):
    with pytest.raises(diffcse.InputError, match=r"^corpus: "):
        diffcse.train(TEXTS, TEXTS, tmp_path / "out", report=silent)


def test_a_single_text_is_the_name_of_a_file(tmp_path):
    with pytest.raises(diffcse.InputError, match=r"missing\.txt"):
        diffcse.train(str(tmp_path / "missing.txt"), output=tmp_path / "out", report=silent)
