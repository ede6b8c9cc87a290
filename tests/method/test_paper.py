"""The paper's equations, against loops and against an independent re-implementation."""

import doctest
import itertools

import pytest
import torch
from torch import nn

import diffcse.method.paper as paper
from diffcse.config import REFERENCE
from diffcse.errors import InputError
from diffcse.method.paper import contrastive_loss, rtd_loss

from .oracles import contrastive_loops, mask_labels_loops, rtd_loops, triplet_loops
from .plain import plain_reference
from .tiny import BASE, FAMILIES, MIXED, NEXT, PLAIN, TASKS, batch, both_views, following, gradients, make, triplets
from .whole import whole_loops


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
    assert doctest.testmod(paper).failed == 0


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
    edited = model.edit(x, real, step=3, rows_R=both_views(4))
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
    edited = model.edit(x, real, step=0, rows_R=both_views(4))
    h = model.embed(x, real)
    logits = model.discriminate(edited.ids, real, model.condition(h, model.projector(h)))
    torch.testing.assert_close(
        terms.difference, rtd_loops(logits, edited.labels, torch.ones_like(real, dtype=torch.bool))
    )
    assert not edited.labels[~real.bool()].any()


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


def test_same_step_same_loss_other_step_other_edits():
    model = make(dropout=0.0, **BASE)
    assert torch.equal(model(batch(), step=5).difference, model(batch(), step=5).difference)
    assert not torch.equal(model(batch(), step=5).difference, model(batch(), step=6).difference)


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


@pytest.mark.parametrize("choices", [*TASKS.values(), {"edit_role": "negative", "difference": "none", "edits": MIXED}])
def test_seed_and_step_decide_every_edit(choices):
    model = make(dropout=0.0, **BASE, **choices)
    same, again, other = (model(PLAIN, step=step).total for step in (5, 5, 6))
    assert torch.equal(same, again)
    assert not torch.equal(same, other)
    model.seed += 1
    assert not torch.equal(model(PLAIN, step=5).total, same)


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


def test_a_batch_of_one_pair_has_nothing_to_tell_apart():
    model = make(**BASE, projector="tanh")
    one = {name: value[:1] for name, value in triplets(2).items()}
    assert model(one, step=0).contrastive == 0
