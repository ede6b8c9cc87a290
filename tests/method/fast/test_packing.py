"""One row of real tokens gives the numbers, and the gradients, of a padded batch; and leaves the model as it was."""

import warnings
from threading import Event, Thread, current_thread

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertModel,
    EuroBertConfig,
    EuroBertModel,
    MobileBertConfig,
    MobileBertForMaskedLM,
    ModernBertConfig,
    ModernBertModel,
)

import diffcse.method.fast.packing as packing
from diffcse.method.adapters import add_lora, merged
from diffcse.method.conditioning import sentence_at_position_0
from diffcse.method.fast.packing import Layout, ability, before_vocabulary, hidden_states, layers, logits_at, vectors_at
from tests.method import test_paper as whole
from tests.models import tiny_model

PACKED = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert")
NARROWED = ("bert", "roberta", "xlm-roberta", "distilbert", "electra")
"""Their keys and values come from layers of their own; ModernBERT turns its keys round after it made them."""
LENGTHS = (9, 1, 14, 5, 14)


@pytest.fixture(scope="module")
def models():
    """One float64 model of each family, in eval mode, made when asked for."""
    made = {}

    def get(family, *, masked_lm=False):
        if (family, masked_lm) not in made:
            made[family, masked_lm] = tiny_model(family, masked_lm=masked_lm, hidden=16)[0].double()
        return made[family, masked_lm]

    return get


def batch(lengths, *, seed=0, vocabulary=150):
    """(token ids, attention), padded on the right with 0; no real token has the number of a special one."""
    random = torch.Generator().manual_seed(seed)
    attention = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randint(5, vocabulary, attention.shape, generator=random) * attention, attention


def readings(model, run):
    """(what `run` gives, the gradient of every weight and of each further leaf) under fixed weights of the outputs."""
    model.zero_grad()
    found = run()
    outputs = found if isinstance(found, tuple) else (found,)
    random = torch.Generator().manual_seed(9)
    loss = sum((x * torch.randn(x.shape, generator=random).to(x.dtype)).sum() for x in outputs)
    if loss.requires_grad:
        loss.backward()
    return outputs, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(one, other, tolerance=1e-10):
    """Equal, to the scale of the largest value of each kind; a gradient that one lacks is zero in the other."""
    (outputs, gradients), (expected, expected_gradients) = one, other
    for x, y in zip(outputs, expected, strict=True):
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        if y.numel():
            assert (x - y).abs().max() <= tolerance * y.abs().max().clamp(min=1)
    largest = max((g.abs().max() for g in expected_gradients.values()), default=torch.tensor(0.0)).clamp(min=1)
    for name in {*gradients, *expected_gradients}:
        difference = gradients.get(name, 0) - expected_gradients.get(name, 0)
        assert difference.abs().max() <= tolerance * largest, name


def compare(model, run, tolerance=1e-10):
    """`run(packed)` packed and padded; returns what the packed run gave."""
    one = readings(model, lambda: run(True))
    assert_same(one, readings(model, lambda: run(False)), tolerance)
    return one


def shapes_of(module, run):
    """Shapes of what `module` was given while `run` ran."""
    seen = []
    handle = module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple((args[0] if args else kwargs["hidden_states"]).shape)),
        with_kwargs=True,
    )
    run()
    handle.remove()
    return seen


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# ---- every family


@pytest.mark.parametrize("family", PACKED)
def test_vectors_and_gradients_equal_the_padded_ones(models, family):
    model = models(family)
    ids, attention = batch(LENGTHS)
    random = torch.rand(attention.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    start = torch.zeros_like(random)
    start[:, 0] = True
    one = torch.zeros_like(random)
    one[2, 3] = True
    real = attention.bool()
    assert ability(model).packs
    assert bool(ability(model).narrows) == (family in NARROWED)
    for where in (start, real, random & real, one, torch.zeros_like(real), start & (torch.arange(5) == 1)[:, None]):
        compare(model, lambda packed, where=where: vectors_at(model, ids, attention, where, packed=packed))
    first, last = layers(model)[0], layers(model)[-1]
    run = lambda: vectors_at(model, ids, attention, start)  # noqa: E731
    assert shapes_of(first, run) == [(1, sum(LENGTHS), 16)], "no padding"
    query = next(m for name, m in last.named_modules() if name.endswith(("query", "q_lin", "Wqkv")))
    assert shapes_of(query, run) == [(1, len(LENGTHS) if family in NARROWED else sum(LENGTHS), 16)]


@pytest.mark.parametrize("family", NARROWED)
def test_keys_and_values_of_the_last_layer_come_of_all_tokens(models, family):
    model = models(family)
    ids, attention = batch(LENGTHS)
    start = torch.zeros_like(attention, dtype=torch.bool)
    start[:, 0] = True
    for module in ability(model).narrows:
        assert shapes_of(module, lambda: vectors_at(model, ids, attention, start)) == [(1, 5, 16)], "as it is given"
    seen = []
    handles = [m.register_forward_hook(lambda _, __, out: seen.append(out.shape[1])) for m in ability(model).narrows]
    vectors_at(model, ids, attention, start)
    for handle in handles:
        handle.remove()
    assert seen == [sum(LENGTHS)] * 2


@pytest.mark.parametrize("family", PACKED)
def test_hidden_states_of_several_layers(models, family):
    model = models(family)
    ids, attention = batch(LENGTHS)
    for wanted in ((-1,), (1, -1), (-2, -1), (0, 1, 2)):
        found, _ = compare(
            model,
            lambda packed, wanted=wanted: tuple(
                x * attention[:, :, None] for x in hidden_states(model, ids, attention, wanted, packed=packed)
            ),
        )
        assert len(found) == len(wanted)


@pytest.mark.parametrize("family", [*PACKED, "gpt2"])
def test_logits_of_language_models(models, family):
    model = models(family, masked_lm=True)
    assert ability(model.base_model).packs
    ids, attention = batch(LENGTHS)
    real = attention.bool()
    some = real & (torch.rand(real.shape, generator=torch.Generator().manual_seed(1)) < 0.3)
    for where in (some, real, torch.zeros_like(real)):
        found, _ = compare(model, lambda packed, where=where: logits_at(model, ids, attention, where, packed=packed))
        assert len(found[0]) == where.sum()
    # Against the plain model, too: both ways above share the narrowing of what the head reads.
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=attention).logits[some]
        assert (logits_at(model, ids, attention, some) - plain).abs().max() < 1e-10 * plain.abs().max()
    assert hooks(model) == 0


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_float32(family):
    model = tiny_model(family, masked_lm=False)[0]
    ids, attention = batch(LENGTHS)
    compare(model, lambda packed: vectors_at(model, ids, attention, attention.bool(), packed=packed), 3e-6)


@pytest.mark.parametrize("family", ["mpnet", "deberta-v2"])
def test_who_cannot_runs_padded_and_says_so_once(family):
    model = tiny_model(family, masked_lm=False)[0]
    ids, attention = batch(LENGTHS)
    with pytest.warns(UserWarning, match=f"{type(model).__name__} runs padded"):
        found = vectors_at(model, ids, attention, attention.bool())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = vectors_at(model, ids, attention, attention.bool())
    expected = model(input_ids=ids, attention_mask=attention).last_hidden_state[attention.bool()]
    assert torch.equal(found, expected)
    assert torch.equal(again, expected)


# ---- any batch


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["bert", "roberta", "distilbert"]),
    st.lists(st.integers(1, 14), min_size=1, max_size=7),
    st.integers(0, 2**16),
)
def test_any_lengths_and_any_positions(models, family, lengths, seed):
    model = models(family)
    ids, attention = batch(lengths, seed=seed)
    where = torch.rand(attention.shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    where &= attention.bool()
    compare(model, lambda packed: vectors_at(model, ids, attention, where, packed=packed))


@pytest.mark.parametrize("lengths", [(1,), (1, 1, 1), (6, 6, 6), (13,)])
@pytest.mark.parametrize("family", PACKED)
def test_borders(models, family, lengths):
    model = models(family)
    ids, attention = batch(lengths)
    start = torch.zeros_like(attention, dtype=torch.bool)
    start[:, 0] = True
    for where in (start, attention.bool()):
        compare(model, lambda packed, where=where: vectors_at(model, ids, attention, where, packed=packed))


@pytest.mark.parametrize("family", PACKED)
def test_more_tokens_than_one_sentence_may_have(family):
    model = tiny_model(family, masked_lm=False, hidden=16, positions=12)[0].double()
    ids, attention = batch((12, 7, 12, 3))
    compare(model, lambda packed: vectors_at(model, ids, attention, attention.bool(), packed=packed))


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
    assert ids.shape[1] > packing._PLAIN_WIDTH
    start = torch.zeros_like(attention, dtype=torch.bool)
    start[:, 0] = True
    read = logits_at if family == "gpt2" else vectors_at
    for where in (start, attention.bool()):
        compare(model, lambda packed, where=where: read(model, ids, attention, where, packed=packed), 1e-9)


# ---- other settings


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("inject", ["replace", "prepend"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "modernbert"])
def test_told_of_sentences(family, inject, depth):
    try:
        model = tiny_model(family, masked_lm=False, hidden=16, layers=depth)[0].double()
    except StrictDataclassFieldValidationError:
        assert (family, depth) == ("modernbert", 1)
        pytest.skip("this release of transformers (5.8.0, say) refuses its own ModernBERT of one layer")
    ids, attention = batch(LENGTHS)
    where = attention.bool()
    if inject == "prepend":
        ids, attention = (torch.cat([x[:, :1], x], 1) for x in (ids, attention))
        where = torch.nn.functional.pad(where, (1, 0))
    where &= torch.arange(where.shape[1]) != 1
    sentence = torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    ability(model)
    found = []

    def run(packed):
        sentence.grad = None
        with sentence_at_position_0(model, sentence):
            found.append(sentence)
            return vectors_at(model, ids, attention, where, packed=packed)

    one = readings(model, lambda: run(True))
    gradient = sentence.grad.clone()
    assert_same(one, readings(model, lambda: run(False)))
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(gradient, sentence.grad, rtol=0, atol=1e-9)
    assert hooks(model) == 0


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_adapters(family):
    pytest.importorskip("peft")
    model = add_lora(tiny_model(family, masked_lm=False, hidden=16)[0], 4, seed=1).double()
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(2))
    ids, attention = batch(LENGTHS)
    start = torch.zeros_like(attention, dtype=torch.bool)
    start[:, 0] = True
    _, gradients = compare(model, lambda packed: vectors_at(model, ids, attention, start, packed=packed))
    assert bool(ability(model).narrows) == (family != "modernbert")
    assert gradients
    assert all("lora_" in name for name in gradients)


def test_a_model_whose_layers_were_exchanged_after_it_first_ran():
    """What was found out of it names modules, and those may be others by now: adapters come and go."""
    pytest.importorskip("peft")
    model = tiny_model("bert", masked_lm=False, hidden=16)[0].double()
    ids, attention = batch(LENGTHS)
    start = torch.zeros_like(attention, dtype=torch.bool)
    start[:, 0] = True
    vectors_at(model, ids, attention, start)
    model = add_lora(model, 4, seed=1).double()
    compare(model, lambda packed: vectors_at(model, ids, attention, start, packed=packed))
    plain = merged(model)
    compare(plain, lambda packed: vectors_at(plain, ids, attention, start, packed=packed))


def test_another_dtype():
    model = tiny_model("bert", masked_lm=False)[0].bfloat16()
    ids, attention = batch(LENGTHS)
    found, _ = compare(model, lambda packed: vectors_at(model, ids, attention, attention.bool(), packed=packed), 0.06)
    assert found[0].dtype == torch.bfloat16
    assert ability(model).packs


@pytest.mark.parametrize("family", [*PACKED, "gpt2"])
@pytest.mark.parametrize("lengths", [LENGTHS, (140, 3)])
def test_autocast(family, lengths):
    """Half the digits: no further from float32 than the padded way is, give or take."""
    causal = family == "gpt2"
    model = tiny_model(family, masked_lm=causal, hidden=16)[0]
    read = logits_at if causal else vectors_at
    ids, attention = batch(lengths)
    where = attention.bool()
    (exact,), exact_gradients = readings(model, lambda: read(model, ids, attention, where, packed=False))

    def off(packed):
        with torch.autocast("cpu", torch.bfloat16):
            (found,), gradients = readings(model, lambda: read(model, ids, attention, where, packed=packed))
        norm = torch.cat([g.flatten() for g in exact_gradients.values()]).norm()
        apart = torch.cat([(gradients[n] - g).flatten() for n, g in exact_gradients.items()]).norm()
        return (found.float() - exact).norm() / exact.norm(), apart / norm

    for ours, theirs in zip(off(True), off(False), strict=True):
        assert ours < 1.5 * theirs + 0.002


@pytest.mark.parametrize("lengths", [LENGTHS, (140, 3)])
def test_autocast_where_keys_are_rotated_in_float32(lengths):
    """Families that turn queries and keys by a float32 rotation hand attention two types under autocast."""
    config = EuroBertConfig(
        vocab_size=150, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=32, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        mask_token_id=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = EuroBertModel(config).eval()
    ids, attention = batch(lengths)

    def run(packed):
        with torch.autocast("cpu", torch.bfloat16):
            return vectors_at(model, ids, attention, attention.bool(), packed=packed)

    compare(model, run, 0.03)
    assert ability(model).packs


@pytest.mark.filterwarnings("ignore:.*runs padded")
def test_a_head_that_never_calls_its_output_embeddings():
    config = MobileBertConfig(
        vocab_size=150, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        embedding_size=8, intra_bottleneck_size=8, true_hidden_size=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MobileBertForMaskedLM(config).eval()
    ids, attention = batch(LENGTHS)
    expected = model(input_ids=ids, attention_mask=attention).logits[attention.bool()]
    for _ in range(2):  # what was found out is kept
        x, to_logits = before_vocabulary(model, ids, attention, attention.bool())
        torch.testing.assert_close(to_logits(x), expected, atol=1e-5, rtol=1e-4)


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


def test_trying_out_changes_nothing():
    model = tiny_model("bert", masked_lm=False, hidden=16)[0].train()
    model.encoder.layer[1].eval()
    modes = [m.training for m in model.modules()]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert ability(model).packs
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]
    assert hooks(model) == 0
    assert all(p.grad is None for p in model.parameters())


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


def test_two_models_in_turn():
    """What is known of one says nothing of the other, and packed and padded runs may follow each other."""
    one, other = (tiny_model(family, masked_lm=False, hidden=16)[0].double() for family in ("bert", "roberta"))
    ids, attention = batch(LENGTHS)
    real = attention.bool()
    expected = [m(input_ids=ids, attention_mask=attention).last_hidden_state[real] for m in (one, other)]
    for _ in range(2):
        for model, wanted in zip((one, other), expected, strict=True):
            torch.testing.assert_close(vectors_at(model, ids, attention, real), wanted, rtol=0, atol=1e-10)
            assert torch.equal(model(input_ids=ids, attention_mask=attention).last_hidden_state[real], wanted)


def test_two_models_that_share_a_configuration():
    config = BertConfig(
        vocab_size=150, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    one, other = (BertModel(config, add_pooling_layer=False).eval().double() for _ in range(2))
    ids, attention = batch(LENGTHS)
    for model in (one, other):
        compare(model, lambda packed, m=model: vectors_at(m, ids, attention, attention.bool(), packed=packed))


# ---- where the tokens stand


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 3))
def test_places(lengths, heads):
    """Against loops: which head of which token stands at each place of attention's rows, and back."""
    width = max(*lengths, 1)
    attention = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    layout = Layout.of(attention)
    tokens = [(r, t) for r, length in enumerate(lengths) for t in range(max(length, 1))]
    assert layout.token_N.tolist() == [r * width + t for r, t in tokens]
    assert layout.position_N.tolist() == [t for _, t in tokens]
    assert layout.row_N.tolist() == [r for r, _ in tokens]
    assert layout.start_R.tolist() == [n for n, (_, t) in enumerate(tokens) if t == 0]
    source, place = layout.places(heads, len(tokens))
    number = {token: n for n, token in enumerate(tokens)}
    expected = [
        number.get((r, t), number[r, 0]) * heads + a
        for r in range(len(lengths))
        for a in range(heads)
        for t in range(width)
    ]
    assert source.tolist() == expected
    assert place.tolist() == [(r * heads + a) * width + t for r, t in tokens for a in range(heads)]
    x = torch.randn(len(tokens), 3)
    padded = layout.pad(x)
    assert torch.equal(padded[layout.real_RT], x)
    assert not padded[~layout.real_RT].any()


# ---- the whole method


ROBERTA_TOO = [
    {},
    {"difference": "mlm"},
    {"pairing": "both", "inject": "prepend"},
    {"rtd_padding": "include", "condition": "pooled", "inject": "prepend"},
]


@pytest.mark.parametrize(
    ("family", "choices"),
    [("roberta", choices) for choices in ROBERTA_TOO]
    + [
        ("bert", choices)
        for choices in [
            *ROBERTA_TOO,
            {"difference": "corrective_lm", "edits": ("mlm", "replace")},
            {"edits": ("insert", "delete", "causal_lm"), "pooling": "mean"},
            {"edit_role": "negative", "edits": ("insert",), "pooling": "first_last", "difference": "none"},
            {"positives": "both", "pooling": "top2", "difference": "none", "pairing": "same"},
            # Not for RoBERTa: G says [PAD] somewhere, and padded it counts no position there.
            {"edit_scope": "all", "condition": "none"},
            {"data": "triplets", "edit_columns": "both"},
        ]
    ],
    ids=str,
)
def test_both_ways_give_the_same_losses_and_gradients(family, choices):
    choices = dict(choices)
    supervised = choices.pop("data", "") == "triplets"
    model = whole.make(family, dropout=0.0, dtype=torch.float64, rtd_weight=0.5, mask_ratio=0.4, **choices)
    data = whole.triplets() if supervised else whole.batch(family) | whole.following(family)
    keys = ("anchor_key", "positive_key", "next_key")
    data |= {key: torch.arange(4) + 4 * i for i, key in enumerate(keys)} if not supervised else {}

    def run(packed):
        model.packed = packed
        terms = model(data, step=3)
        values = [x for x in (terms.total, terms.contrastive, terms.difference) if x is not None]
        return (*values, *(x.double() for _, x in sorted(terms.metrics.items()) if not x.isnan()))

    compare(model, run, 1e-9)
    for part in (model.encoder, model.generator, model.causal_generator, model.discriminator):
        assert part is None or ability(part.base_model).packs


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
    monkeypatch.setattr(packing, "_variable_length_kernel", lambda *_: lambda *a: calls.append(a) or loop(*a))
    torch.testing.assert_close(vectors_at(model, ids, attention, where), expected, atol=1e-12, rtol=1e-10)
    assert len(calls) == model.config.num_hidden_layers


@pytest.mark.parametrize("lengths", [(5, 1, 3), (4,)])
def test_edges_are_those_of_a_count(lengths):
    """Also where some rows have no query at all; found once for all layers."""
    attention = batch(lengths)[1]
    where = torch.zeros_like(attention, dtype=torch.bool)
    where[0, 1:3] = True
    layout = Layout.of(attention, where, narrowed=True)
    total = sum(lengths)
    assert layout.edges(total).tolist() == [sum(lengths[:row]) for row in range(len(lengths) + 1)]
    assert layout.edges(2).tolist() == [0] + [2] * len(lengths)
    assert layout.edges(2) is layout.edges(2)


def test_which_inputs_a_gpus_kernel_can_take(monkeypatch):
    """Flash attention knows heads of a multiple of 8, up to 256 wide, on Ampere and later; others go another way."""
    from torch._subclasses import FakeTensorMode

    def kernel(size, dtype=torch.bfloat16, capability=(8, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        with FakeTensorMode():
            return packing._variable_length_kernel(torch.empty(1, 2, 3, size, device="cuda", dtype=dtype), 0.0)

    assert kernel(64) is not None
    assert [kernel(12), kernel(264), kernel(64, torch.float32), kernel(64, capability=(7, 5))] == [None] * 4
