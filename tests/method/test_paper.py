"""The paper's equations, against loops and against an independent re-implementation."""

import dataclasses
import doctest
import itertools

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    BertModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

import diffcse.method.paper as objective
from diffcse.config import REFERENCE, Method
from diffcse.errors import InputError
from diffcse.method.edits import Vocabulary
from diffcse.method.paper import DiffCSE, contrastive_loss, rtd_loss, same_meaning
from diffcse.training.checkpoints import load_weights, save_weights

from .oracles import contrastive_loops, false_negatives_loops, mask_labels_loops, rtd_loops, triplet_loops
from .plain import plain_reference
from .whole import whole_loops

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
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
    if "causal_lm" in choices.get("edits", ()):
        choices = {"causal_generator": "given as a module", **choices}
    method = Method(**choices)
    encoder, generator = model_class(config, add_pooling_layer=False), lm_class(config)
    discriminator = causal = None
    if method.difference == "rtd":
        discriminator = model_class(config, add_pooling_layer=False)
    elif method.difference != "none":
        discriminator = lm_class(config)
    if method.needs("causal"):
        torch.manual_seed(seed + 1)
        causal = BertLMHeadModel(BertConfig(**SIZES, **ids, initializer_range=scale, is_decoder=True))
    model = DiffCSE(
        encoder,
        vocabulary,
        method,
        generator=generator,
        causal_generator=causal,
        discriminator=discriminator,
        seed=seed,
    )
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


def following(family="bert", has_next=(True, False, True, True)):
    """The next sentences of those of `batch`."""
    after = batch(family, (5, 2, 14, 6), seed=2)
    return {**{f"next_{name}": value for name, value in after.items()}, "has_next": torch.tensor(has_next)}


def triplets(columns=3):
    """Pairs or triplets among which some sentences return in other rows, in every way in which they can."""
    sentence = {
        name: row[: sum(real)].tolist()
        for name, row, real in zip(
            "abcpqrstn",
            *batch(lengths=(9, 4, 12, 7, 3, 6, 10, 5, 8), seed=3).values(),
            strict=True,
        )
    }
    rows = ["apn", "bqs", "ars", "cbp", "bqt"]  # anchors a twice; b, q twice; b as positive of c; p as negative of c
    rows.append("scs")  # s is its own hard negative, and that of others; its positive is c
    data = {}
    for column, place in zip(("", "positive_", "hard_negative_")[:columns], (0, 1, 2), strict=False):
        chosen = [sentence[row[place]] for row in rows]
        width = max(map(len, chosen))
        data[f"{column}input_ids"] = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in chosen])
        data[f"{column}attention_mask"] = (data[f"{column}input_ids"] != 0).long()
        data[f"{column or 'anchor_'}key"] = torch.tensor([ord(row[place]) for row in rows])
    return data


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
    seen, refused = all_combinations(fields)
    assert (seen, refused) == (48, 24)


def test_every_combination_of_the_difference_does_so_too():
    fields = {
        "contrast": (True, False),
        "difference": ("rtd", "mlm", "corrective_lm", "none"),
        "pairing": ("same", "next", "both"),
        "edits": (("mlm",), ("causal_lm",), ("replace",), ("insert",), ("delete",), ("insert_random", "mlm")),
        "edit_role": ("difference", "positive", "negative"),
        "condition": ("projected", "none"),
    }
    seen, refused = all_combinations(fields)
    # rtd: 3 pairings of 6 editors, mlm 6 (idle), corrective_lm 3; each conditioned or not; without contrast
    # conditioned.
    # none: the pairing, the condition, and as long as nothing is edited the editors too, are idle.
    assert seen == 3 * (6 + 6 + 3) * 3 + 3 * 6 * 2 + 2 * 3 * 6 * 2
    assert seen + refused == 2 * 4 * 3 * 6 * 3 * 2


def all_combinations(fields):
    """(how many were tried, how many refused). Each that is accepted must do all it names: every term is there and
    reaches f, and every field has an effect unless `Method.unused` says that it has none."""
    found, refusals = {}, []
    for values in itertools.product(*fields.values()):
        try:
            model = make(dropout=0.0, **BASE, **dict(zip(fields, values, strict=True)))
        except InputError as error:
            refusals.append(str(error))
            continue
        choices = model.choices
        terms = model(batch() | following(), step=0)
        assert (terms.contrastive is not None) == choices.contrast
        assert (terms.difference is not None) == (choices.difference != "none")
        for term in (terms.contrastive, terms.difference if choices.condition != "none" else None):
            if term is not None:
                model.zero_grad()
                term.backward(retain_graph=True)
                weight = model.encoder.get_input_embeddings().weight
                assert weight.grad is not None, values
                assert weight.grad.abs().sum() > 0, values
        found[values] = terms.total.item(), choices.unused()
    for values, (total, idle) in found.items():
        for place, name in enumerate(fields):
            plain = (*values[:place], fields[name][0], *values[place + 1 :])
            if plain != values and plain in found:
                assert (total == pytest.approx(found[plain][0], rel=1e-9)) == (name in idle), (values, name)
    assert all(message.startswith("method.") for message in refusals)
    return len(found), len(refusals)


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


# ---- every choice against loops over sentences and tokens

PLAIN = batch(lengths=(9, 4, 12, 2, 3))
NEXT = batch() | following()
MIXED = ("mlm", "causal_lm", "replace", "insert", "delete", "insert_random")
CASES = {
    "default": (PLAIN, {}),
    "reference": (PLAIN, REFERENCE | {"generator_dropout": False}),
    "causal_lm": (PLAIN, {"edits": ["causal_lm"]}),
    "causal_lm of all": (PLAIN, {"edits": ["causal_lm"], "edit_scope": "all", "pooling": "mean"}),
    "replace": (PLAIN, {"edits": ["replace"], "projector": "tanh"}),
    "insert": (PLAIN, {"edits": ["insert"], "condition": "pooled"}),
    "insert_random": (PLAIN, {"edits": ["insert_random"], "inject": "prepend"}),
    "delete": (PLAIN, {"edits": ["delete"], "contrast": False}),
    "all editors": (PLAIN, {"edits": MIXED}),
    "padding counts": (PLAIN, {"edits": ["mlm"], "rtd_padding": "include"}),
    "padding counts, deleted": (PLAIN, {"edits": ["delete"], "rtd_padding": "include"}),
    "padding counts, inserted": (PLAIN, {"edits": ["insert"], "rtd_padding": "include", "inject": "prepend"}),
    "padding counts, all editors": (PLAIN, {"edits": MIXED, "rtd_padding": "include"}),
    "unconditioned": (PLAIN, {"edits": MIXED, "condition": "none"}),
    "conditional mlm": (PLAIN, {"difference": "mlm"}),
    "conditional mlm, prepended": (PLAIN, {"difference": "mlm", "inject": "prepend", "condition": "pooled"}),
    "mlm": (PLAIN, {"difference": "mlm", "condition": "none"}),
    "corrective_lm": (PLAIN, {"difference": "corrective_lm"}),
    "corrective_lm of all": (PLAIN, {"difference": "corrective_lm", "edit_scope": "all", "sampling": "argmax"}),
    "corrective_lm, prepended": (
        PLAIN,
        {"difference": "corrective_lm", "inject": "prepend", "edits": ["replace", "causal_lm"]},
    ),
    "next": (NEXT, {"pairing": "next"}),
    "next, inserted": (NEXT, {"pairing": "next", "edits": ["insert", "delete"], "inject": "prepend"}),
    "next, padding counts": (NEXT, {"pairing": "next", "rtd_padding": "include"}),
    "next, corrective_lm": (NEXT, {"pairing": "next", "difference": "corrective_lm"}),
    "both": (NEXT, {"pairing": "both"}),
    "both, all editors": (NEXT, {"pairing": "both", "edits": MIXED, "rtd_padding": "include"}),
    "both, mlm": (NEXT, {"pairing": "both", "difference": "mlm", "inject": "prepend"}),
    "extra positive": (PLAIN, {"difference": "none", "edit_role": "positive"}),
    "extra positive, inserted": (PLAIN, {"difference": "none", "edit_role": "positive", "edits": ["insert_random"]}),
    "extra negative": (PLAIN, {"difference": "none", "edit_role": "negative", "edits": ["replace"]}),
    "extra negative, all editors": (PLAIN, {"difference": "none", "edit_role": "negative", "edits": MIXED}),
    "pairs": (triplets(2), {}),
    "pairs, kept": (triplets(2), {"false_negatives": "keep"}),
    "pairs, anchors edited": (triplets(2), {"edit_columns": "anchor", "edits": ["insert", "mlm"]}),
    "pairs, positives edited": (triplets(2), {"edit_columns": "positive", "difference": "corrective_lm"}),
    "triplets": (triplets(), {}),
    "triplets, weighted": (triplets(), {"hard_negative_weight": 1.5, "pooling": "mean"}),
    "triplets, kept": (triplets(), {"hard_negative_weight": -0.5, "false_negatives": "keep", "projector": "tanh"}),
    "triplets, conditional mlm": (triplets(), {"difference": "mlm", "edit_columns": "positive"}),
    "triplets, padding counts": (triplets(), {"rtd_padding": "include", "edits": ["insert", "delete"]}),
    "triplets without difference": (triplets(), {"difference": "none", "projector": "none"}),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_against_loops(case):
    data, choices = CASES[case]
    choices = {"mask_ratio": 0.5, "temperature": 0.5} | choices | {"rtd_weight": 0.7}
    model = make(dropout=0.0, dtype=torch.float64, **choices)
    ours = model(data, step=4, first_row=10)
    plain = whole_loops(model, data, step=4, first_row=10, weight=0.7)
    for name in ("contrastive", "difference", "total"):
        a, b = getattr(ours, name), getattr(plain, name)
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    pairs = zip(
        *(torch.autograd.grad(total, trained.values(), allow_unused=True) for total in (ours.total, plain.total)),
        strict=True,
    )
    compared = 0
    for name, (a, b) in zip(trained, pairs, strict=True):
        a, b = (torch.zeros(()) if g is None else g for g in (a, b))
        assert (a.shape == b.shape) or not (a.any() or b.any()), name
        if a.shape == b.shape:
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8 * max(1, b.abs().max().item()))
            compared += int(b.any())
    assert compared > 30


def test_triplet_loss_against_loops():
    torch.manual_seed(0)
    a, p, n = torch.randn(3, 5, 6, dtype=torch.float64)
    left_out = {(0, 3), (1, 5 + 1), (2, 5 + 4), (4, 0)}
    mask = torch.tensor([[(i, j) in left_out for j in range(10)] for i in range(5)])
    for weight in (0.0, 2.0, -1.0):
        loss, cosines = contrastive_loss(a, p, 0.3, negative_BH=n, negative_weight=weight, left_out=mask)
        torch.testing.assert_close(loss, triplet_loops(a, p, n, 0.3, weight=weight, left_out=left_out))
        assert cosines.shape == (5, 10)
    torch.testing.assert_close(
        contrastive_loss(a, p, 0.3)[0], contrastive_loops(torch.cat([a, p]), 0.3), rtol=0, atol=1e-12
    )


def test_same_meaning_against_loops():
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 5, 9):
        for _ in range(20):
            a, p, n = torch.randint(0, 6, (3, size), generator=generator)
            keys = [x.tolist() for x in (a, p, n)]
            for count in (2, 3):
                found = {tuple(place) for place in same_meaning(*(a, p, n)[:count]).nonzero().tolist()}
                assert found == false_negatives_loops(*keys[:count])


def test_false_negatives_are_counted_whether_masked_or_kept():
    wanted = len(false_negatives_loops(*(triplets()[f"{name}_key"].tolist() for name in COLUMNS)))
    for choice in ("mask", "keep"):
        metrics = make(**BASE, false_negatives=choice)(triplets(), step=0).metrics
        assert metrics["false_negatives"] == wanted > 0


COLUMNS = ("anchor", "positive", "hard_negative")


# ---- each further choice changes the loss it should, and no other

FURTHER = {
    # name: (batch, choices before, choices after, terms that may change)
    **{
        f"edits {name}": (PLAIN, {}, {"edits": [name]}, {"difference"})
        for name in ("causal_lm", "replace", "insert", "delete", "insert_random")
    },
    "difference mlm": (PLAIN, {}, {"difference": "mlm"}, {"difference"}),
    "difference corrective_lm": (PLAIN, {}, {"difference": "corrective_lm"}, {"difference"}),
    "mlm, mask_ratio": (PLAIN, {"difference": "mlm"}, {"mask_ratio": 0.2}, {"difference"}),
    "corrective_lm, edits": (PLAIN, {"difference": "corrective_lm"}, {"edits": ["replace"]}, {"difference"}),
    "pairing next": (NEXT, {}, {"pairing": "next"}, {"difference"}),
    "pairing both": (NEXT, {}, {"pairing": "both"}, {"difference"}),
    "edit_role positive": (PLAIN, {"difference": "none"}, {"edit_role": "positive"}, {"contrastive"}),
    "edit_role negative": (PLAIN, {"difference": "none"}, {"edit_role": "negative"}, {"contrastive"}),
    "edit_columns anchor": (triplets(), {}, {"edit_columns": "anchor"}, {"difference"}),
    "edit_columns positive": (triplets(), {}, {"edit_columns": "positive"}, {"difference"}),
    "hard_negative_weight": (triplets(), {}, {"hard_negative_weight": 1.0}, {"contrastive"}),
    "false_negatives": (triplets(), {}, {"false_negatives": "keep"}, {"contrastive"}),
}


@pytest.mark.parametrize("case", FURTHER)
def test_further_choice_changes_the_loss(case):
    data, before, after, may_change = FURTHER[case]
    one = make(dropout=0.0, **BASE | before)(data, step=0)
    other = make(dropout=0.0, **BASE | before | after)(data, step=0)
    assert one.total != other.total
    for term in ("contrastive", "difference"):
        a, b = getattr(one, term), getattr(other, term)
        same = a is b if a is None or b is None else torch.equal(a, b)
        assert same == (term not in may_change), term


# ---- where gradients go

TASKS = {
    "rtd": {},
    "rtd, all editors": {"edits": MIXED},
    "mlm": {"difference": "mlm"},
    "corrective_lm": {"difference": "corrective_lm", "edits": ["mlm", "causal_lm"]},
}


@pytest.mark.parametrize("pairing", ["same", "next", "both"])
@pytest.mark.parametrize("task", TASKS)
def test_gradients_of_every_task_reach_f_and_d_and_never_a_generator(task, pairing):
    model = make(**BASE, **TASKS[task], pairing=pairing)
    frozen = [part for part in (model.generator, model.causal_generator) if part is not None]
    assert len(frozen) == (0 if task == "mlm" else 1 + ("causal_lm" in model.choices.edits))
    before = [p.clone() for part in frozen for p in part.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    terms = model(NEXT, step=0)
    terms.difference.backward(retain_graph=True)
    reached = {name.split(".")[0] for name, gradient in gradients(model).items() if gradient.any()}
    assert reached == {"encoder", "projector", "discriminator"} | ({"head"} if model.head is not None else set())
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, (p for m in frozen for p in m.parameters()), strict=True))
    model.zero_grad()
    terms = model(NEXT, step=1)
    terms.contrastive.backward()
    assert {name.split(".")[0] for name, g in gradients(model).items() if g.any()} == {"encoder", "projector"}


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


# ---- the same anywhere, at any time


@pytest.mark.parametrize("choices", [*TASKS.values(), {"edit_role": "negative", "difference": "none", "edits": MIXED}])
def test_seed_and_step_decide_every_edit(choices):
    model = make(dropout=0.0, **BASE, **choices)
    same, again, other = (model(PLAIN, step=step).total for step in (5, 5, 6))
    assert torch.equal(same, again)
    assert not torch.equal(same, other)
    model.seed += 1
    assert not torch.equal(model(PLAIN, step=5).total, same)


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


def test_a_sentence_that_is_somebodys_next_is_edited_otherwise_than_as_itself():
    model = make(dropout=0.0, **BASE, pairing="both", projector="none", condition="none", contrast=True)
    data = batch()
    data |= {f"next_{name}": value for name, value in data.items()} | {"has_next": torch.ones(4, dtype=torch.bool)}
    seen = []
    edit = model.edit
    model.edit = lambda *args, **kwargs: seen.append(edit(*args, **kwargs)) or seen[-1]
    model(data, step=0)
    views = seen[0].chosen.split(4)
    assert len(views) == 4
    assert len({tuple(view.flatten().tolist()) for view in views}) == 4


# ---- where there is nothing to judge


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


@pytest.mark.parametrize("choices", [*TASKS.values(), *({"edits": [name]} for name in MIXED)])
def test_sentences_without_words(choices):
    """[CLS] [SEP] alone: nothing can be edited, and nothing becomes NaN."""
    model = make(**BASE, **choices)
    terms = model(batch(lengths=(2, 2, 2)), step=0)
    terms.total.backward()
    assert terms.total.isfinite()
    assert terms.difference.isfinite()
    assert all(g.isfinite().all() for g in gradients(model).values())
    if model.head is None:
        assert terms.difference == 0
        assert terms.metrics["lm_tokens"] == 0
    else:
        assert terms.metrics["rtd_replaced"] == 0


@pytest.mark.parametrize("role", ["positive", "negative"])
def test_unchanged_copies(role):
    """A copy that is the sentence itself is no negative of it, and as a positive it is one more view."""
    model = make(dropout=0.0, **BASE, difference="none", edit_role=role)
    data = batch(lengths=(2, 2, 9, 2))
    terms = model(data, step=0)
    assert terms.total.isfinite()
    if role == "negative":
        assert terms.metrics["false_negatives"] == 3
    else:
        assert "false_negatives" not in terms.metrics


def test_a_batch_of_one_pair_has_nothing_to_tell_apart():
    model = make(**BASE, projector="tanh")
    one = {name: value[:1] for name, value in triplets(2).items()}
    assert model(one, step=0).contrastive == 0


# ---- metrics


def test_metrics_of_a_conditional_language_model(monkeypatch):
    model = make(**BASE, difference="mlm")
    terms = model(batch(), step=0)
    assert set(terms.metrics) == {"positive_cosine", "negative_cosine", "lm_accuracy", "lm_log_loss", "lm_tokens"}
    torch.testing.assert_close(terms.metrics["lm_log_loss"], terms.difference.detach())
    assert not any(value.requires_grad for value in terms.metrics.values())
    logits = torch.tensor([[0.0, 9.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 9.0], [0.0, 9.0, 0.0]])
    monkeypatch.setattr(objective, "logits_at", lambda *_, **__: logits)
    where = torch.tensor([[True, False, True], [False, True, True]])
    tokens = torch.tensor([[1, 7, 0], [7, 2, 2]])
    loss, metrics = model.restore(tokens, torch.ones_like(tokens), None, where, tokens)
    assert (metrics["lm_accuracy"], metrics["lm_tokens"]) == (0.75, 4)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([1, 0, 2, 2]))
    torch.testing.assert_close((loss, metrics["lm_log_loss"]), (expected, expected))


# ---- saving


@pytest.mark.parametrize("task", TASKS)
def test_weights_are_saved_once_and_come_back(task, tmp_path):
    """Also where D's vocabulary head is tied to its embeddings; generators are left out."""
    model, other = (make(dropout=0.0, seed=seed, **BASE, **TASKS[task]) for seed in (0, 7))
    with torch.no_grad():
        model.encoder.get_input_embeddings().weight.add_(0.1)
    state = model.trained_state()
    places = [value.data_ptr() for value in state.values() if value.numel() > 1]
    assert len(places) == len(set(places)), "tied weights once"
    assert not any("generator" in name for name in state)
    assert {id(p) for p in model.parameters() if p.requires_grad} <= {
        id(p) for name, p in model.named_parameters() if name in state
    }
    save_weights(state, tmp_path / "weights.safetensors")
    load_weights(other.trained_state(), tmp_path / "weights.safetensors")
    if model.discriminator.get_output_embeddings() is not None:
        assert other.discriminator.get_output_embeddings().weight is other.discriminator.get_input_embeddings().weight
    assert all(torch.equal(value, other.trained_state()[name]) for name, value in state.items())
    other.seed = model.seed
    for mine, theirs in ((model.generator, other.generator), (model.causal_generator, other.causal_generator)):
        if mine is not None:
            assert not torch.equal(mine.get_input_embeddings().weight, theirs.get_input_embeddings().weight)
            theirs.load_state_dict(mine.state_dict())
    assert torch.equal(model(PLAIN, step=0).total, other(PLAIN, step=0).total)
