"""The whole `reference` preset with dropout off, on dictionaries of weights: no module, no hook, no packing.

An independent second writing of the method, for tests only. BERT and RoBERTa are spelled out here with plain
matrix products; `tests/method/test_oracles.py` holds them against transformers' own eager models.

B sentences, R = 2B rows (view 1 then view 2), T tokens, H hidden size.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .oracles import contrastive_loops, mask_labels_loops, rtd_loops

Weights = dict[str, Tensor]


class PlainResult(NamedTuple):
    total: Tensor
    contrastive: Tensor
    rtd: Tensor
    z: Tensor  # (R, H)
    edited_ids: Tensor  # x″ (R, T)
    labels: Tensor  # r (R, T)
    logits: Tensor  # (R, T, 2)


def plain_reference(
    *,
    family: str,
    config,
    encoder: Weights,
    projector: Weights,
    generator: Weights,
    discriminator: Weights,
    head: Weights,
    input_ids: Tensor,
    attention_mask: Tensor,
    masked_ids: Tensor,
    cls_id: int,
    pad_id: int,
    temperature: float = 0.05,
    rtd_weight: float = 0.005,
) -> PlainResult:
    """L = L_contrast + λ · L_rtd.

    `config` serves all three networks. `pad_id` is only what padding of x″ holds: the networks know
    `config.pad_token_id` for themselves.
    """
    x = torch.cat([input_ids, input_ids])
    real = torch.cat([attention_mask, attention_mask]).bool()

    # h = f(x), z = g(h)
    h = transformer(family, config, encoder, x, real)[:, 0]
    z = project(projector, h)

    # x″ = G(x′) at every position, then the start token and the padding put back; r = 1[x″ ≠ x]
    with torch.no_grad():
        edited_ids = masked_lm(family, config, generator, masked_ids, real).argmax(-1)
    edited_ids[:, 0] = cls_id
    edited_ids[~real] = pad_id
    labels = mask_labels_loops(x, edited_ids, real)

    # D(x″, z)
    logits = linear(head, "", transformer(family, config, discriminator, edited_ids, real, first=z))

    contrastive = contrastive_loops(z, temperature)
    rtd = rtd_loops(logits, labels, torch.ones_like(real))  # padding and position 0 count, as "original"
    return PlainResult(contrastive + rtd_weight * rtd, contrastive, rtd, z, edited_ids, labels, logits)


def project(w: Weights, h: Tensor) -> Tensor:
    """Linear(H, 2H) → BatchNorm → ReLU → Linear(2H, H) → BatchNorm without affine."""
    a = batch_norm(h @ w["0.weight"].T) * w["1.weight"] + w["1.bias"]
    return batch_norm(a.clamp(min=0) @ w["3.weight"].T)


def batch_norm(x: Tensor) -> Tensor:
    mean = x.mean(0)
    variance = ((x - mean) ** 2).mean(0)
    return (x - mean) / torch.sqrt(variance + 1e-5)


# --- BERT and RoBERTa -------------------------------------------------------------------------------------


def transformer(family, config, w: Weights, ids: Tensor, real: Tensor, first: Tensor | None = None) -> Tensor:
    """Last hidden state (R, T, H); `first` (R, H) takes position 0's place after the embedding LayerNorm."""
    pad = config.pad_token_id  # as in both families, its row is looked up but gets no gradient
    positions = position_ids(family, config, ids)
    e = (
        F.embedding(ids, w["embeddings.word_embeddings.weight"], pad)
        + F.embedding(positions, w["embeddings.position_embeddings.weight"], pad if family == "roberta" else None)
        + w["embeddings.token_type_embeddings.weight"][0]
    )
    s = layer_norm(w, "embeddings.LayerNorm.", e, config)
    if first is not None:
        s = torch.cat([first[:, None], s[:, 1:]], dim=1)
    for n in range(config.num_hidden_layers):
        p = f"encoder.layer.{n}."
        a = linear(w, p + "attention.output.dense.", attention(w, p + "attention.self.", s, real, config))
        s = layer_norm(w, p + "attention.output.LayerNorm.", s + a, config)
        m = linear(w, p + "output.dense.", gelu(linear(w, p + "intermediate.dense.", s)))
        s = layer_norm(w, p + "output.LayerNorm.", s + m, config)
    return s


def position_ids(family: str, config, ids: Tensor) -> Tensor:
    """BERT: 0, 1, 2, … RoBERTa: tokens that are not `pad` are numbered from pad + 1; `pad` tokens get pad."""
    if family == "bert":
        return torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    assert family == "roberta"
    pad = config.pad_token_id
    not_pad = (ids != pad).long()
    return pad + torch.cumsum(not_pad, dim=1) * not_pad


def attention(w: Weights, p: str, s: Tensor, real: Tensor, config) -> Tensor:
    """Each head on its own slice of the features; padding is never looked at, but does look."""
    q, k, v = linear(w, p + "query.", s), linear(w, p + "key.", s), linear(w, p + "value.", s)
    size = config.hidden_size // config.num_attention_heads
    heads = []
    for n in range(config.num_attention_heads):
        cut = slice(n * size, (n + 1) * size)
        scores = q[..., cut] @ k[..., cut].transpose(1, 2) / math.sqrt(size)  # (R, T query, T key)
        scores = scores.masked_fill(~real[:, None, :], -math.inf)
        heads.append(torch.softmax(scores, dim=-1) @ v[..., cut])
    return torch.cat(heads, dim=-1)


def masked_lm(family: str, config, w: Weights, ids: Tensor, real: Tensor, first: Tensor | None = None) -> Tensor:
    """Vocabulary logits (R, T, V). Stock decoders are tied: their weight is the word embedding."""
    prefix = f"{family}."
    body = {name.removeprefix(prefix): t for name, t in w.items() if name.startswith(prefix)}
    s = transformer(family, config, body, ids, real, first)
    if family == "bert":
        s = gelu(linear(w, "cls.predictions.transform.dense.", s))
        s = layer_norm(w, "cls.predictions.transform.LayerNorm.", s, config)
        bias = w["cls.predictions.bias"]
    else:
        s = gelu(linear(w, "lm_head.dense.", s))
        s = layer_norm(w, "lm_head.layer_norm.", s, config)
        bias = w["lm_head.bias"]
    return s @ body["embeddings.word_embeddings.weight"].T + bias


def linear(w: Weights, p: str, x: Tensor) -> Tensor:
    return x @ w[p + "weight"].T + w[p + "bias"]


def layer_norm(w: Weights, p: str, x: Tensor, config) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + config.layer_norm_eps) * w[p + "weight"] + w[p + "bias"]


def gelu(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))
