"""Embeddings depend on the sentence alone: not on its neighbours, the batch, padding, or the mode of the model."""

import re
from dataclasses import replace
from functools import cache
from itertools import pairwise
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.modules import Pooling as ReferencePooling
from transformers import AutoModel

from diffcse.config import EncoderPooling
from diffcse.encoder import encode
from diffcse.encoder.encode import Encoder, position_limit, token_batches
from diffcse.encoder.load import load
from diffcse.errors import InputError
from diffcse.method.heads import pool
from tests.models import FAMILIES, SENTENCES, save_with_pooler, tiny_model

ODD = ["", "a", "\u00e9\U0001f600", "the cat " * 40, "\n\t", "\0"]


@cache
def tiny_encoder(family="bert", pooling="cls", max_tokens=64, dropout=0.1):
    model, tokenizer = tiny_model(family, masked_lm=False, dropout=dropout, layers=3)
    return Encoder(model, tokenizer, pooling, max_tokens)


def alone(encoder, sentence):
    """One sentence by itself: no padding, no batch; pooled by hand."""
    ids = encoder.tokenizer(sentence)["input_ids"]
    if len(ids) > encoder.max_tokens:
        ids = [*ids[: encoder.max_tokens - 1], ids[-1]]
    with torch.no_grad():
        states = encoder.model.eval()(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    if encoder.pooling == "cls":
        return states[-1][0, 0].numpy()
    other = {"mean": -1, "first_last": 1, "top2": -2}[encoder.pooling]
    return ((states[other][0] + states[-1][0]) / 2).mean(0).numpy()


@pytest.mark.parametrize("pooling", ["cls", "mean", "first_last", "top2"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_embedding_is_that_of_the_sentence_alone(family, pooling):
    encoder = tiny_encoder(family, pooling)
    sentences = [*SENTENCES[:30], *ODD]
    embeddings = encoder(sentences)
    assert embeddings.shape == (len(sentences), encoder.width)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, [alone(encoder, sentence) for sentence in sentences], atol=1e-5)
    assert np.linalg.norm(embeddings[0] - embeddings[1]) > 0.1


@pytest.mark.parametrize("batch_tokens", [1, 17, 60, 10**6])
def test_batches_change_nothing(batch_tokens):
    encoder = tiny_encoder(pooling="mean")
    np.testing.assert_allclose(encoder(SENTENCES, batch_tokens=batch_tokens), encoder(SENTENCES), atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "mpnet"])  # runs packed; does not
def test_batches_are_as_large_as_said(family, monkeypatch):
    monkeypatch.setattr(encode, "_EVEN", 1)
    encoder, sizes = tiny_encoder(family), []
    encoder(["a"])  # what it can do is tried out at its first call
    handle = encoder.model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        encoder(SENTENCES, batch_tokens=60)
    finally:
        handle.remove()
    tokens = sum(map(len, encoder.tokens(SENTENCES)))
    assert max(sizes) <= 60
    assert sum(sizes) == tokens if family == "bert" else sum(sizes) >= tokens


@given(st.lists(st.integers(1, 50)), st.integers(1, 200), st.booleans())
def test_each_row_is_in_one_batch(lengths, batch_tokens, packed):
    batches = token_batches(lengths, batch_tokens, packed=packed)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))

    def fits(rows):
        sizes = [lengths[row] for row in rows]
        padded = len(sizes) * max(sizes)
        return (sum(sizes) <= batch_tokens and padded <= 1.25 * batch_tokens) if packed else padded <= batch_tokens

    assert all(len(rows) == 1 or fits(rows) for rows in batches)
    for rows, following in pairwise(batches):  # no batch could have taken one row more
        assert not fits([*rows, following[0]])
        assert min(lengths[row] for row in rows) >= max(lengths[row] for row in following)


@pytest.mark.parametrize("bf16", [False, True])
def test_shapes_are_few(bf16):
    encoder, sizes = tiny_encoder(), []
    encoder(["a"])
    handle = encoder.model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    try:
        for count in range(1, 80):
            assert len(encoder(SENTENCES[:count], bf16=bf16)) == count
    finally:
        handle.remove()
    assert {rows for rows, _ in sizes} == {1}
    assert all(tokens % (64 if tokens >= 512 else 8) == 0 for _, tokens in sizes)
    assert max(sizes)[1] >= 512


def test_one_long_sentence_among_short_ones_does_not_widen_them():
    lengths = [512] + [6] * 600
    rows = token_batches(lengths, 4096, packed=True)[0]
    assert len(rows) * 512 <= 1.25 * 4096


def test_order_is_kept():
    encoder = tiny_encoder()
    np.testing.assert_allclose(encoder(SENTENCES[::-1])[::-1], encoder(SENTENCES), atol=1e-5)


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, pd.Series, iter, lambda texts: (t for t in texts), lambda texts: map(str, texts)]
)
def test_any_iterable_of_strings(kind):
    encoder = tiny_encoder()
    np.testing.assert_array_equal(encoder(kind(SENTENCES[:5])), encoder(SENTENCES[:5]))


def test_one_string_and_an_open_file(tmp_path):
    encoder = tiny_encoder()
    np.testing.assert_array_equal(encoder(SENTENCES[0]), encoder([SENTENCES[0]]))
    (tmp_path / "a.txt").write_text("\n".join([*SENTENCES[:3], "", SENTENCES[3]]))
    with (tmp_path / "a.txt").open() as file:
        np.testing.assert_allclose(encoder(file), encoder([*SENTENCES[:3], "", SENTENCES[3]]), atol=1e-6)


@pytest.mark.parametrize("nothing", [[], (), np.array([])])
def test_no_sentences(nothing):
    assert tiny_encoder()(nothing).shape == (0, 32)


def test_the_empty_sentence_is_its_special_tokens():
    encoder = tiny_encoder(pooling="mean")
    ids = torch.tensor([[encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id]])
    with torch.no_grad():
        expected = encoder.model.eval()(input_ids=ids).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(encoder([""])[0], expected, atol=1e-5)
    np.testing.assert_allclose(encoder([*SENTENCES, ""])[-1], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        (["a", None], "sentences[1] is a missing value"),
        (["a", float("nan")], "sentences[1] is a missing value"),
        (pd.Series(["a", None, "b"]), "sentences[1] is a missing value"),
        ([3.5], "sentences[0] is of type float"),
        ([b"a"], "sentences[0] is of type bytes"),
        ([["a", "b"]], "sentences[0] is of type list"),
        (["a", "b", "c\ud800"], "sentences[2] holds half of a surrogate pair"),
        (b"the cat", "sentences: one string"),
        (None, "sentences: a NoneType"),
        (3, "sentences: a int"),
        (np.array([["a", "b"]]), "sentences: a ndarray"),
        (pd.DataFrame({"title": ["a", "b"], "body": ["c", "d"]}), "the columns 'title', 'body'"),
        ({"title": ["a", "b"]}, "the columns 'title'"),
    ],
)
def test_what_is_no_sentence_is_named(sentences, message):
    with pytest.raises(InputError, match=re.escape(message)):
        tiny_encoder()(sentences)


@pytest.mark.parametrize("pooling", ["median", "", None, "CLS"])
def test_an_unknown_pooling(pooling):
    with pytest.raises(InputError, match=f"must be one of {', '.join(get_args(EncoderPooling))}"):
        replace(tiny_encoder(), pooling=pooling)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooling_is_that_of_sentence_transformers(pooling):
    torch.manual_seed(0)
    hidden, mask = torch.randn(5, 7, 32), (torch.arange(7) < torch.tensor([[7], [1], [3], [6], [2]])).long()
    reference = ReferencePooling(32, pooling)({"token_embeddings": hidden, "attention_mask": mask})
    torch.testing.assert_close(pool((hidden,), mask, pooling), reference["sentence_embedding"])


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "xlm-roberta"])
def test_the_checkpoints_own_head(family, tmp_path):
    save_with_pooler(tmp_path, family)
    encoder = load(tmp_path, pooling="pooler")
    model, tokenizer = AutoModel.from_pretrained(tmp_path).eval(), encoder.tokenizer
    found = encoder(SENTENCES[:9])
    for row, sentence in zip(found, SENTENCES, strict=False):
        with torch.no_grad():
            np.testing.assert_allclose(row, model(**tokenizer(sentence, return_tensors="pt"))[1][0], atol=1e-5)
    assert not np.allclose(found, load(tmp_path, pooling="cls")(SENTENCES[:9]), atol=0.1)


def test_a_head_that_is_not_there():
    with pytest.raises(
        InputError, match=r'this BertModel has no pooler head: load it with load\(\.\.\., pooling="pooler"'
    ):
        replace(load("mini", pooling="cls"), pooling="pooler")


def test_sentences_are_cut_at_max_tokens():
    encoder = tiny_encoder(max_tokens=8)
    long = "the cat sat on the mat by the fire"
    assert len(encoder.tokenizer(long)["input_ids"]) == 11
    same_start = "the cat sat on the mat and ran"
    embeddings = encoder([long, same_start, "the cat sat on the hill"])
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-6)
    assert np.abs(embeddings[0] - embeddings[2]).max() > 0.01
    np.testing.assert_allclose(embeddings[0], alone(encoder, long), atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_that_are_not_finite_are_refused(value):
    model, tokenizer = tiny_model("bert", masked_lm=False)
    encoder = Encoder(model, tokenizer, "mean", 64)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("dog")] = value
    assert encoder(["the cat"]).shape == (1, 32)
    with pytest.raises(InputError, match=r"sentence 3 .'the dog'.*diverged"):
        encoder(["the cat", "the cat", "the dog"])
    with pytest.raises(InputError, match=r"sentence 1 .*fp32"):
        encoder(["the dog"], bf16=True)


# Mode, randomness, precision


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_comes_back(training):
    encoder = tiny_encoder(dropout=0.5)
    encoder.model.train(training)
    state = torch.get_rng_state()
    first = encoder(SENTENCES[:10])
    assert encoder.model.training is training
    assert all(module.training is training for module in encoder.model.modules())
    np.testing.assert_array_equal(first, encoder(SENTENCES[:10]))
    np.testing.assert_allclose(first[0], alone(encoder, SENTENCES[0]), atol=1e-5)
    assert torch.equal(state, torch.get_rng_state())


def test_the_mode_comes_back_after_an_error():
    model, tokenizer = tiny_model("bert", masked_lm=False)
    encoder = Encoder(model.train(), tokenizer, "cls", 64)
    model.embeddings.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encoder(["a"])
    assert model.training


def test_the_model_can_be_trained_after_it_has_encoded():
    model, tokenizer = tiny_model("bert", masked_lm=False)
    Encoder(model, tokenizer, "cls", 64)(SENTENCES[:3])
    model(**tokenizer(["the cat"], return_tensors="pt")).last_hidden_state.sum().backward()
    assert model.embeddings.word_embeddings.weight.grad is not None


def test_normalised():
    encoder = tiny_encoder(pooling="mean")
    plain, unit = encoder(SENTENCES), replace(encoder, normalised=True)(SENTENCES)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean", "first_last", "top2"])
def test_bf16_is_close(pooling):
    encoder = replace(tiny_encoder(pooling=pooling), normalised=True)
    exact, fast = encoder(SENTENCES), encoder(SENTENCES, bf16=True)
    assert fast.dtype == np.float32
    assert (exact * fast).sum(1).min() > 0.999
    assert not np.array_equal(exact, fast)


def test_means_are_not_rounded_to_bf16():
    model, tokenizer = tiny_model("bert", masked_lm=False, positions=400)
    hidden = torch.randn(1, 301, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    model.forward = lambda input_ids, attention_mask: SimpleNamespace(last_hidden_state=hidden)
    model._supports_attention_backend = False  # or its forward would be asked for more
    found = Encoder(model, tokenizer, "mean", 301)(["the " * 299], bf16=True)
    np.testing.assert_allclose(found[0], hidden[0].float().mean(0), atol=1e-6)


def test_a_tokenizer_that_gives_no_attention_mask_by_default():
    model, tokenizer = tiny_model("bert", masked_lm=False)
    expected = Encoder(model, tokenizer, "mean", 64)(SENTENCES[:9])
    tokenizer.model_input_names = ["input_ids"]
    np.testing.assert_array_equal(Encoder(model, tokenizer, "mean", 64)(SENTENCES[:9]), expected)


def test_no_warnings(recwarn, caplog):
    tiny_encoder()(SENTENCES)
    assert [str(warning.message) for warning in recwarn] == []
    assert caplog.text == ""


# How long an input may be


@pytest.mark.parametrize("family", FAMILIES)
def test_the_position_limit_is_the_longest_input_that_runs(family):
    model, tokenizer = tiny_model(family, masked_lm=False, positions=24)
    tokenizer.model_max_length = int(1e30)
    assert position_limit(model, tokenizer) == 24
    ids = torch.full((1, 24), tokenizer.convert_tokens_to_ids("cat"))
    assert model(input_ids=ids).last_hidden_state.shape == (1, 24, 32)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.cat([ids, ids[:, :1]], dim=1))


def test_the_tokenizers_own_limit_counts():
    model, tokenizer = tiny_model("roberta", masked_lm=False, positions=24)
    tokenizer.model_max_length = 20
    assert position_limit(model, tokenizer) == 20
    assert type(position_limit(model, tokenizer)) is int
