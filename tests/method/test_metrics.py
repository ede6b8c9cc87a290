"""Metrics by hand."""

import pytest
import torch

from diffcse.method.edits import Edited
from diffcse.method.metrics import cosine_metrics, rtd_metrics

from .tiny import BASE, batch, make


def test_metrics_by_hand():
    logits = torch.tensor(
        [[[9.0, 0], [0, 9.0], [9.0, 0], [9.0, 0], [0, 9.0]]]
    )  # says: kept, replaced, kept, kept, replaced
    edited = Edited(
        masked=torch.zeros(1, 5, dtype=torch.long),
        chosen=torch.zeros(1, 5, dtype=torch.bool),
        ids=torch.zeros(1, 5, dtype=torch.long),
        attention=torch.ones(1, 5),
        original=torch.zeros(1, 5, dtype=torch.long),
        labels=torch.tensor([[0, 1, 1, 0, 0]]),
        editable=torch.tensor([[False, True, True, True, True]]),
    )
    metrics = rtd_metrics(logits, edited)
    assert metrics["rtd_accuracy"] == 0.5
    assert metrics["rtd_accuracy_replaced"] == 0.5
    assert metrics["rtd_accuracy_kept"] == 0.5
    assert metrics["rtd_majority"] == 0.5
    right, wrong = -torch.log_softmax(torch.tensor([9.0, 0.0]), 0)
    torch.testing.assert_close(metrics["rtd_log_loss"], (right + wrong) / 2)


def test_cosine_metrics_by_hand():
    metrics = cosine_metrics(torch.tensor([[1.0, 0.2], [0.4, 0.8]]))
    assert metrics["positive_cosine"].item() == pytest.approx(0.9)
    assert metrics["negative_cosine"].item() == pytest.approx(0.3)


def test_metrics_are_detached_and_named():
    terms = make(**BASE)(batch(), step=0)
    assert set(terms.metrics) == {
        "positive_cosine",
        "negative_cosine",
        "rtd_tokens",
        "rtd_replaced",
        "rtd_accuracy",
        "rtd_accuracy_replaced",
        "rtd_accuracy_kept",
        "rtd_majority",
        "rtd_log_loss",
    }
    assert not any(value.requires_grad for value in terms.metrics.values())
    torch.testing.assert_close(terms.total, terms.contrastive + 0.1 * terms.difference)
