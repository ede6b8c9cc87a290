"""Batches, and the comparison of a packed run with a padded one."""

import torch

PACKED = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert")
NARROWED = ("bert", "roberta", "xlm-roberta", "distilbert", "electra")
"""Their keys and values come from layers of their own; ModernBERT rotates its keys afterwards."""
LENGTHS = (9, 1, 14, 5, 14)


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
