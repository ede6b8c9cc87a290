"""Columns: which sets they are measured on, and the log-losses of D."""

import dataclasses
import math
import random

import pytest
import torch

from diffcse.config import load_recipe
from diffcse.errors import InputError
from diffcse.evaluation.sts import OWN_PAIRS
from diffcse.method.build import build
from diffcse.method.inspect import conditional_gain
from diffcse.tables.cells import Shared
from diffcse.tables.columns import measured_on, read_data, rtd_losses
from diffcse.training.collate import Collate
from tests.models import SENTENCES


def test_the_pairs_that_come_along_have_a_name_of_their_own_in_the_table_alone(tmp_path):
    (tmp_path / "pairs.tsv").write_text(OWN_PAIRS.read_text())
    for dev, name in ((OWN_PAIRS, "bundled pairs"), (tmp_path / "pairs.tsv", "pairs")):
        jobs = Shared((), str(dev)).jobs["dev"]
        assert measured_on(jobs, str(dev)) == [name]
        assert jobs[0].name == "pairs", "another name would make every finished run unfinished"


def test_data_that_no_column_is_measured_on_are_refused(place, tmp_path):
    (tmp_path / "CR").mkdir()
    for name in ("custrev.pos", "custrev.neg"):
        (tmp_path / "CR" / name).write_text("one sentence\nanother one\n")
    with pytest.raises(InputError, match=r"holds nothing for sts\. .*leave that --data out"):
        read_data((str(tmp_path),), ("dev", "dev_last"))
    with pytest.raises(InputError, match=r"give STS test sets in --data$"):
        read_data((str(tmp_path),), ("dev", "sts_test"))


def tiny_method(place, **choices):
    config = load_recipe("mini_cpu")
    method = dataclasses.replace(config.method, model=str(place / "model"), **choices)
    return build(method, seed=0)


def test_log_losses_are_those_of_conditional_gain(place):
    model, tokenizer = tiny_method(place, generator=str(place / "model"))
    losses = rtd_losses(model, tokenizer, SENTENCES[:30], 32)
    order = SENTENCES[:30]
    random.Random(0).shuffle(order)
    gain = conditional_gain(model, [Collate(tokenizer, 32)(order)])
    assert losses["rtd_own"] == pytest.approx(gain.own, abs=1e-6)
    assert losses["rtd_shuffled"] == pytest.approx(gain.shuffled, abs=1e-6)
    assert abs(losses["rtd_none"] - losses["rtd_own"]) > 1e-4
    with torch.no_grad():  # a head that says nothing: all three are ln 2
        for weight in model.head.parameters():
            weight.zero_()
    assert rtd_losses(model, tokenizer, SENTENCES[:30], 32) == pytest.approx(
        dict.fromkeys(("rtd_own", "rtd_shuffled", "rtd_none"), math.log(2)), abs=1e-6
    )


def test_the_prompt_of_training_is_part_of_the_log_losses(place):
    model, tokenizer = tiny_method(place, generator=str(place / "model"))
    prompted = rtd_losses(model, tokenizer, SENTENCES[:30], 32, "a dog ")
    assert prompted["rtd_own"] != pytest.approx(rtd_losses(model, tokenizer, SENTENCES[:30], 32)["rtd_own"], abs=1e-6)
    shuffled = list(SENTENCES[:30])
    random.Random(0).shuffle(shuffled)
    gain = conditional_gain(model, [Collate(tokenizer, 32, prompt="a dog ")(shuffled)])
    assert prompted["rtd_own"] == pytest.approx(gain.own, abs=1e-6)


def test_no_log_losses_where_nothing_is_judged(place):
    model, tokenizer = tiny_method(place, difference="none")
    assert rtd_losses(model, tokenizer, SENTENCES[:30], 32) == {}
