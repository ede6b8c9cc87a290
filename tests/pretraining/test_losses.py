"""Losses against the same losses written out, and what a step feeds them."""

import pytest
import torch
from torch.nn import functional as F

from diffcse.method.loading import read_vocabulary
from diffcse.pretraining import batches, losses
from diffcse.pretraining.run import pretrain
from tests.pretraining.texts import CORPUS, TEXT, tiny


@pytest.mark.parametrize("objective", ["mlm", "causal"])
def test_head_at_predicted_positions_gives_the_loss_and_gradient_of_the_full_head(tmp_path, monkeypatch, objective):
    made = pretrain(tiny(objective=objective, max_steps=1), CORPUS, tmp_path / "out")
    model = made.model.train()
    ids = made.tokenizer(TEXT[:6], return_tensors="pt")["input_ids"]
    vocabulary = read_vocabulary(made.tokenizer)
    group = (
        batches.causal_group(ids)
        if objective == "causal"
        else batches.mlm_group(ids, vocabulary, 0.3, (1, 2), torch.arange(6))
    )

    logits = model(input_ids=group.inputs).logits
    if objective == "causal":
        full = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    else:
        labels = torch.where(group.where, ids, -100)
        full = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    model.zero_grad()
    (full / 3).backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    monkeypatch.setattr(losses, "_HEAD_ROWS", 5)
    assert losses.backward(model, group, 1 / 3).item() == pytest.approx(full.item(), rel=1e-5)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, atol=1e-5), name
    assert losses.cross_entropy(model, group)[0].item() == pytest.approx(full.item(), rel=1e-5)


def in_float64(tmp_path):
    """(model, groups with their rows, sentences with their masks one by one): three pairs in two groups and a half."""
    made = pretrain(tiny(layers=2, max_steps=1), CORPUS, tmp_path / "out")
    model = made.model.double().train()
    model.set_attn_implementation("eager")
    vocabulary, groups, singles = read_vocabulary(made.tokenizer), [], {}
    sentences = [TEXT[0], TEXT[500], "the red car", TEXT[7], "town road", "the king likes the old queen"]
    for rows in ([4, 2], [0, 5, 1], [3]):
        inputs = made.tokenizer([sentences[row] for row in rows], return_tensors="pt", padding=True)
        ids, attention = inputs["input_ids"], inputs["attention_mask"]
        ratio = 1e-9 if rows == [3] else 0.4  # a group without a masked token
        group = batches.mlm_group(ids, vocabulary, ratio, (1, 2), torch.tensor(rows), attention)
        groups.append((torch.tensor(rows), group))
        for i, row in enumerate(rows):
            real = attention[i].bool()
            singles[row] = group.inputs[i][real], ids[i][real], group.where[i][real]
    return model, groups, singles


@pytest.mark.parametrize(
    ("weight", "pooling", "near", "left_out"),
    [
        (0.3, "mean", 0.0, ()),
        (2.0, "mean", 0.0, [(0, 2), (1, 0)]),
        (1.0, "mean", 3.0, ()),
        (0.5, "cls", 3.0, ()),
    ],
)
def test_gradient_with_next_sentences_is_that_of_the_losses_written_out(
    tmp_path, monkeypatch, weight, pooling, near, left_out
):
    model, groups, singles = in_float64(tmp_path)
    terms, means, wrong = [], [], 0.0
    for row in range(6):
        masked, ids, where = singles[row]
        out = model(input_ids=masked[None], output_hidden_states=True)
        read = {"mean": slice(None), "cls": slice(1)}[pooling]
        means.append(out.hidden_states[-1][0][read].mean(0))
        terms += [-torch.log_softmax(out.logits[0, t], 0)[ids[t]] for t in range(len(ids)) if where[t]]
    assert len(terms) > 5
    for i in range(3):
        own = F.cosine_similarity(means[i], means[i + 3], dim=0) / 0.07
        forth = [F.cosine_similarity(means[i], means[j + 3], dim=0) / 0.07 for j in range(3) if (i, j) not in left_out]
        back = [F.cosine_similarity(means[j], means[i + 3], dim=0) / 0.07 for j in range(3) if (j, i) not in left_out]
        wrong += (torch.logsumexp(torch.stack(forth), 0) + torch.logsumexp(torch.stack(back), 0) - 2 * own) / 3
    target = torch.randn(6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    apart = sum(1 - F.cosine_similarity(means[i], target[i], dim=0) for i in range(6)) / 6
    model.zero_grad()
    (sum(terms) / len(terms) + weight * wrong / 2 + near * apart).backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    monkeypatch.setattr(losses, "_HEAD_ROWS", 2)
    sentence_loss = losses.SentenceLoss(pooling, weight, near, temperature=0.07)
    given = {"target_RH": target} if near else {}
    if left_out:
        given["left_out_BB"] = torch.tensor([[(i, j) in left_out for j in range(3)] for i in range(3)])
    total, contrast, found_apart = losses.backward_with_next(model, groups, sentence_loss, **given)
    assert found_apart.item() == pytest.approx(apart.item() if near else 0, rel=1e-9)
    assert total.item() == pytest.approx(sum(terms).item(), rel=1e-6)
    assert contrast.item() == pytest.approx(wrong.item() / 2, rel=1e-9)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-7, atol=1e-10), name
