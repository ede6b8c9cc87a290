"""One batch's losses under any choices, a sentence and a token at a time: BERT, dropout off.

Networks are written out in `plain`, edits and losses in `oracles`; here is only who is put together with whom, from
the definitions in docs/method.md. No sentence is padded, unless padding itself is to be judged.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .edit_loops import Loops, integer
from .oracles import false_negatives_loops, rtd_loops, token_loss_loops, triplet_loops
from .plain import linear, masked_lm, project, transformer

VIEW = 2**40  # rows of view v are numbered from v · VIEW


class Whole(NamedTuple):
    total: Tensor
    contrastive: Tensor | None
    difference: Tensor | None


def sentences(data, column: str) -> list[list[int]]:
    """The rows of a column without their padding."""
    ids, real = data[f"{column}input_ids"].tolist(), data[f"{column}attention_mask"].tolist()
    return [row[: sum(ones)] for row, ones in zip(ids, real, strict=True)]


def whole_loops(model, data, *, step: int, first_row: int = 0, weight: float) -> Whole:
    """L = L_contrast + λ · the difference loss, with λ = `weight`."""
    c, v = model.choices, model.vocabulary
    loops = Loops(
        size=v.size,
        mask=v.mask,
        special=v.special,
        ratio=c.mask_ratio,
        address=(model.seed, step),
        sampling=c.sampling,
        temperature=c.sampling_temperature,
        scope=c.edit_scope,
        masked_lm=lambda ids: model.generator(input_ids=torch.tensor([ids])).logits[0].detach(),
        causal_lm=lambda ids: model.causal_generator(input_ids=torch.tensor([ids])).logits[0, -1].detach(),
    )
    anchors = sentences(data, "")
    size = len(anchors)
    paired = "positive_input_ids" in data
    positives = sentences(data, "positive_") if paired else anchors
    third = None
    if "hard_negative_input_ids" in data:
        third = sentences(data, "hard_negative_")
    elif c.edit_role != "difference":
        third = [loops.edit(c.edits, x, first_row + i + 2 * VIEW).ids for i, x in enumerate(anchors)]

    # h = f(x), one sentence at a time; z = g(h) over all of them, because of the batch statistics
    f = dict(model.encoder.named_parameters())
    h = []
    for x in [*anchors, *positives, *(third or [])]:
        hidden = run(model.encoder.config, f, x)
        h.append(hidden[0] if c.pooling in (None, "cls") else sum(hidden) / len(x))
    h = torch.stack(h)
    g = dict(model.projector.named_parameters())
    z = {
        "batchnorm": lambda: project(g, h),
        "tanh": lambda: torch.tanh(linear(g, "0.", h)),
        "none": lambda: h,
    }[c.projector]()

    contrastive = difference = None
    total = z.new_zeros(())
    if c.contrast:
        a, p, n = z[:size], z[size : 2 * size], z[2 * size :] if third else None
        if c.edit_role == "positive":
            contrastive = (triplet_loops(a, p, None, c.temperature) + triplet_loops(a, n, None, c.temperature)) / 2
        else:
            left_out = set()
            if paired and c.false_negatives == "mask":
                left_out = false_negatives_loops(anchors, positives, third)
            elif c.edit_role == "negative":
                left_out = {(i, size + i) for i in range(size) if third[i] == anchors[i]}
            contrastive = triplet_loops(a, p, n, c.temperature, weight=c.hard_negative_weight, left_out=left_out)
        total = total + contrastive
    if c.difference != "none":
        told = {"projected": z, "pooled": h, "none": None}[c.condition]
        jobs, width = judged(c, data, anchors, positives, third, first_row)
        difference = differ(model, loops, jobs, width, told)
        total = total + weight * difference
    return Whole(total, contrastive, difference)


def judged(c, data, anchors, positives, third, first_row):
    """([(sentence, whose embedding, row number)], their padded length): what D sees with which embedding."""
    size = len(anchors)
    jobs = []
    if c.pairing != "next":
        for view, column in enumerate((anchors, positives)):
            if c.edit_columns in (("anchor", "both"), ("positive", "both"))[view]:
                jobs += [(x, view * size + i, first_row + i + view * VIEW) for i, x in enumerate(column)]
    width = max(map(len, [*anchors, *positives, *(third or [])]))
    if c.pairing != "same":
        following = sentences(data, "next_")
        for view in (0, 1):
            for i, y in enumerate(following):
                if data["has_next"][i]:
                    jobs.append((y, view * size + i, first_row + i + (3 + view) * VIEW))
        longest = data["next_input_ids"].shape[1]
        width = longest if c.pairing == "next" else max(width, longest)
    return jobs, width


def differ(model, loops, jobs, width, told) -> Tensor:
    c = model.choices
    d = dict(model.discriminator.named_parameters())
    config = model.discriminator.config
    scores, answers = [], []

    def embedding(owner):
        return None if told is None else told[owner]

    if c.difference == "rtd":
        edited = [(loops.edit(c.edits, y, row), embedding(owner)) for y, owner, row in jobs]
        grown = [
            "insert" in c.edits[integer((*loops.address, 4), row, 0, len(c.edits)) if len(c.edits) > 1 else 0]
            for *_, row in jobs
        ]
        if any(grown):
            width += max(1, int(width * c.mask_ratio + 0.5))
        for copy, z in edited:
            spare = width - len(copy.ids) if c.rtd_padding == "include" else 0
            hidden = told_of(z, c.inject, copy.ids, lambda ids, first, s=spare: run(config, d, ids, first, spare=s))
            scores += list(linear(dict(model.head.named_parameters()), "", hidden))
            answers += [*copy.labels, *[0] * spare]
        return rtd_loops(torch.stack(scores)[None], torch.tensor([answers]), torch.ones(1, len(answers)).bool())

    for y, owner, row in jobs:
        if c.difference == "mlm":
            ids, wanted = loops.mask_tokens(y, row)
            tokens = y
        else:
            copy = loops.edit(c.edits, y, row)
            ids, tokens, wanted = copy.ids, copy.original, copy.editable
        logits = told_of(embedding(owner), c.inject, ids, lambda ids, first: vocabulary(config, d, ids, first))
        scores += [logits[t] for t in range(len(ids)) if wanted[t]]
        answers += [tokens[t] for t in range(len(ids)) if wanted[t]]
    return token_loss_loops(scores, answers)


def told_of(z, inject: str, ids: list[int], network) -> Tensor:
    """The network's outputs at the tokens `ids`, z in the place of the first, or as one more in front of all."""
    if z is not None and inject == "prepend":
        return network([ids[0], *ids], z)[1:]
    return network(ids, z)


def run(config, w, ids: list[int], first=None, *, spare: int = 0) -> Tensor:
    """Last hidden states of one sentence with `spare` tokens of padding: (T + spare, H)."""
    padded = torch.tensor([[*ids, *[config.pad_token_id] * spare]])
    real = torch.tensor([[True] * len(ids) + [False] * spare])
    return transformer("bert", config, w, padded, real, None if first is None else first[None])[0]


def vocabulary(config, w, ids: list[int], first=None) -> Tensor:
    x = torch.tensor([ids])
    return masked_lm("bert", config, w, x, torch.ones_like(x).bool(), None if first is None else first[None])[0]
