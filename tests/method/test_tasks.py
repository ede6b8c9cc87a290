"""What D is asked: its rows, its weight, and the conditional language models."""

import doctest

import pytest
import torch

import diffcse.method.tasks as tasks
from diffcse.config import Method
from diffcse.method.tasks import restore, rtd_weight

from .tiny import BASE, NEXT, TASKS, batch, following, gradients, make


def test_schedules_by_hand():
    weights = {
        kind: [rtd_weight(Method(rtd_weight=0.4, rtd_schedule=kind), p) for p in (0.0, 0.5, 0.75, 1.0)]
        for kind in ("constant", "linear", "cosine")
    }
    assert weights["constant"] == [0.4] * 4
    assert weights["linear"] == pytest.approx([0, 0.2, 0.3, 0.4])
    assert weights["cosine"] == pytest.approx([0, 0.2, 0.2 + 0.2 * 2**-0.5, 0.4])


def test_metrics_of_a_conditional_language_model(monkeypatch):
    model = make(**BASE, difference="mlm")
    terms = model(batch(), step=0)
    assert set(terms.metrics) == {"positive_cosine", "negative_cosine", "lm_accuracy", "lm_log_loss", "lm_tokens"}
    torch.testing.assert_close(terms.metrics["lm_log_loss"], terms.difference.detach())
    assert not any(value.requires_grad for value in terms.metrics.values())
    logits = torch.tensor([[0.0, 9.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 9.0], [0.0, 9.0, 0.0]])
    monkeypatch.setattr(tasks, "logits_at", lambda *_, **__: logits)
    where = torch.tensor([[True, False, True], [False, True, True]])
    tokens = torch.tensor([[1, 7, 0], [7, 2, 2]])
    loss, metrics = restore(model, tokens, torch.ones_like(tokens), None, where, tokens)
    assert (metrics["lm_accuracy"], metrics["lm_tokens"]) == (0.75, 4)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([1, 0, 2, 2]))
    torch.testing.assert_close((loss, metrics["lm_log_loss"]), (expected, expected))


@pytest.mark.parametrize("task", ["mlm", "corrective_lm"])
def test_the_vocabulary_head_of_d_trains_and_stays_tied(task):
    model = make(**BASE, difference=task)
    d = model.discriminator
    table, bias = d.get_input_embeddings().weight, d.get_output_embeddings().bias
    assert d.get_output_embeddings().weight is table
    before = table.detach().clone(), bias.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(batch(), step=0).difference.backward()
    assert (table.grad.abs().sum(1) > 0)[5:].all(), "every token's row, as output, is pushed or pulled"
    optimizer.step()
    assert d.get_output_embeddings().weight is d.get_input_embeddings().weight
    assert not torch.equal(table, before[0])
    assert not torch.equal(bias, before[1])
    if model.generator is not None:
        assert not torch.equal(model.generator.get_input_embeddings().weight, table)


@pytest.mark.parametrize("contrast", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_no_next_sentence_in_the_batch(task, contrast):
    model = make(**BASE, **TASKS[task], pairing="next", contrast=contrast)
    terms = model(batch() | following(has_next=(False,) * 4), step=0)
    assert terms.difference == 0
    terms.total.backward()
    found = gradients(model)
    assert all(g.isfinite().all() for g in found.values())
    touched = {name.split(".")[0] for name, g in found.items() if g.any()}
    assert touched == ({"encoder", "projector"} if contrast else set())
    assert set(terms.metrics) == set(model(batch() | following(), step=0).metrics)


@pytest.mark.parametrize("pairing", ["same", "next", "both"])
@pytest.mark.parametrize("task", TASKS)
def test_shards_that_know_their_first_row_judge_what_the_whole_batch_does(task, pairing):
    """Means over tokens, weighted by the shards' tokens, are the whole batch's mean."""
    model = make(dropout=0.0, dtype=torch.float64, **BASE, **TASKS[task], pairing=pairing, projector="tanh")
    prefix = "rtd" if model.head is not None else "lm"

    def summed(terms):
        return terms.metrics[f"{prefix}_log_loss"].double() * terms.metrics[f"{prefix}_tokens"]

    whole = model(NEXT, step=2, first_row=20)
    halves = [
        model({name: value[part] for name, value in NEXT.items()}, step=2, first_row=20 + part.start)
        for part in (slice(0, 3), slice(3, 4))
    ]
    assert sum(half.metrics[f"{prefix}_tokens"] for half in halves) == whole.metrics[f"{prefix}_tokens"] > 0
    torch.testing.assert_close(sum(map(summed, halves)), summed(whole), rtol=1e-5, atol=1e-6)
    moved = model(NEXT, step=2, first_row=21)
    assert not torch.equal(summed(moved), summed(whole))


def test_doctests():
    assert doctest.testmod(tasks).failed == 0
