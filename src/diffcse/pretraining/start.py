"""Fresh weights that already know something: token vectors from the text, and a network too quiet to hide them.

Shape suffixes: V vocabulary, H width, N tokens, P pairs of sentences.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diffcse.method.edits import Vocabulary
from diffcse.pretraining.batches import Numbers, spread
from diffcse.pretraining.config import Pretraining
from diffcse.pretraining.models import INIT_RANGE
from diffcse.pretraining.token_vectors import (
    FILLING,
    as_embeddings,
    learn_from_next,
    ppmi_svd,
    sif_weights,
    with_own_directions,
)
from diffcse.pretraining.tokens import Tokens

Vectors = npt.NDArray[np.float32]

_COUNTED_TOKENS = 30_000_000
"""Tokens that are counted for the SVD, at most, evenly spread over the text."""
_QUIET_POSITIONS, _QUIET_LAYERS = 0.1, 0.5
"""Factors for fresh position vectors and layer outputs. At BERT's sizes their noise would hide the token vectors."""
_GATHERED = 4.0
"""Factor for the mean over all tokens where [CLS] reads it: in a mean, single tokens cancel each other out."""


def start_vectors(
    config: Pretraining, tokens: Tokens, training: Numbers, vocabulary: Vocabulary, pairs_P2: Numbers | None
) -> Vectors:
    """The token vectors that `start_embeddings` asks for: (V, width), or (V, width - FILLING) if they are learned."""
    if config.start_embeddings == "next_sentences" and pairs_P2 is not None:
        return _learned(config, tokens, training, vocabulary, pairs_P2)
    return _counted(config, tokens, training, vocabulary, config.width, _length(config))


def _length(config: Pretraining) -> float:
    """The expected length of a fresh token vector."""
    return INIT_RANGE * config.width**0.5


def _counted(
    config: Pretraining, tokens: Tokens, training: Numbers, vocabulary: Vocabulary, width: int, length: float
) -> Vectors:
    """Token vectors of that `length`, from counts of neighbouring tokens: (V, width)."""
    sizes = np.diff(tokens.offsets)
    share = _COUNTED_TOKENS / max(int(sizes[training].sum()), 1)
    counted = spread(training, max(1, int(share * len(training))))
    offsets = np.concatenate([[0], np.cumsum(sizes[counted])])
    ids_N = _ids_of(tokens, counted)
    return ppmi_svd(ids_N, offsets, vocabulary.size, width, length=length, skip=vocabulary.special, seed=config.seed)


def _ids_of(tokens: Tokens, sentences: Numbers) -> npt.NDArray[np.integer]:
    """All token ids of these sorted sentences, one after another: (N,)."""
    chosen = np.zeros(len(tokens), dtype=bool)
    chosen[sentences] = True
    return tokens.ids[np.repeat(chosen, np.diff(tokens.offsets))]


def _learned(
    config: Pretraining, tokens: Tokens, training: Numbers, vocabulary: Vocabulary, pairs_P2: Numbers
) -> Vectors:
    """Token vectors learned from next sentences, times their weights: (V, width - FILLING)."""
    vectors_VH = _counted(config, tokens, training, vocabulary, config.width - FILLING, 1.0)
    sif_V = sif_weights(_ids_of(tokens, training), len(vectors_VH))
    learned_VH, weight_V = learn_from_next(
        vectors_VH, sif_V, tokens.ids, tokens.offsets, pairs_P2[:, 0], pairs_P2[:, 1], seed=config.seed
    )
    for weights_V in (weight_V, sif_V):
        weights_V[list(vocabulary.special)] = 0  # [CLS] and [SEP] are in every sentence and mean nothing
    return with_own_directions(learned_VH * weight_V[:, None], sif_V, seed=config.seed)


@torch.no_grad()
def start_from_vectors(model: PreTrainedModel, config: Pretraining, words_VH: Vectors) -> None:
    """Write the vectors of `start_vectors` into a fresh model."""
    if config.start_embeddings == "next_sentences":
        words_VH = as_embeddings(words_VH, length=_length(config))
        _quieten(model)
        if config.pooling == "cls":
            _gather(model)
    weight = cast(Tensor, model.get_input_embeddings().weight)
    weight[: len(words_VH)] = torch.from_numpy(words_VH)


def _quieten(model: Any) -> None:
    """Make the mean-pooled embeddings of a fresh BERT nearly equal to the weighted sums of `as_embeddings`."""
    embeddings, layers = model.bert.embeddings, model.bert.encoder.layer
    for table in (embeddings.position_embeddings, embeddings.token_type_embeddings):
        table.weight.mul_(_QUIET_POSITIONS)
    for layer in layers:
        for part in (layer.attention.output, layer.output):
            part.dense.weight.mul_(_QUIET_LAYERS)
    layers[-1].output.LayerNorm.weight[-FILLING:] = 0  # these coordinates only bring all vectors to one length


def _gather(model: Any) -> None:
    """Make the [CLS] of a BERT after `_quieten` point to the weighted sum too.

    Fresh attention weighs all tokens alike. The last layer's values become the identity and are written `_GATHERED`
    times, so attention adds the mean of all tokens. The filling coordinates are left out: [CLS] itself has no weight
    and consists of them alone.
    """
    attention = model.bert.encoder.layer[-1].attention
    nn.init.eye_(attention.self.value.weight)
    attention.self.value.weight[-FILLING:] = 0
    nn.init.eye_(attention.output.dense.weight).mul_(_GATHERED)
