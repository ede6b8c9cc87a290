"""Embeddings and cosines in one call are those of the encoder."""

import numpy as np
import pytest
import torch

import diffcse
from diffcse.encoder.encode import use_bf16
from diffcse.encoder.load import load
from diffcse.encoder.similarity import pair_cosines, to_unit
from diffcse.errors import InputError
from tests.models import SENTENCES, save_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"), "bert")


def test_encode(folder):
    encoder = load(folder, pooling="mean")
    expected = encoder(SENTENCES[:9])
    for model, options in ((encoder, {}), (folder, {"pooling": "mean"}), (str(folder), {"pooling": "mean"})):
        found = diffcse.encode(model, SENTENCES[:9], **options)
        assert (found.dtype, found.shape) == (np.float32, (9, 32))
        np.testing.assert_array_equal(found, expected)
    unit = diffcse.encode(encoder, SENTENCES[:9], normalise=True)
    np.testing.assert_allclose(unit, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    assert diffcse.encode(encoder, []).shape == (0, 32)
    assert not np.array_equal(diffcse.encode(encoder, SENTENCES[:9], precision="bf16"), expected)


def test_similarity_is_the_cosine_of_each_pair(folder):
    encoder = load(folder, pooling="mean")
    found = diffcse.similarity(encoder, SENTENCES[:3], SENTENCES[:5])
    assert (found.dtype, found.shape) == (np.float32, (3, 5))
    for i, u in enumerate(encoder(SENTENCES[:3])):
        for j, v in enumerate(encoder(SENTENCES[:5])):
            assert found[i, j] == pytest.approx(float(u @ v / np.linalg.norm(u) / np.linalg.norm(v)), abs=1e-5)


def test_another_pooling_than_a_loaded_encoders(folder):
    encoder = load(folder, pooling="mean")
    assert diffcse.encode(encoder, ["a"], pooling="mean").shape == (1, 32)
    with pytest.raises(InputError, match="pooling 'cls': this encoder pools by 'mean'"):
        diffcse.similarity(encoder, ["a"], ["b"], pooling="cls")


def test_cosines_of_pairs_a_line_each(folder):
    encoder = load(folder, pooling="mean")
    lines = [f"{a}\t{b}" for a, b in zip(SENTENCES[:5], SENTENCES[5:10], strict=True)]
    expected = diffcse.similarity(encoder, SENTENCES[:5], SENTENCES[5:10]).diagonal()
    np.testing.assert_allclose(list(pair_cosines(encoder, lines, "x")), expected, atol=1e-5)
    assert list(pair_cosines(encoder, [], "x")) == []
    for line, tabs in (("a", 0), ("", 0), ("3.5\ta\tb", 2)):
        with pytest.raises(InputError, match=f"pairs.tsv, line 6: {tabs} tabs"):
            list(pair_cosines(encoder, [*lines, line], "pairs.tsv"))


def test_cosines_that_are_not_finite_are_refused(folder):
    encoder = load(folder, pooling="mean")
    with torch.no_grad():
        encoder.model.get_input_embeddings().weight[encoder.tokenizer.convert_tokens_to_ids("dog")] = float("nan")
    for call in (
        lambda: list(pair_cosines(encoder, ["the cat\tthe mat", "the mat\tthe dog"], "pairs.tsv")),
        lambda: diffcse.similarity(encoder, ["the cat"], ["the mat", "the dog"]),
    ):
        with pytest.raises(InputError, match=r"(pairs\.tsv, line|sentence) 2 .*NaN"):
            call()


def test_a_row_of_zeros_has_no_direction():
    np.testing.assert_allclose(to_unit(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])


def test_precision_as_asked():
    assert use_bf16("bf16")
    assert not use_bf16("fp32")
    assert use_bf16("auto") in (True, False)
