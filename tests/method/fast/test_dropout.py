"""Cheap masks: the right share of elements, one mask for both directions, and torch's generator decides all."""

import doctest
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import diffcse.method.fast.dropout as dropout
from diffcse.method.fast.dropout import Dropout, apply, keep, make_cheap


def dropped(x, p, seed=0):
    torch.manual_seed(seed)
    return Dropout(p).train()(x)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.3, 1 / 3, 0.9, 0.001, 0.999, 1 / 256, 255 / 256])
def test_share(p):
    """Of 2000 calls of 500 elements; a call's own threshold is off by up to 1/256, and that must average out."""
    torch.manual_seed(0)
    calls, size = 2000, 500
    found = sum(int((keep(torch.Size([size]), p) == 0).sum()) for _ in range(calls))
    # Elements of one call share its threshold: variance between calls, added to the binomial one.
    fraction = 256 * p % 1
    deviation = math.sqrt(calls * size * p * (1 - p) + calls * size**2 * fraction * (1 - fraction) / 256**2)
    assert abs(found - calls * size * p) < 4.5 * deviation


def test_positions_are_independent():
    """Neighbours, and elements a word (8 bytes) apart, are dropped together p² of the time."""
    torch.manual_seed(0)
    gone = (keep(torch.Size([400_000]), 0.25) == 0).float()
    for lag in (1, 2, 4, 7, 8, 16, 64):
        together = (gone[lag:] * gone[:-lag]).mean().item()
        assert abs(together - 0.0625) < 4.5 * math.sqrt(0.0625 * 0.9375 / 400_000) * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_scale(p, dtype):
    x = torch.linspace(-3, 3, 4096).to(dtype)
    found = dropped(x, p)
    assert found.dtype == dtype
    gone = found == 0
    assert 0.7 * p < gone.float().mean() < 1.3 * p
    torch.testing.assert_close(found[~gone], x[~gone] / (1 - p), rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_one_mask_forward_and_backward(dtype):
    x = torch.randn(40, 30, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    y = dropped(x, 0.3)
    weight = torch.randn(40, 30, generator=torch.Generator().manual_seed(2)).to(dtype)
    y.backward(weight)
    expected = torch.where(y.detach() == 0, torch.zeros_like(weight), weight / 0.7)
    torch.testing.assert_close(x.grad, expected, rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_numerical_gradient():
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: dropped(x, 0.4), (x,))


def test_torchs_generator_alone_decides():
    x = torch.ones(1000)
    first = dropped(x, 0.5, seed=3)
    np.random.seed(0)  # noqa: NPY002
    assert torch.equal(first, dropped(x, 0.5, seed=3))
    assert not torch.equal(first, dropped(x, 0.5, seed=4))
    state = torch.get_rng_state()
    module = Dropout(0.5).train()
    one, two = module(x), module(x)
    assert not torch.equal(one, two), "each call has a mask of its own"
    torch.set_rng_state(state)
    assert torch.equal(one, module(x))
    assert torch.equal(two, module(x))
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    module(x)
    assert np.random.get_state()[1].tolist() == before, "NumPy's own is not touched"  # noqa: NPY002


def test_recomputed_with_the_same_mask():
    """Checkpointing saves and restores torch's generator, and so the masks."""
    x = torch.ones(500, requires_grad=True)
    torch.manual_seed(5)
    module = nn.Sequential(Dropout(0.5), nn.Tanh(), Dropout(0.5)).train()
    y = torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)


def test_borders():
    x = torch.randn(50)
    x[0] = torch.inf
    state = torch.get_rng_state()
    assert torch.equal(Dropout(0.0).train()(x), x)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(state, torch.get_rng_state()), "nothing is drawn where nothing is dropped"
    assert torch.equal(Dropout(1.0).train()(x), torch.zeros(50))
    assert Dropout(0.5).train()(torch.empty(0, 3)).shape == (0, 3)
    assert Dropout(0.5).train()(torch.tensor(1.0)).item() in (0.0, 2.0)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 0.99), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_inputs_that_lie_otherwise_in_memory(p, rows, columns, seed):
    base = torch.randn(columns, rows, 2, generator=torch.Generator().manual_seed(seed)) + 10
    strided = base[..., 1].T
    assert strided.shape == (rows, columns)
    before = base.clone()
    x = strided.clone().requires_grad_()
    found, expected = dropped(strided, p, seed), dropped(x, p, seed)
    assert torch.equal(found, expected), "the mask belongs to the places, not to the memory"
    assert torch.equal(base, before), "the input stays"
    (expected * torch.ones(columns, rows).T).sum().backward()
    assert torch.equal(x.grad == 0, expected == 0)
    apply(strided, keep(strided.shape, p), p)
    assert torch.equal(base, before)


def test_put_in_the_place_of_torchs():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.2), nn.ModuleDict({"inner": nn.Dropout(0.7)}).eval())
    weight = model[0].weight
    make_cheap(model)
    assert type(model[1]) is Dropout
    assert type(model[2]["inner"]) is Dropout
    assert (model[1].p, model[2]["inner"].p) == (0.2, 0.7)
    assert (model[1].training, model[2]["inner"].training) == (True, False)
    assert model[0].weight is weight
    again = model[1]
    make_cheap(model)
    assert model[1] is again


def test_doctests():
    assert doctest.testmod(dropout).failed == 0
