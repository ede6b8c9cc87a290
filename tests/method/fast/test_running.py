"""One row of real tokens gives the numbers, and the gradients, of a padded batch."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    EuroBertConfig,
    EuroBertModel,
)

from diffcse.method.adapters import add_lora
from diffcse.method.conditioning import sentence_at_position_0
from diffcse.method.fast import ability, hidden_states, layers, logits_at, vectors_at
from tests.method import tiny as whole
from tests.models import tiny_model

from .padded import LENGTHS, NARROWED, PACKED, assert_same, batch, compare, hooks, readings, shapes_of


@pytest.fixture(scope="module")
def models():
    """One float64 model of each family, in eval mode, made when asked for."""
    made = {}

    def get(family, *, masked_lm=False):
        if (family, masked_lm) not in made:
            made[family, masked_lm] = tiny_model(family, masked_lm=masked_lm, hidden=16)[0].double()
        return made[family, masked_lm]

    return get


ROBERTA_TOO = [
    {},
    {"difference": "mlm"},
    {"pairing": "both", "inject": "prepend"},
    {"rtd_padding": "include", "condition": "pooled", "inject": "prepend"},
]


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
    assert bool(ability(model).projections) == (family in NARROWED)
    for where in (start, real, random & real, one, torch.zeros_like(real), start & (torch.arange(5) == 1)[:, None]):
        compare(model, lambda packed, where=where: vectors_at(model, ids, attention, where, packed=packed))
    first, last = layers(model)[0], layers(model)[-1]
    run = lambda: vectors_at(model, ids, attention, start)  # noqa: E731
    assert shapes_of(first, run) == [(1, sum(LENGTHS), 16)], "no padding"
    query = next(m for name, m in last.named_modules() if name.endswith(("query", "q_lin", "Wqkv")))
    assert shapes_of(query, run) == [(1, len(LENGTHS) if family in NARROWED else sum(LENGTHS), 16)]


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
    assert bool(ability(model).projections) == (family != "modernbert")
    assert gradients
    assert all("lora_" in name for name in gradients)


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
