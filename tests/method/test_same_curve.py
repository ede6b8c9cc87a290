"""Fifty steps of training with padding and fifty without it: one curve.

Dropout is on, from the same numbers: the n-th dropout of a step gives each real token the same mask both ways. (The
masks that each way really draws have other shapes, so they are other masks.)
"""

import pytest
import torch

from diffcse.config import Method
from diffcse.method.build import build
from diffcse.method.fast import ability, dropout, probing
from tests.models import SENTENCES, save_tiny


@pytest.fixture
def same_masks(monkeypatch):
    """Dropout whose masks belong to (step, call, token); set `.real_RT` and `.random` at each step."""

    class Masks:
        real_RT = None
        random = None

    def hidden(module, x):
        if not module.training:
            return x
        kept_NH = torch.rand(int(Masks.real_RT.sum()), x.shape[-1], generator=Masks.random) >= module.p
        kept = kept_NH[None]
        if x.shape[:2] == Masks.real_RT.shape:
            kept = torch.ones(x.shape, dtype=torch.bool)
            kept[Masks.real_RT] = kept_NH
        return x * kept / (1 - module.p)

    def of_weights(weights, p=0.5, training=True, inplace=False):
        if not training:
            return weights
        return (
            weights * (torch.rand(weights.flatten(0, -3).shape, generator=Masks.random) >= p).view_as(weights) / (1 - p)
        )

    def keep(shape, p):
        return -(torch.rand(shape, generator=Masks.random) >= p).to(torch.int16)

    monkeypatch.setattr(dropout.Dropout, "forward", hidden)
    monkeypatch.setattr(dropout, "keep", keep)
    monkeypatch.setattr(torch.nn.functional, "dropout", of_weights)
    monkeypatch.setattr(
        probing, "_find_projections", lambda *_: ()
    )  # a last layer that runs for some tokens draws for those
    return Masks


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_fifty_steps(family, tmp_path, same_masks):
    folder = save_tiny(tmp_path / family, family)
    curves = []
    for packed in (True, False):
        config = Method(model=str(folder), generator=str(folder), dropout=0.1, sampling="argmax", rtd_weight=0.5)
        model, tokenizer = build(config, packed=packed)
        for network in (model.encoder, model.discriminator):
            network.set_attn_implementation("eager")
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(parameters, lr=2e-4)
        model.train()
        curve = []
        for step in range(50):
            rows = [SENTENCES[(7 * step + i) % len(SENTENCES)] for i in range(8)]
            batch = tokenizer(rows, padding=True, truncation=True, max_length=16, return_tensors="pt")
            same_masks.real_RT = batch["attention_mask"].repeat(2, 1).bool()
            same_masks.random = torch.Generator().manual_seed(step)
            terms = model(batch, step=step)
            terms.total.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            curve.append((terms.contrastive.item(), terms.difference.item()))
        assert ability(model.encoder).packs
        curves.append(torch.tensor(curve))
    ours, padded = curves
    assert (padded[:5].mean(0) - padded[-5:].mean(0)).abs().min() > 0.01, "nothing was learned"
    torch.testing.assert_close(ours, padded, atol=1e-5, rtol=1e-5)
