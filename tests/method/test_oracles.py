"""Who checks the oracle: stock transformers for the networks, hand-computed numbers for the losses."""

import math
import random

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

from diffcse.method import draws

from .edit_loops import integer, uniform
from .oracles import (
    contrastive_loops,
    false_negatives_loops,
    mask_labels_loops,
    rtd_loops,
    spearman_loops,
    token_loss_loops,
    triplet_loops,
)
from .plain import masked_lm, plain_reference, project, transformer

STOCK = {
    "bert": (BertConfig, BertModel, BertForMaskedLM),
    "roberta": (RobertaConfig, RobertaModel, RobertaForMaskedLM),
}
families = pytest.mark.parametrize("family", STOCK)
CLS, MASK, VOCAB = 2, 3, 40


def make_config(family):
    return STOCK[family][0](
        vocab_size=VOCAB,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=24,
        initializer_range=0.4,
        attn_implementation="eager",
    )


def make_model(kind, config, **options):
    model = kind(config, **options).double().eval()
    with torch.no_grad():  # biases and LayerNorms start at 0 and 1, which would hide a mistake in them
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def make_batch(config):
    real = (torch.arange(9) < torch.tensor([9, 4, 6, 2])[:, None]).long()
    ids = torch.randint(4, VOCAB, real.shape).masked_fill(real == 0, config.pad_token_id)
    ids[:, 0] = CLS
    return ids, real


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@families
def test_transformer_is_the_stock_encoder(family):
    torch.manual_seed(0)
    config = make_config(family)
    model = make_model(STOCK[family][1], config, add_pooling_layer=False)
    ids, real = make_batch(config)
    stock = model(input_ids=ids, attention_mask=real).last_hidden_state
    close(transformer(family, config, model.state_dict(), ids, real.bool()), stock)


@families
def test_first_takes_the_place_of_position_0(family):
    torch.manual_seed(1)
    config = make_config(family)
    model = make_model(STOCK[family][1], config, add_pooling_layer=False)
    ids, real = make_batch(config)
    z = torch.randn(len(ids), config.hidden_size, dtype=torch.float64)

    def swap(module, args, output):  # after the embeddings' LayerNorm (and dropout, off in eval mode)
        return torch.cat([z[:, None], output[:, 1:]], dim=1)

    handle = model.embeddings.register_forward_hook(swap)
    stock = model(input_ids=ids, attention_mask=real).last_hidden_state
    handle.remove()
    close(transformer(family, config, model.state_dict(), ids, real.bool(), first=z), stock)


@families
def test_masked_lm_is_the_stock_head(family):
    torch.manual_seed(2)
    config = make_config(family)
    model = make_model(STOCK[family][2], config)
    ids, real = make_batch(config)
    stock = model(input_ids=ids, attention_mask=real).logits
    close(masked_lm(family, config, model.state_dict(), ids, real.bool()), stock)


def make_projector(size):
    layers = [nn.Linear(size, 2 * size, bias=False), nn.BatchNorm1d(2 * size), nn.ReLU()]
    layers += [nn.Linear(2 * size, size, bias=False), nn.BatchNorm1d(size, affine=False)]
    return nn.Sequential(*layers).double()


def test_project_is_the_torch_layers():
    torch.manual_seed(3)
    layers = make_projector(5)
    nn.init.normal_(layers[1].weight)
    nn.init.normal_(layers[1].bias)
    h = torch.randn(8, 5, dtype=torch.float64)
    close(project(layers.state_dict(), h), layers.train()(h))


@families
def test_plain_reference(family):
    """The method end to end on stock modules, and gradients for all that is trained and nothing else."""
    torch.manual_seed(4)
    config = make_config(family)
    _, body, with_lm = STOCK[family]
    f, d = (make_model(body, config, add_pooling_layer=False) for _ in range(2))
    generator, projector, head = make_model(with_lm, config), make_projector(12), nn.Linear(12, 2).double()
    ids, real = make_batch(config)
    masked = torch.cat([ids, ids])
    masked[0, 2] = masked[0, 5] = masked[3, 1] = masked[4, 7] = masked[5, 1] = MASK
    result = plain_reference(
        family=family,
        config=config,
        encoder=dict(f.named_parameters()),
        projector=dict(projector.named_parameters()),
        generator=generator.state_dict(),
        discriminator=dict(d.named_parameters()),
        head=dict(head.named_parameters()),
        input_ids=ids,
        attention_mask=real,
        masked_ids=masked,
        cls_id=CLS,
        pad_id=config.pad_token_id,
    )

    x, both = torch.cat([ids, ids]), torch.cat([real, real])
    z = projector(f(input_ids=x, attention_mask=both).last_hidden_state[:, 0])
    edited = generator(input_ids=masked, attention_mask=both).logits.argmax(-1)
    edited[:, 0] = CLS
    edited = torch.where(both.bool(), edited, config.pad_token_id)
    d.embeddings.register_forward_hook(lambda module, args, e: torch.cat([z[:, None], e[:, 1:]], dim=1))
    logits = head(d(input_ids=edited, attention_mask=both).last_hidden_state)
    labels = (edited != x).long()
    similarity = nn.functional.cosine_similarity(z[:4, None], z[None, 4:], dim=-1)
    contrastive = nn.functional.cross_entropy(similarity / 0.05, torch.arange(4))
    rtd = nn.functional.cross_entropy(logits.view(-1, 2), labels.view(-1))

    assert torch.equal(result.edited_ids, edited)
    assert torch.equal(result.labels, labels)
    assert 0 < labels.sum() < both.sum()
    close(result.z, z)
    close(result.logits, logits)
    close(result.contrastive, contrastive)
    close(result.rtd, rtd)
    close(result.total, contrastive + 0.005 * rtd)

    trained = [p for module in (f, projector, d, head) for p in module.parameters()]
    ours = torch.autograd.grad(result.total, trained)
    stock = torch.autograd.grad(contrastive + 0.005 * rtd, trained)
    for a, b in zip(ours, stock, strict=True):
        close(a, b)


def test_contrastive_by_hand():
    z = torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, 5.0], [1.0, 0.0]], dtype=torch.float64)
    # Unit vectors: view 1 (1, 0), (.6, .8); view 2 (0, 1), (1, 0). Cosines: row 1 = 0, 1; row 2 = .8, .6.
    # τ = .5 doubles them.
    row_1 = -math.log(math.exp(0.0) / (math.exp(0.0) + math.exp(2.0)))
    row_2 = -math.log(math.exp(1.2) / (math.exp(1.6) + math.exp(1.2)))
    assert contrastive_loops(z, 0.5).item() == pytest.approx((row_1 + row_2) / 2, abs=1e-12)
    assert (row_1 + row_2) / 2 == pytest.approx(1.519972, abs=1e-6)
    # One direction only: with the views exchanged it is another number.
    other = contrastive_loops(z[[2, 3, 0, 1]], 0.5).item()
    column_1, column_2 = math.log(1 + math.exp(1.6)), math.log(1 + math.exp(0.8))
    assert other == pytest.approx((column_1 + column_2) / 2, abs=1e-12)


def test_rtd_by_hand():
    three = math.log(3.0)
    rows = [[[0.0, 0.0], [three, 0.0], [9.0, 1.0]], [[0.0, three], [0.0, 0.0], [0.0, three]]]
    logits = torch.tensor(rows, dtype=torch.float64)
    labels = torch.tensor([[1, 1, 1], [1, 0, 0]])
    counted = torch.tensor([[True, True, False], [True, False, True]])
    # probabilities of the labels: 1/2, 1/4, (not counted); 3/4, (not counted), 1/4
    expected = -(math.log(1 / 2) + math.log(1 / 4) + math.log(3 / 4) + math.log(1 / 4)) / 4
    assert rtd_loops(logits, labels, counted).item() == pytest.approx(expected, abs=1e-12)


def test_losses_are_differentiable():
    torch.manual_seed(5)
    z = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: contrastive_loops(z, 0.3), z)
    logits = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    labels, counted = torch.tensor([[0, 1, 1], [0, 0, 1]]), torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    assert torch.autograd.gradcheck(lambda logits: rtd_loops(logits, labels, counted), logits)


def test_mask_labels():
    x, edited = torch.tensor([[2, 5, 6, 0], [2, 7, 0, 0]]), torch.tensor([[2, 5, 9, 8], [2, 4, 0, 0]])
    counted = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    assert mask_labels_loops(x, edited, counted).tolist() == [[0, 0, 1, 0], [0, 1, 0, 0]]


def test_spearman_with_ties_is_scipys():
    draw = random.Random(0)
    for _ in range(20):
        a = [draw.randint(0, 5) for _ in range(15)]
        b = [x + draw.randint(0, 4) for x in a]
        assert spearman_loops(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_triplets_by_hand():
    first, second, negative = torch.tensor(
        [[[1.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.6, 0.8]], [[0.0, 3.0], [1.0, 0.0]]], dtype=torch.float64
    )
    # τ = 1. Row 1: cosines 1 and .6 with the positives, 0 and 1 with the negatives; row 2: 0 and .8, 1 and 0.
    e = math.exp
    rows = [e(1) / (e(1) + e(0.6) + 2 * e(0) + e(1)), e(0.8) / (e(0) + e(0.8) + e(1) + 2 * e(0))]
    expected = -(math.log(rows[0]) + math.log(rows[1])) / 2
    assert triplet_loops(first, second, negative, 1.0, weight=math.log(2)).item() == pytest.approx(expected)
    rows = [e(1) / (e(1) + 1 + e(1)), e(0.8) / (e(0) + e(0.8) + e(1))]  # without (1, 2), and 2's own hard negative
    expected = -(math.log(rows[0]) + math.log(rows[1])) / 2
    assert triplet_loops(first, second, negative, 1.0, left_out={(0, 1), (1, 3)}).item() == pytest.approx(expected)
    torch.testing.assert_close(
        triplet_loops(first, second, None, 0.5), contrastive_loops(torch.cat([first, second]), 0.5)
    )


def test_false_negatives_by_hand():
    # Rows 0 and 2 share an anchor; 1's positive is 3's; 4's positive is 0's anchor; 3's negative is 1's positive.
    anchors, positives, negatives = "abacd", "pqrqa", "vwxqz"
    pairs = {(0, 2), (2, 0), (1, 3), (3, 1), (0, 4), (2, 4)}
    assert false_negatives_loops(anchors, positives) == pairs
    assert false_negatives_loops(anchors, positives, negatives) == pairs | {(1, 5 + 3), (3, 5 + 3)}


def test_token_loss_by_hand():
    logits = [torch.tensor([0.0, math.log(3)]), torch.tensor([0.0, 0.0])]
    assert token_loss_loops(logits, [1, 0]).item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 2)) / 2)


def test_numbers_of_a_place_are_the_methods():
    """`draws` itself is tested against exact integers; this holds that both mean the same address."""
    for row in (0, 7, 2**40 + 3):
        ours = draws.uniforms((42, 3, 1), torch.tensor([row]), 6)[0].tolist()
        assert ours == [uniform((42, 3, 1), row, position) for position in range(6)]
        ours = draws.integers((42, 3, 2), torch.tensor([row]), 6, 30)[0].tolist()
        assert ours == [integer((42, 3, 2), row, position, 30) for position in range(6)]
