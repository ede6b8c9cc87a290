"""Attention over packed sentences: every kernel gives the padded numbers, and the model is left as it was."""

from threading import Event, Thread, current_thread

import pytest
import torch
from transformers import (
    ModernBertConfig,
    ModernBertModel,
)

import diffcse.method.fast.attention as attention_module
from diffcse.method.fast import ability, layers, logits_at, vectors_at
from tests.models import tiny_model

from .padded import LENGTHS, NARROWED, batch, compare, hooks, shapes_of


@pytest.fixture(scope="module")
def models():
    """One float64 model of each family, in eval mode, made when asked for."""
    made = {}

    def get(family, *, masked_lm=False):
        if (family, masked_lm) not in made:
            made[family, masked_lm] = tiny_model(family, masked_lm=masked_lm, hidden=16)[0].double()
        return made[family, masked_lm]

    return get


def modernbert(window=8):
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=150,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        local_attention=window,
        global_attn_every_n_layers=3,
        initializer_range=0.3,
        pad_token_id=0,
    )
    return ModernBertModel(config).double().eval()


@pytest.mark.parametrize("lengths", [(30, 2, 17), (200, 3, 90)])
def test_windows_shorter_than_a_sentence(lengths):
    """Beyond a window only padding may be left to see, on both ways of computing attention."""
    model = modernbert()
    ids, attention = batch(lengths)
    _, gradients = compare(
        model, lambda packed: vectors_at(model, ids, attention, attention.bool(), packed=packed), 1e-9
    )
    assert all(g.isfinite().all() for g in gradients.values())
    with torch.no_grad():
        before = vectors_at(modernbert(1000), ids, attention, attention.bool())
        assert not torch.allclose(before, vectors_at(model, ids, attention, attention.bool())), "the window matters"


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_sentences_for_the_fused_kernel(models, family):
    model = models(family, masked_lm=family == "gpt2")
    ids, attention = batch((140, 1, 33))
    assert ids.shape[1] > attention_module.PLAIN_WIDTH
    start = torch.zeros_like(attention, dtype=torch.bool)
    start[:, 0] = True
    read = logits_at if family == "gpt2" else vectors_at
    for where in (start, attention.bool()):
        compare(model, lambda packed, where=where: read(model, ids, attention, where, packed=packed), 1e-9)


def test_dropout_drops_and_its_mean_is_none():
    model = tiny_model("bert", masked_lm=False, hidden=16, dropout=0.1)[0].double()
    ids, attention = batch((6, 3))
    start = torch.zeros_like(attention, dtype=torch.bool)
    start[:, 0] = True
    exact = vectors_at(model, ids, attention, start).detach()
    ability(model)
    for name, module in model.named_modules():
        module.training = name.endswith("attention.self")  # attention's own dropout alone
    torch.manual_seed(0)
    first = vectors_at(model, ids, attention, start).detach()
    second = vectors_at(model, ids, attention, start).detach()
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(first, vectors_at(model, ids, attention, start))
    assert not torch.equal(first, exact)


@pytest.mark.parametrize("lengths", [(5, 1, 3), (4,), (2, 2, 2)])
def test_a_gpus_kernel_is_told_where_sentences_begin(lengths, monkeypatch):
    """In its place a loop over sentences, which knows of the batch only what the kernel would be given."""

    def loop(q_MAD, k_NAD, v_NAD, q_edges, k_edges, longest, dropout, scaling):
        assert q_edges.dtype == k_edges.dtype == torch.int32
        assert longest >= max(lengths)
        out = torch.empty_like(q_MAD)
        for row in range(len(lengths)):
            q = q_MAD[q_edges[row] : q_edges[row + 1]]
            k, v = (x[k_edges[row] : k_edges[row + 1]] for x in (k_NAD, v_NAD))
            weights = (torch.einsum("mad,nad->amn", q, k) * scaling).softmax(-1)
            out[q_edges[row] : q_edges[row + 1]] = torch.einsum("amn,nad->mad", weights, v)
        return out

    model = tiny_model("bert", masked_lm=False, hidden=16)[0].double()
    ids, attention = batch(lengths)
    where = attention.bool() & (ids % 2 == 0)
    where[0, 0] = True
    expected = vectors_at(model, ids, attention, where)
    calls = []
    monkeypatch.setattr(attention_module, "variable_length_kernel", lambda *_: lambda *a: calls.append(a) or loop(*a))
    torch.testing.assert_close(vectors_at(model, ids, attention, where), expected, atol=1e-12, rtol=1e-10)
    assert len(calls) == model.config.num_hidden_layers


def test_which_inputs_a_gpus_kernel_can_take(monkeypatch):
    """Flash attention knows heads of a multiple of 8, up to 256 wide, on Ampere and later; others go another way."""
    from torch._subclasses import FakeTensorMode

    def kernel(size, dtype=torch.bfloat16, capability=(8, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        with FakeTensorMode():
            return attention_module.variable_length_kernel(torch.empty(1, 2, 3, size, device="cuda", dtype=dtype), 0.0)

    assert kernel(64) is not None
    assert [kernel(12), kernel(264), kernel(64, torch.float32), kernel(64, capability=(7, 5))] == [None] * 4


def test_threads_that_share_a_model():
    """One enters while the other is inside, and is still there when that has left."""
    model = tiny_model("bert", masked_lm=False, hidden=16)[0].double()
    ids, attention = batch(LENGTHS)
    before = model.config._attn_implementation
    expected = vectors_at(model, ids, attention, attention.bool(), packed=False)
    assert ability(model).packs
    first_is_in, second_is_in, first_is_out = Event(), Event(), Event()

    def wait(*_):
        if current_thread() is not first:
            second_is_in.set()
            first_is_out.wait(2)
        else:
            first_is_in.set()
            second_is_in.wait(0.5)

    def run(done=None):
        found.append(vectors_at(model, ids, attention, attention.bool()))
        if done is not None:
            done.set()

    found = []
    handle = layers(model)[0].register_forward_pre_hook(wait)
    first, second = Thread(target=run, args=[first_is_out]), Thread(target=run)
    first.start()
    assert first_is_in.wait(2)
    second.start()
    for thread in (first, second):
        thread.join()
    handle.remove()
    for x in found:
        torch.testing.assert_close(x, expected)
    assert len(found) == 2
    assert model.config._attn_implementation == before
    assert hooks(model) == 0


def test_the_model_is_left_as_it_was(models):
    model = models("bert")
    ids, attention = batch(LENGTHS)
    start = torch.zeros_like(attention, dtype=torch.bool)
    start[:, 0] = True
    before, hooked = model.config._attn_implementation, hooks(model)
    padded = model(input_ids=ids, attention_mask=attention).last_hidden_state

    def fail(*_):
        assert model.config._attn_implementation != before
        raise RuntimeError("inside")

    for module in (layers(model)[0], layers(model)[-1].output):
        handle = module.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="inside"):
            vectors_at(model, ids, attention, start)
        handle.remove()
        assert model.config._attn_implementation == before
        assert hooks(model) == hooked
        assert torch.equal(padded, model(input_ids=ids, attention_mask=attention).last_hidden_state)


@pytest.mark.parametrize("family", NARROWED)
def test_keys_and_values_of_the_last_layer_come_of_all_tokens(models, family):
    model = models(family)
    ids, attention = batch(LENGTHS)
    start = torch.zeros_like(attention, dtype=torch.bool)
    start[:, 0] = True
    for module in ability(model).projections:
        assert shapes_of(module, lambda: vectors_at(model, ids, attention, start)) == [(1, 5, 16)], "as it is given"
    seen = []
    handles = [
        m.register_forward_hook(lambda _, __, out: seen.append(out.shape[1])) for m in ability(model).projections
    ]
    vectors_at(model, ids, attention, start)
    for handle in handles:
        handle.remove()
    assert seen == [sum(LENGTHS)] * 2
