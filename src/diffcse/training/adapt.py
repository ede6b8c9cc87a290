"""The recipe `adapt`: an encoder learns a field from the user's own text, without labels, and keeps its weights.

Three models of the text (`own_text`) know which texts belong together. Ridge regression R predicts their vectors from
the encoder's embeddings. The prediction is added to the encoder's own similarity, and the sum is again a dot product:

    M = (I + strength · R Rᵀ)^½        new embedding = M · old embedding, at length 1

M ships as a Dense layer after the encoder. Training all weights on the same task ruins a ready encoder, because it can
then copy words; one linear layer cannot (docs/log/2026-11-30-adapt.md).

Shape suffixes: N texts, H numbers of an embedding, K numbers of a text model's vector.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from diffcse.config import ADAPT_FEWEST, ADAPT_MOST, Config, Method, to_dict, to_toml
from diffcse.encoder.encode import BATCH_TOKENS, Encoder, check_finite, use_bf16
from diffcse.encoder.load import load, start_layout
from diffcse.encoder.save import save
from diffcse.errors import InputError
from diffcse.evaluation.sts import OWN_PAIRS
from diffcse.files import write_text
from diffcse.method.tail import Dense, Normalize
from diffcse.record import Record
from diffcse.text.corpus import Corpus
from diffcse.training import folder
from diffcse.training.card import adapt_card
from diffcse.training.folder import LAST, MODEL, RECIPE, RECORD, Report
from diffcse.training.network import pooling_warnings
from diffcse.training.own_text import Vectors, own_text_vectors, unit_rows
from diffcse.training.selection import compare, dev_judge

_TEXTS_A_DIMENSION, _PENALTY_OF_FEW = 8, 100.0
_AT_ONCE = 1024
SHOWN = 5
"""Texts whose nearest neighbours are shown before and after."""


def fit_map(start_NH: Vectors, target_NK: Vectors, *, strength: float, ridge: float) -> Vectors:
    """M, (H, H): the symmetric matrix that adds the predicted similarity to the start's.

    Args:
        start_NH: embeddings of length 1.
        target_NK: vectors of length 1 that R is to predict.
        strength: weight of the predicted similarity beside the start's.
        ridge: penalty of R, in units of the mean variance of `start_NH`.

    >>> same = np.eye(2, dtype=np.float32)
    >>> fit_map(same, same, strength=3.0, ridge=0.0).round(3).tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """
    gram_HH = start_NH.T.astype(np.float64) @ start_NH
    width = len(gram_HH)
    penalty = ridge * np.trace(gram_HH) / width * np.eye(width)
    r_HK = np.linalg.lstsq(gram_HH + penalty, start_NH.T.astype(np.float64) @ target_NK, rcond=None)[0]
    predicted_NK = start_NH @ r_HK
    r_HK /= max(np.sqrt((predicted_NK**2).sum(axis=1).mean()), 1e-12)
    values, vectors = np.linalg.eigh(np.eye(width) + strength * r_HK @ r_HK.T)
    return ((vectors * np.sqrt(values)) @ vectors.T).astype(np.float32)


def learn_map(texts: Sequence[str], start_NH: Vectors, method: Method, seed: int) -> Vectors:
    """M, (H, H), for `texts` and their embeddings, which have length 1.

    From few texts less can be learned safely: the models get fewer dimensions and the penalty rises.
    """
    size = max(2, min(method.map_size, len(texts) // _TEXTS_A_DIMENSION))
    ridge = max(method.map_ridge, _PENALTY_OF_FEW / len(texts))
    return fit_map(start_NH, own_text_vectors(texts, size, seed), strength=method.map_strength, ridge=ridge)


def with_map(encoder: Encoder, map_HH: Vectors) -> Encoder:
    """`encoder` followed by the map; its embeddings have length 1."""
    layers = [*encoder.tail, Normalize(), Dense(torch.from_numpy(map_HH))]
    return dataclasses.replace(encoder, tail=nn.Sequential(*layers).to(encoder.model.device), normalised=True)


def run_adapt(
    config: Config,
    corpus: Corpus,
    dev: Any,
    output: Path,
    data: dict[str, Any],
    report: Report,
    notes: Sequence[str] = (),
) -> Any:
    """Fit the map of `config` on `corpus`, judge it, and leave a complete folder at `output`.

    Args:
        notes: warnings of the caller, for the record.

    Returns:
        (encoder that ships, record). The start ships if the dev file says that the map made it worse, unless
        `training.select` is "last".

    Raises:
        InputError: too little text, a model that cannot be loaded, or `training.select` asks for another judge.
    """
    _check_select(config)
    began = time.perf_counter()
    method, seed = config.method, config.training.seed
    texts = _sample(corpus, seed)
    start = load(method.model, pooling=method.pooling)
    truncated, unknown = _unread(start, texts)
    warnings = [*notes, *_warnings(config, unknown)]
    record = Record(kind="train", config=to_dict(config), seed=seed, data=data, warnings=warnings)
    record.write(output / RECORD)
    write_text(output / RECIPE, to_toml(config))
    report("plan", {"lines": _plan(config, start, len(corpus), len(texts)), "warnings": record.warnings})
    bf16 = use_bf16(config.training.precision)
    report("phase", {"label": f"embedding {len(texts):,} texts"})
    whole = dataclasses.replace(start, settings=dataclasses.replace(start.settings, truncate_dim=None))
    start_NH = unit_rows(_embedded(whole, texts, bf16, report))
    report("phase", {"label": "learning from words, word parts and word pairs"})
    map_HH = learn_map(texts, start_NH, method, seed)
    adapted = with_map(start, map_HH)
    record.scores |= {"steps": 0, "sentences_seen": len(texts), "truncated": truncated, "shipped": "adapted"}
    shipped = adapted
    if dev is not None:
        record.scores["dev"] = judged = _judge(config, dev, start, adapted, bf16)
        if judged["selects"]:
            if judged["last"] < judged["start"]:
                shipped = start
                record.scores |= {"shipped": "start"}
            save(adapted, output / LAST, adapt_card(config, corpus, len(texts), record.scores | {"shipped": "adapted"}))
    record.scores["neighbours"] = neighbours(texts, start_NH, unit_rows(start_NH @ map_HH), seed)
    record.timing["seconds"] = time.perf_counter() - began
    save(shipped, output / MODEL, adapt_card(config, corpus, len(texts), record.scores))
    folder.finish(record, output)
    report("done", {"output": str(output), "examples": "texts", **record.scores, "sentences_seen": 0})
    return shipped, record


def _embedded(encoder: Encoder, texts: Sequence[str], bf16: bool, report: Report) -> Vectors:
    """Embeddings, (N, H); a report after every `_AT_ONCE` texts, since this takes most of the run's time."""
    parts = []
    with encoder.ready(bf16) as run:
        for first in range(0, len(texts), _AT_ONCE):
            part = texts[first : first + _AT_ONCE]
            parts.append(run(encoder.tokens(part), BATCH_TOKENS))
            report("embedded", {"done": first + len(part), "total": len(texts)})
    rows_NH = np.vstack(parts)
    check_finite(rows_NH, texts, bf16=bf16)
    return rows_NH


def _warnings(config: Config, unknown: float) -> list[str]:
    """What the user should know before the run; `unknown` is the share of tokens that the start does not know."""
    method = config.method
    warnings = []
    if unused := config.unused():
        warnings.append(f"{', '.join(unused)}: set, but without effect in this recipe")
    warnings += _pooling_warnings(method)
    if unknown > 0.1:
        warnings.append(
            f"method.model = {method.model}: does not know {unknown:.0%} of the tokens, and all unknown words look "
            "alike to it. Choose a model for the language of your text with --model"
        )
    if config.training.dev == OWN_PAIRS.stem:
        warnings.append(
            'training.dev = "pairs": pairs of program documentation, which do not know your field. They can refuse a '
            "map that helps it. Give pairs, labels or answers of your own"
        )
    return warnings


def _pooling_warnings(method: Method) -> list[str]:
    """A pooling that nobody stated, or another than the folder states: no training will make the weights fit it."""
    stated = start_layout(method.model).pooling
    if stated is None:
        return [
            f"method.pooling = {method.pooling}: {method.model} does not state its pooling, and with a wrong one its "
            "embeddings are poor. Choose with --pooling cls or --pooling mean"
        ]
    return pooling_warnings(method, stated)


def _unread(encoder: Encoder, texts: Sequence[str]) -> tuple[int, float]:
    """(how many texts have more tokens than the encoder reads, share of unknown tokens in all texts)."""
    longer = dataclasses.replace(encoder, max_tokens=encoder.max_tokens + 1)
    tokens = longer.tokens(texts)
    every = np.concatenate(tokens)
    return sum(len(ids) > encoder.max_tokens for ids in tokens), float(np.mean(every == encoder.tokenizer.unk_token_id))


def _check_select(config: Config) -> None:
    """Raises `InputError` where `training.select` asks for a judge that this recipe does not have."""
    training = config.training
    if training.select == "label_free":
        raise InputError(
            'training.select = "label_free": the recipe adapt holds no text out. Remove training.select, and give '
            "graded pairs, labels or answers with --dev"
        )
    if training.select == "labels" and training.dev is None:
        raise InputError('training.select = "labels": needs a dev file. Name it with training.dev (--dev)')


def _sample(corpus: Corpus, seed: int) -> list[str]:
    if len(corpus) < ADAPT_FEWEST:
        raise InputError(
            f"the corpus has {len(corpus):,} distinct texts, and the recipe adapt needs at least {ADAPT_FEWEST}. "
            "Give more text"
        )
    if len(corpus) <= ADAPT_MOST:
        return [corpus[index] for index in range(len(corpus))]
    chosen = np.random.default_rng([seed, 0x6D6170]).choice(len(corpus), ADAPT_MOST, replace=False)
    return [corpus[int(index)] for index in np.sort(chosen)]


def _judge(config: Config, dev: Any, start: Encoder, adapted: Encoder, bf16: bool) -> dict[str, Any]:
    """Scores of start and map by the dev file, with the interval of their difference; "best" is that of what ships."""
    judge = dev_judge(dev, config.training.dev)
    before, after = (judge.values(partial(encoder, bf16=bf16)) for encoder in (start, adapted))
    scores = judge.score(before), judge.score(after)
    selects = config.training.select != "last"
    return {
        **judge.source(),
        "metric": judge.metric,
        "start": scores[0],
        "best": max(scores) if selects else scores[1],
        "best_step": 0,
        "last": scores[1],
        "selects": selects,
        **compare(judge, before, after, 1),
    }


def _plan(config: Config, start: Encoder, texts: int, used: int) -> list[str]:
    """What will happen and why, each line with the option that changes it."""
    method, training = config.method, config.training
    part = "" if used == texts else f", {used:,} of them drawn by --seed {training.seed}"
    kind = "labels" if training.dev_label else "answers" if training.dev_answer else "graded pairs"
    judge = f"{kind} of {training.dev}; a layer with a lower score there is not shipped (--select last ships it)"
    if training.dev is None:
        judge = "nothing: the layer ships unmeasured. --dev FILE with 50 labelled or graded examples measures it"
    return [
        f"text     {texts:,} distinct texts{part}",
        f"start    {method.model}, {start.pooling} pooling, {start.width} numbers; its weights stay as they are",
        f"learns   one {start.width} x {start.width} layer behind it, from the words that this text shares",
        f"strength {method.map_strength:g}; --set method.map_strength=0.5 stays closer to the start",
        f"judge    {judge}",
        "instead  --recipe mini_difference trains all weights; that can harm an encoder that is already good",
    ]


def neighbours(texts: Sequence[str], before_NH: Vectors, after_NH: Vectors, seed: int) -> list[dict[str, str]]:
    """Texts whose nearest other text has changed, with both neighbours; at most `SHOWN`."""
    order = np.random.default_rng([seed, 1]).permutation(len(texts))[: 20 * SHOWN]
    nearest = []
    for rows_NH in (before_NH, after_NH):
        cosines = rows_NH[order] @ rows_NH.T
        cosines[np.arange(len(order)), order] = -np.inf
        nearest.append(cosines.argmax(axis=1))
    changed = [i for i, (a, b) in enumerate(zip(*nearest, strict=True)) if a != b][:SHOWN]
    return [{"text": texts[order[i]], "before": texts[nearest[0][i]], "after": texts[nearest[1][i]]} for i in changed]
