"""Means and shares of the log are those of all tokens and batches together."""

import pytest
import torch

from diffcse.method.paper import Terms
from diffcse.training.meter import Sums, means, summands


def test_logged_shares_are_weighted_by_tokens():
    sums = Sums()
    nan = float("nan")
    for tokens, replaced, accuracy, of_replaced, of_kept in ((10, 2, 0.9, 0.5, 1.0), (30, 0, 0.5, nan, 0.5)):
        metrics = {
            "rtd_tokens": tokens,
            "rtd_replaced": replaced,
            "rtd_accuracy": accuracy,
            "rtd_accuracy_replaced": of_replaced,
            "rtd_accuracy_kept": of_kept,
            "rtd_log_loss": accuracy,
        }
        metrics = {name: torch.tensor(value) for name, value in metrics.items()}
        terms = Terms(total=torch.tensor(1.0), contrastive=None, difference=torch.tensor(2.0), metrics=metrics)
        sums = Sums(sums.state())  # as if resumed in between
        sums.add(summands(terms, sentences=4, truncated=torch.tensor(1)))
    read = means(sums.take(), seconds=2.0)
    assert read["rtd_accuracy"] == pytest.approx((9 + 15) / 40)
    assert read["rtd_accuracy_replaced"] == pytest.approx(0.5)
    assert read["rtd_accuracy_kept"] == pytest.approx((8 + 15) / 38)
    assert read["rtd_majority"] == pytest.approx(38 / 40)
    assert (read["loss"], read["difference"], read["sentences"], read["truncated"]) == (1, 2, 8, 2)
    assert read["sentences_per_second"] == 4
    assert sums.take() == {}
