"""The paper's equations, against loops and against an independent re-implementation."""

import dataclasses
import doctest

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertModel, RobertaConfig, RobertaForMaskedLM, RobertaModel

import diffcse.method.objective as objective
from diffcse.config import REFERENCE, Method
from diffcse.errors import InputError
from diffcse.method.edits import Vocabulary
from diffcse.method.objective import DiffCSE, contrastive_loss, rtd_loss

from .oracles import contrastive_loops, mask_labels_loops, rtd_loops
from .plain import plain_reference

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
FAMILIES = {
    # special ids as these families have them: padding, unknown, start, end, mask
    "bert": (
        BertConfig,
        BertModel,
        BertForMaskedLM,
        {"pad_token_id": 0},
        Vocabulary(40, 4, (0, 1, 2, 3, 4)),
        (2, 3),
    ),
    "roberta": (
        RobertaConfig,
        RobertaModel,
        RobertaForMaskedLM,
        {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1},
        Vocabulary(40, 39, (0, 1, 2, 3, 39), pad=1),
        (0, 2),
    ),
}


def make(family="bert", *, dropout=0.1, seed=0, dtype=torch.float32, scale=0.4, **choices):
    """A tiny random DiffCSE; `scale` widens the random weights so that every path matters."""
    config_class, model_class, lm_class, ids, vocabulary, _ = FAMILIES[family]
    torch.manual_seed(seed)
    config = config_class(
        **SIZES, **ids, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, initializer_range=scale
    )
    parts = model_class(config, add_pooling_layer=False), lm_class(config), model_class(config, add_pooling_layer=False)
    encoder, generator, discriminator = (part.to(dtype) for part in parts)
    method = Method(**choices)
    if method.difference == "none":
        return DiffCSE(encoder, vocabulary, method, seed=seed).to(dtype).train()
    model = DiffCSE(encoder, vocabulary, method, generator=generator, discriminator=discriminator, seed=seed)
    return model.to(dtype).train()


def batch(family="bert", lengths=(9, 4, 12, 7), seed=1):
    *_, (start, end) = FAMILIES[family]
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), max(lengths)), FAMILIES[family][3]["pad_token_id"])
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = torch.randint(5, 39, (length,), generator=generator)
        row[0], row[length - 1] = start, end
    return {"input_ids": ids, "attention_mask": (ids != FAMILIES[family][3]["pad_token_id"]).long()}


def both_views(model, size):
    """Row numbers of both views of the sentences of a batch."""
    return torch.cat([model.rows(size, view, 0, torch.device("cpu")) for view in (0, 1)])


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# ---- equations against loops


def test_contrastive_loss_against_loops():
    torch.manual_seed(0)
    z = torch.randn(10, 6, dtype=torch.float64, requires_grad=True)
    expected = contrastive_loops(z, 0.05)
    (expected_gradient,) = torch.autograd.grad(expected, z)
    loss, cosines = contrastive_loss(*z.chunk(2), 0.05)
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-10)
    assert cosines.shape == (5, 5)


def test_rtd_loss_against_loops():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    labels, counted = torch.randint(0, 2, (3, 5)), torch.rand(3, 5) < 0.7
    expected = rtd_loops(logits, labels, counted)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    loss = rtd_loss(logits, labels, counted)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-10)


def test_doctests():
    assert doctest.testmod(objective).failed == 0


# ---- the reference preset against a plain re-implementation


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("family", FAMILIES)
def test_reference_equals_plain_reimplementation(family, dtype, tolerance):
    """Losses, labels, embeddings and the gradient of every weight, on padded sentences of unequal lengths."""
    # Gradients are compared to the scale of each weight's own: the weights are wide, and so are some gradients.
    model = make(family, dropout=0.0, dtype=dtype, **REFERENCE | {"mask_ratio": 0.4, "rtd_weight": 0.5})
    data = batch(family)
    terms = model(data, step=3)
    terms.total.backward()

    x, real = (torch.cat([data[name]] * 2) for name in ("input_ids", "attention_mask"))
    edited = model.edit(x, real, step=3, rows_R=both_views(model, 4))
    leaves = {
        part: {name: p.detach().clone().requires_grad_() for name, p in getattr(model, part).named_parameters()}
        for part in ("encoder", "projector", "generator", "discriminator", "head")
    }
    *_, (start, _) = FAMILIES[family]
    plain = plain_reference(
        family=family,
        config=model.encoder.config,
        **leaves,
        **data,
        masked_ids=edited.masked,
        cls_id=start,
        pad_id=FAMILIES[family][3]["pad_token_id"],
        temperature=0.05,
        rtd_weight=0.5,
    )
    plain.total.backward()

    assert torch.equal(edited.ids, plain.edited_ids)
    assert torch.equal(edited.labels, plain.labels)
    assert torch.equal(edited.labels, mask_labels_loops(x, edited.ids, real.bool()))
    assert 0 < edited.labels.sum() < edited.labels.numel()
    for ours, theirs in (
        (terms.contrastive, plain.contrastive),
        (terms.difference, plain.rtd),
        (terms.total, plain.total),
    ):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    compared = 0
    for part in ("encoder", "projector", "discriminator", "head"):
        for name, weight in getattr(model, part).named_parameters():
            expected = leaves[part][name].grad
            if expected is None:
                assert weight.grad is None or not weight.grad.any(), f"{part}.{name}"
                continue
            scale = max(expected.abs().max().item(), 1.0)
            torch.testing.assert_close(
                weight.grad, expected, rtol=0, atol=tolerance * scale, msg=lambda m, n=f"{part}.{name}": f"{n}: {m}"
            )
            compared += 1
    assert compared > 60
    assert all(p.grad is None for p in model.generator.parameters())


def test_loss_is_one_directional():
    """The two directions differ once the views do; ours is view 1 against view 2."""
    torch.manual_seed(0)
    first, second = torch.randn(2, 5, 6)
    one, _ = contrastive_loss(first, second, 0.05)
    other, _ = contrastive_loss(second, first, 0.05)
    assert not torch.allclose(one, other)
    torch.testing.assert_close(one, contrastive_loops(torch.cat([first, second]), 0.05))


# ---- every choice changes the loss, and only what it should

BASE = {"mask_ratio": 0.5, "rtd_weight": 0.1, "temperature": 0.5}
CHOICES = {
    # field: (value, loss terms that may change, the others may not)
    "sampling": ("argmax", {"difference"}),
    "edit_scope": ("all", {"difference"}),
    "rtd_padding": ("include", {"difference"}),
    "condition": ("pooled", {"difference"}),
    "inject": ("prepend", {"difference"}),
    "sampling_temperature": (5.0, {"difference"}),
    "mask_ratio": (0.2, {"difference"}),
    "pooling": ("mean", {"contrastive", "difference"}),
    "projector": ("tanh", {"contrastive", "difference"}),
    "temperature": (1.0, {"contrastive"}),
    "rtd_weight": (0.3, set()),
}


@pytest.mark.parametrize("field", CHOICES)
def test_choice_changes_the_loss(field):
    value, may_change = CHOICES[field]
    before = make(dropout=0.0, **BASE)(batch(), step=0)
    after = make(dropout=0.0, **{**BASE, field: value})(batch(), step=0)
    assert before.total != after.total
    for term in ("contrastive", "difference"):
        same = torch.equal(getattr(before, term), getattr(after, term))
        assert same == (term not in may_change), term


def test_condition_none_is_plain_electra():
    model, other = (make(dropout=0.0, **BASE, condition="none") for _ in range(2))
    with torch.no_grad():
        for weight in other.encoder.parameters():
            weight.add_(torch.randn_like(weight))
    a, b = model(batch(), step=0), other(batch(), step=0)
    assert torch.equal(a.difference, b.difference), "D knows nothing of f"
    assert not torch.equal(a.contrastive, b.contrastive)


def test_prepended_sentence_is_one_more_token_in_front():
    """Every token of x″, the start token too, stands one position later, behind z."""
    model = make(dropout=0.0, **BASE, inject="prepend").eval()
    x, real = batch()["input_ids"], batch()["attention_mask"]
    z = torch.randn(len(x), 16)
    logits = model.discriminate(x, real, z)
    assert logits.shape == (*x.shape, 2)

    d = model.discriminator
    words = d.embeddings.word_embeddings(x) + d.embeddings.token_type_embeddings.weight[0]
    words = d.embeddings.LayerNorm(words + d.embeddings.position_embeddings.weight[1 : x.shape[1] + 1])
    hidden = torch.cat([z[:, None], words], 1)
    mask = torch.cat([torch.ones(len(x), 1), real], 1)
    additive = (1 - mask)[:, None, None] * torch.finfo(torch.float32).min
    for layer in d.encoder.layer:
        out = layer(hidden, attention_mask=additive)
        hidden = out[0] if isinstance(out, tuple) else out
    torch.testing.assert_close(logits[real.bool()], model.head(hidden[:, 1:])[real.bool()], rtol=1e-4, atol=1e-5)


def test_schedules_by_hand():
    weights = {
        kind: [objective.rtd_weight(Method(rtd_weight=0.4, rtd_schedule=kind), p) for p in (0.0, 0.5, 0.75, 1.0)]
        for kind in ("constant", "linear", "cosine")
    }
    assert weights["constant"] == [0.4] * 4
    assert weights["linear"] == pytest.approx([0, 0.2, 0.3, 0.4])
    assert weights["cosine"] == pytest.approx([0, 0.2, 0.2 + 0.2 * 2**-0.5, 0.4])


def test_schedule_scales_the_difference_term_alone():
    model = make(dropout=0.0, **BASE, rtd_schedule="linear")
    for progress in (0.0, 0.5, 1.0):
        terms = model(batch(), step=0, progress=progress)
        torch.testing.assert_close(terms.total, terms.contrastive + 0.1 * progress * terms.difference)


def test_projector_none_makes_z_equal_h():
    a = make(dropout=0.0, **BASE, projector="none", condition="projected")(batch(), step=0)
    b = make(dropout=0.0, **BASE, projector="none", condition="pooled")(batch(), step=0)
    assert torch.equal(a.total, b.total)


def test_padding_counts_as_original_when_included():
    model = make(dropout=0.0, **BASE, rtd_padding="include")
    data = batch()
    terms = model(data, step=0)
    x, real = (torch.cat([data[name]] * 2) for name in ("input_ids", "attention_mask"))
    edited = model.edit(x, real, step=0, rows_R=both_views(model, 4))
    h = model.embed(x, real)
    logits = model.discriminate(edited.ids, real, model.condition(h, model.projector(h)))
    torch.testing.assert_close(
        terms.difference, rtd_loops(logits, edited.labels, torch.ones_like(real, dtype=torch.bool))
    )
    assert not edited.labels[~real.bool()].any()


def test_generator_dropout_changes_the_edits():
    def edits(**choices):
        model = make(dropout=0.5, sampling="argmax", edit_scope="all", **BASE, **choices)
        x = torch.cat([batch()["input_ids"]] * 2)
        real = torch.cat([batch()["attention_mask"]] * 2)
        draws = [model.edit(x, real, step=0, rows_R=both_views(model, 4)).ids for _ in range(2)]
        return torch.equal(*draws), model.generator.training

    assert edits(generator_dropout=False) == (True, False)
    assert edits(generator_dropout=True) == (False, True)


def test_difference_none_is_simcse():
    full, simcse = make(dropout=0.0, **BASE), make(dropout=0.0, difference="none", temperature=0.5)
    a, b = full(batch(), step=0), simcse(batch(), step=0)
    assert torch.equal(a.contrastive, b.contrastive)
    assert torch.equal(b.total, b.contrastive)
    assert b.difference is None
    assert simcse.generator is None
    assert simcse.discriminator is None


def test_contrast_off_leaves_the_difference_term():
    terms = make(dropout=0.0, **BASE, contrast=False)(batch(), step=0)
    assert terms.contrastive is None
    torch.testing.assert_close(terms.total, 0.1 * terms.difference)


def test_every_combination_trains_the_encoder_by_each_term_it_names():
    """No combination silently switches a term off: what is configured reaches f, or the configuration is refused."""
    fields = {
        "contrast": (True, False),
        "difference": ("rtd", "none"),
        "condition": ("projected", "pooled", "none"),
        "projector": ("batchnorm", "tanh", "none"),
        "pooling": ("cls", "mean"),
    }
    import itertools

    seen = refused = 0
    for values in itertools.product(*fields.values()):
        choices = dict(zip(fields, values, strict=True))
        try:
            model = make(**BASE, **choices)
        except InputError:
            assert not choices["contrast"]
            assert choices["difference"] == "none" or choices["condition"] == "none"
            refused += 1
            continue
        terms = model(batch(), step=0)
        for name in ("contrastive", "difference"):
            term = getattr(terms, name)
            assert (term is not None) == (
                choices["contrast"] if name == "contrastive" else choices["difference"] == "rtd"
            )
            if term is None or (name == "difference" and choices["condition"] == "none"):
                continue
            model.zero_grad()
            term.backward(retain_graph=True)
            weight = model.encoder.get_input_embeddings().weight
            assert weight.grad is not None
            assert weight.grad.abs().sum() > 0, (name, choices)
        seen += 1
    assert (seen, refused) == (48, 24)


# ---- gradients, modes, views


def test_gradients_reach_f_through_both_terms_and_never_g():
    model = make(**BASE)
    terms = model(batch(), step=0)
    for term, parts in (
        (terms.contrastive, {"encoder", "projector"}),
        (terms.difference, {"encoder", "projector", "discriminator", "head"}),
    ):
        model.zero_grad()
        term.backward(retain_graph=True)
        reached = {name.split(".")[0] for name, gradient in gradients(model).items() if gradient.any()}
        assert reached == parts
    assert not any(p.requires_grad for p in model.generator.parameters())


def test_generator_never_changes_in_training():
    model = make(**BASE)
    before = {name: value.clone() for name, value in model.generator.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(3):
        optimizer.zero_grad()
        model(batch(), step=step).total.backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.generator.state_dict().items())


def test_generator_stays_in_eval_under_train():
    model = make(**BASE)
    assert model.training
    assert model.discriminator.training
    assert not any(module.training for module in model.generator.modules())
    assert not model.eval().encoder.training


def test_dropout_views_differ():
    model = make(**BASE)
    x, real = (torch.cat([batch()[name]] * 2) for name in ("input_ids", "attention_mask"))
    first, second = model.embed(x, real).chunk(2)
    assert not torch.allclose(first, second)
    first, second = model.eval().embed(x, real).chunk(2)
    torch.testing.assert_close(first, second)


def test_views_get_masks_of_their_own():
    model = make(**BASE)
    x, real = (torch.cat([batch()[name]] * 2) for name in ("input_ids", "attention_mask"))
    chosen = model.edit(x, real, step=0, rows_R=both_views(model, 4)).chosen
    assert not torch.equal(*chosen.chunk(2))


def test_padding_does_not_change_the_losses():
    """The default counts real tokens only, so a wider padded batch is the same batch."""
    model = make(dropout=0.0, **BASE)
    narrow = batch()
    wide = {
        "input_ids": nn.functional.pad(narrow["input_ids"], (0, 5), value=0),
        "attention_mask": nn.functional.pad(narrow["attention_mask"], (0, 5)),
    }
    a, b = model(narrow, step=0), model(wide, step=0)
    torch.testing.assert_close(a.contrastive, b.contrastive, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(a.difference, b.difference, rtol=1e-5, atol=1e-6)


def test_metrics_by_hand():
    from diffcse.method.edits import Edited

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
    metrics = objective.rtd_metrics(logits, edited)
    assert metrics["rtd_accuracy"] == 0.5
    assert metrics["rtd_accuracy_replaced"] == 0.5
    assert metrics["rtd_accuracy_kept"] == 0.5
    assert metrics["rtd_majority"] == 0.5
    right, wrong = -torch.log_softmax(torch.tensor([9.0, 0.0]), 0)
    torch.testing.assert_close(metrics["rtd_log_loss"], (right + wrong) / 2)


def test_cosine_metrics_by_hand():
    metrics = objective._cosine_metrics(torch.tensor([[1.0, 0.2], [0.4, 0.8]]))
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


def test_rows_keep_their_edits_wherever_they_are_processed():
    """A shard of the batch that knows its first row edits its sentences as the whole batch would."""
    model = make(**BASE)
    whole = batch()
    x, real = whole["input_ids"], whole["attention_mask"]
    edits = model.edit(x, real, step=2, rows_R=model.rows(4, 0, 0, x.device))
    shard = model.edit(x[2:], real[2:], step=2, rows_R=model.rows(2, 0, 2, x.device))
    assert torch.equal(edits.ids[2:], shard.ids)
    assert torch.equal(edits.chosen[2:], shard.chosen)


def test_same_step_same_loss_other_step_other_edits():
    model = make(dropout=0.0, **BASE)
    assert torch.equal(model(batch(), step=5).difference, model(batch(), step=5).difference)
    assert not torch.equal(model(batch(), step=5).difference, model(batch(), step=6).difference)


def test_parts_must_fit():
    config = BertConfig(**SIZES)
    f, wide = BertModel(config), BertModel(BertConfig(**{**SIZES, "hidden_size": 8, "num_attention_heads": 2}))
    with pytest.raises(InputError, match="hidden size 8"):
        DiffCSE(f, FAMILIES["bert"][4], Method(), generator=BertForMaskedLM(config), discriminator=wide)
    with pytest.raises(InputError, match="needs a discriminator"):
        DiffCSE(f, FAMILIES["bert"][4], Method(), generator=BertForMaskedLM(config))
    with pytest.raises(InputError, match="need a frozen masked language model"):
        DiffCSE(f, FAMILIES["bert"][4], Method(), discriminator=BertModel(config))


def test_trained_state_holds_everything_but_the_generator():
    model = make(**BASE)
    names = set(model.trained_state())
    assert not any(name.startswith("generator.") for name in names)
    assert {name for name, p in model.named_parameters() if p.requires_grad} <= names
    assert "projector.1.running_mean" in names


def test_random_start_is_decided_by_the_seed_alone():
    torch.manual_seed(1)
    a = make(seed=3)
    torch.manual_seed(2)
    b = make(seed=3)
    assert torch.equal(a.head.weight, b.head.weight)
    assert torch.equal(a.projector[0].weight, b.projector[0].weight)
    assert not torch.equal(a.head.weight, make(seed=4).head.weight)


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().choices.temperature = 1.0
