"""The networks fit the recipe, and the record says what a setting does not do."""

import dataclasses

import pytest
import torch

from diffcse.config import Text
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.evaluation.data import TextSet
from diffcse.method.tail import Dense
from diffcse.training import gain
from diffcse.training.run import run
from tests.models import SENTENCES, save_tiny
from tests.training.runs import CORPUS, config, refuse


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


def test_plain_electra_is_said_to_teach_the_encoder_nothing(tiny, tmp_path):
    record = run(config(tiny, method={"condition": "none"}, max_steps=1), CORPUS, tmp_path / "out").record
    assert "method.condition" in record.warnings[0]


def test_generator_in_use_is_written_down_and_kept(tiny, tmp_path):
    record = run(config(tiny, max_steps=1), CORPUS, tmp_path / "out").record
    assert record.config["method"]["generator"] == tiny
    run(config(tiny, max_steps=1), CORPUS, tmp_path / "out", resume=True)


def test_a_complete_run_comes_back_with_the_generator_it_had(tiny, tmp_path, monkeypatch):
    import diffcse.training.network as module

    other = save_tiny(tmp_path / "other", "distilbert")
    monkeypatch.setattr(module, "default_generator", lambda model: str(other))
    settings = config(tiny, max_steps=1, keep_training_parts=True)
    first = run(settings, CORPUS, tmp_path / "out").model
    again = run(settings, CORPUS, tmp_path / "out", resume=True).model
    assert type(again.generator) is type(first.generator)
    assert "DistilBert" in type(again.generator).__name__


def test_what_is_not_used_is_said(tiny, tmp_path):
    settings = config(tiny, method={"difference": "none", "generator": "/nowhere"}, max_steps=1)
    assert "method.generator" in run(settings, CORPUS, tmp_path / "out").record.warnings[0]


def test_a_document_column_that_nothing_reads_is_told(tiny, tmp_path):
    settings = dataclasses.replace(config(tiny, max_steps=1), text=Text(document="page"))
    assert "text.document" in run(settings, CORPUS, tmp_path / "out").record.warnings[0]


def test_a_rate_for_a_discriminator_that_is_not_there_is_said(tiny, tmp_path):
    settings = config(tiny, method={"difference": "none"}, max_steps=1, discriminator_learning_rate=1e-3)
    warned = run(settings, CORPUS, tmp_path / "out").record.warnings[0]
    assert "training.discriminator_learning_rate" in warned


def test_another_pooling_than_the_folder_was_made_for_is_said(tiny, tmp_path):
    save(load(tiny, pooling="mean"), tmp_path / "by-mean", "# A model\n")
    for pooling, warned in (("mean", False), ("cls", True)):
        settings = config(str(tmp_path / "by-mean"), method={"pooling": pooling, "difference": "none"}, max_steps=1)
        found = run(settings, CORPUS, tmp_path / pooling).record.warnings
        assert any("method.pooling" in w and "--pooling mean" in w for w in found) == warned


def with_layer(tiny, folder, out, into=None):
    """`tiny` by mean, with a random Dense layer behind it, saved to `folder`."""
    encoder = load(tiny, pooling="mean")
    layer = Dense(torch.randn(out, into or encoder.width, generator=torch.Generator().manual_seed(0)))
    save(dataclasses.replace(encoder, tail=torch.nn.Sequential(layer)), folder, "")
    return str(folder)


def test_a_layer_of_another_encoder_is_named(tiny, tmp_path):
    start = with_layer(tiny, tmp_path / "start", 8, into=7)
    refuse(f"^{start}: ", config(start, method={"difference": "none"}), tmp_path / "out")


def test_the_gain_of_a_run_sees_the_layers_of_its_start(tiny, tmp_path, monkeypatch):
    width = load(tiny, pooling="mean").width
    start = with_layer(tiny, tmp_path / "start", width)
    settings = config(start, method={"edits": ("delete",)}, max_steps=1, keep_training_parts=True)
    trained = run(settings, CORPUS, tmp_path / "out")
    seen = []
    monkeypatch.setattr(gain, "conditional_gain", lambda model, batches: seen.append(model) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gain.measure_gain(tmp_path / "out", TextSet("text", tuple(SENTENCES[:20]), ""))
    x_RT, mask_RT = torch.tensor([[2, 7, 8, 3]]), torch.ones(1, 4, dtype=torch.long)
    ours, theirs = (model.eval().embed(x_RT, mask_RT) for model in (seen[0], trained.model))
    torch.testing.assert_close(ours, theirs)
