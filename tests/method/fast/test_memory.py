"""Large batches in parts, and layers that are recomputed: the same gradients out of less memory."""

import doctest

import pytest
import torch

import diffcse.method.fast.memory as memory
from diffcse.errors import InputError
from diffcse.method.adapters import add_lora
from diffcse.method.conditioning import sentence_at_position_0
from diffcse.method.fast import ability, logits_at, vectors_at
from diffcse.method.fast.dropout import make_cheap
from diffcse.method.fast.memory import checkpoint_layers, in_chunks
from diffcse.method.heads import pooled
from tests.method import tiny as whole
from tests.models import tiny_model

from .padded import assert_same, batch, readings

CHOICES = [
    {},
    {"difference": "mlm"},
    {"difference": "corrective_lm", "edits": ("mlm", "replace")},
    {"difference": "none", "projector": "tanh"},
    {"pairing": "both", "inject": "prepend", "edits": ("mlm", "insert", "delete")},
    {"edit_scope": "all", "condition": "none", "edits": ("causal_lm",)},
    {"rtd_padding": "include", "condition": "pooled", "pooling": "mean"},
    {"edit_role": "positive", "difference": "none", "edits": ("insert", "delete"), "pooling": "first_last"},
    {"data": "triplets", "edit_columns": "both"},
]


def prepared(choices, **options):
    """(model, batch) of some choices; "data" says of what."""
    choices = dict(choices)
    supervised = choices.pop("data", "") == "triplets"
    model = whole.make(rtd_weight=0.5, mask_ratio=0.4, scale=0.2, **options, **choices)
    data = whole.triplets() if supervised else whole.batch() | whole.following()
    return model, data


def step(model, data):
    """Losses and gradients of one pass; dropout from one seed."""

    def run():
        torch.manual_seed(11)
        terms = model(data, step=3)
        values = [x for x in (terms.total, terms.contrastive, terms.difference) if x is not None]
        return (*values, *(x.double() for _, x in sorted(terms.metrics.items()) if not x.isnan()))

    return readings(model, run)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_parts_give_the_gradients_of_the_whole_batch(choices, packed):
    """Of 8 to 18 rows: one at a time, in parts that do not divide them, and more at once than there are."""
    model, data = prepared(choices, dropout=0.0, dtype=torch.float64)
    model.packed = packed
    expected = step(model, data)
    for size in (1, 3, 4, 1000):
        model.mini_batch_size = size
        assert_same(step(model, data), expected, 1e-9)


@pytest.mark.parametrize("choices", [{}, {"difference": "mlm"}], ids=str)
def test_parts_in_float32(choices):
    model, data = prepared(choices, dropout=0.0)
    expected = step(model, data)
    model.mini_batch_size = 3
    assert_same(step(model, data), expected, 3e-6)


@pytest.mark.parametrize("choices", CHOICES[:5], ids=str)
def test_recomputed_under_the_same_masks(choices, monkeypatch):
    """With dropout: parts recomputed are the parts that were kept, and another run gives the same, bit for bit."""
    model, data = prepared(choices, dropout=0.1)
    make_cheap(model)
    model.mini_batch_size = 3
    recomputed, again = step(model, data), step(model, data)
    monkeypatch.setattr(memory, "checkpoint", lambda run, *columns, use_reentrant: run(*columns))
    for other in (again, step(model, data)):
        assert all(torch.equal(x, y) for x, y in zip(recomputed[0], other[0], strict=True))
        assert recomputed[1].keys() == other[1].keys()
        assert all(torch.equal(x, other[1][name]) for name, x in recomputed[1].items())
    model.mini_batch_size = None
    assert not torch.equal(step(model, data)[0][0], recomputed[0][0]), "dropout is on"


def test_edits_do_not_depend_on_the_parts():
    model, data = prepared({"edits": ("mlm", "insert", "delete", "causal_lm", "replace")})
    rows = torch.arange(4)
    edits = []
    for size in (None, 1, 3):
        model.mini_batch_size = size
        edits.append(model.edit(data["input_ids"], data["attention_mask"], step=5, rows_R=rows))
    for other in edits[1:]:
        width = max(edits[0].ids.shape[1], other.ids.shape[1])
        for name in ("ids", "attention", "labels", "editable"):
            one, two = (
                torch.nn.functional.pad(getattr(e, name), (0, width - e.ids.shape[1])) for e in (edits[0], other)
            )
            assert torch.equal(one, two), name


def kept_bytes(model, run):
    """Bytes that `run()` keeps for its gradient, weights excepted; each piece of memory once."""
    held = {}

    def pack(x):
        held[x.untyped_storage().data_ptr()] = x  # held, so that no other takes its place
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(x.untyped_storage().nbytes() for place, x in held.items() if place not in weights)


@pytest.mark.parametrize("choices", [{}, {"difference": "mlm"}, {"rtd_padding": "include"}], ids=str)
def test_parts_keep_little(choices):
    model, _ = prepared(choices, dropout=0.1)
    data = whole.batch(lengths=(9, 12, 30, 17) * 8)

    def measured(size):
        model.mini_batch_size = size
        return kept_bytes(model, lambda: model(data, step=0))

    assert measured(4) < 0.12 * measured(None)


# ---- layers


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_recomputed_layers_give_the_same_gradients(choices, packed):
    """Dropout on: masks are the same again. Also in parts, where a part's recomputation recomputes its layers."""
    model, data = prepared(choices, dropout=0.1, dtype=torch.float64)
    make_cheap(model)
    model.packed = packed
    expected = step(model, data)
    model.mini_batch_size = 3
    parts = step(model, data)
    model.checkpoint_layers()
    assert_same(step(model, data), parts)
    model.mini_batch_size = None
    assert_same(step(model, data), expected)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert", "deberta-v2"])
def test_families(family):
    """Three layers of which the first is told of a sentence and the last runs for one token a row."""
    ids, attention = batch((9, 1, 14, 5))
    start = torch.zeros_like(attention, dtype=torch.bool)
    start[:, 0] = True
    found = []
    for recomputing in (False, True):
        model = tiny_model(family, masked_lm=False, hidden=16, layers=3)[0].double().train()
        z = torch.randn(4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
        if recomputing:
            checkpoint_layers(model)
        ability(model)

        def run(model=model, z=z):
            torch.manual_seed(2)
            with sentence_at_position_0(model, z):
                return vectors_at(model, ids, attention, start)

        found.append((readings(model, run), z.grad))
        assert model.config._attn_implementation != "diffcse_packed"
    assert_same(found[1][0], found[0][0])
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=1e-9)


def test_layers_keep_little():
    kept = []
    for recomputing in (False, True):
        model = tiny_model("bert", masked_lm=True, layers=8)[0].train()
        if recomputing:
            checkpoint_layers(model)
        ids, attention = batch((30, 17, 22, 9))
        start = torch.zeros_like(attention, dtype=torch.bool)
        start[:, 0] = True
        kept.append(kept_bytes(model, lambda m=model, r=ids, real=attention, w=start: logits_at(m, r, real, w)))
    assert kept[1] < 0.25 * kept[0]


def test_a_model_that_recomputes_in_the_older_way_does_so_rightly_without_padding():
    """Whoever switched it on, and however: recomputation must run in our attention."""
    ids, attention = batch((9, 1, 14, 5))
    found = []
    for recomputing in (False, True):
        model = tiny_model("bert", masked_lm=False, hidden=16, layers=3)[0].double().train()
        if recomputing:
            model._set_gradient_checkpointing(True)  # torch's checkpoint, as it comes

        def run(model=model):
            torch.manual_seed(2)
            return vectors_at(model, ids, attention, attention.bool())

        found.append(readings(model, run))
    assert_same(*found)


def test_autocast():
    """Parts and layers are recomputed in the precision in which they ran."""
    model, data = prepared({}, dropout=0.1)
    found = []
    for size, layers in ((3, False), (3, True)):
        model.mini_batch_size = size
        if layers:
            model.checkpoint_layers()
        with torch.autocast("cpu", torch.bfloat16):
            torch.manual_seed(0)
            loss = model(data, step=0).total
        model.zero_grad()
        loss.backward()
        found.append((loss, whole.gradients(model)))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(g, found[1][1][name]) for name, g in found[0][1].items())


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_adapters(family):
    """Where the first weights that are trained come after frozen ones."""
    pytest.importorskip("peft")
    model = add_lora(tiny_model(family, masked_lm=False, hidden=16, layers=3)[0], 4, seed=1).double().train()
    ids, attention = batch((9, 1, 14, 5, 3))

    def run(size):
        torch.manual_seed(2)
        return in_chunks(lambda x, real: pooled(model, x, real, "mean"), size, ids, attention)

    model.eval()  # parts draw other masks
    expected = readings(model, lambda: run(None))
    assert_same(readings(model, lambda: run(2)), expected)
    model.train()
    expected = readings(model, lambda: run(2))
    checkpoint_layers(model)
    assert_same(readings(model, lambda: run(2)), expected)
    assert expected[1]


def test_refusals():
    model = tiny_model("mpnet", masked_lm=False)[0]
    with pytest.raises(InputError, match="MPNetModel cannot recompute its layers"):
        checkpoint_layers(model)


def test_chunks():
    seen = []

    def run(x, y):
        seen.append(len(x))
        assert y is None
        return x * 2

    assert in_chunks(run, 3, torch.arange(7), None).tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert seen == [3, 3, 1]
    in_chunks(run, 7, torch.arange(7), None)
    in_chunks(run, None, torch.arange(7), None)
    assert seen[3:] == [7, 7], "nothing is recomputed that is one part"


def test_doctests():
    assert doctest.testmod(memory).failed == 0
