"""TF-IDF by the formulas of its docstring, in loops."""

import gzip
import lzma
import math
import random
import re

import numpy as np
import pytest
from backports import zstd
from scipy import sparse

from diffcse.encoder.load import load
from diffcse.errors import InputError
from diffcse.evaluation.embeddings import cosines
from diffcse.evaluation.floors import Sif, TfIdf, input_embeddings, read_vectors
from tests.models import SENTENCES, save_tiny
from tests.mutations import flipped

CORPUS = ["The cat sat on the mat.", "A cat ran", "the dog ran and ran", "A cat ran"]


def words(sentence):
    return re.findall(r"\w\w+", sentence.lower())


def weights(sentence, corpus):
    known = {w for s in corpus for w in words(s)}
    frequency = {w: sum(w in words(s) for s in corpus) for w in known}
    return {
        w: (1 + math.log(words(sentence).count(w))) * (1 + math.log((1 + len(corpus)) / (1 + frequency[w])))
        for w in set(words(sentence)) & known
    }


def cosine_by_loop(a, b, corpus):
    u, v = weights(a, corpus), weights(b, corpus)
    lengths = math.sqrt(sum(x * x for x in u.values()) * sum(x * x for x in v.values()))
    return sum(u[w] * v[w] for w in u.keys() & v.keys()) / lengths if lengths else 0.0


def test_cosines_are_those_of_a_loop_over_distinct_sentences():
    first = [CORPUS[0], CORPUS[0], "the the cat", "zebra"]
    second = [CORPUS[1], CORPUS[2], "ran ran ran dog", CORPUS[0]]
    encode = TfIdf(CORPUS)
    rows = encode(first)
    assert sparse.issparse(rows)
    expected = [cosine_by_loop(a, b, CORPUS[:3]) for a, b in zip(first, second, strict=True)]
    assert cosines(rows, encode(second)) == pytest.approx(expected, abs=1e-9)
    assert np.allclose(sparse.linalg.norm(rows, axis=1), [1, 1, 1, 0])


@pytest.mark.parametrize("corpus", [[], ["a b", "?"]])
def test_a_corpus_without_words_is_refused(corpus):
    with pytest.raises(InputError, match="no word"):
        TfIdf(corpus)


# SIF

VECTORS = np.random.default_rng(0).normal(size=(4, 3))
IDS = {"a": 0, "b": 1, "c": 2, "d": 3}


def ids(sentences):
    return [[IDS[word] for word in sentence.split() if word in IDS] for sentence in sentences]


def test_sif_is_that_of_a_loop():
    corpus = ["a a b", "b c", "a a b", "?"]
    distinct = ["a a b", "b c", "?"]
    counts = {"a": 2, "b": 2, "c": 1}

    def mean(sentence):
        words = [word for word in sentence.split() if word in IDS]
        total = np.zeros(3)
        for word in words:
            total += 1e-3 / (1e-3 + counts.get(word, 0) / 5) * VECTORS[IDS[word]]
        return total / len(words) if words else total

    means = np.array([mean(sentence) for sentence in distinct])
    values, vectors = np.linalg.eigh(means.T @ means)
    u = vectors[:, np.argmax(values)]
    expected = [mean(s) - u * (u @ mean(s)) for s in ("c a", "d", "?")]
    expected = [row / (math.sqrt(row @ row) or 1) for row in expected]
    assert Sif(ids, VECTORS, corpus)(["c a", "d", "?"]) == pytest.approx(np.array(expected))
    kept = Sif(ids, VECTORS, corpus, components=0)(["c a"])
    assert kept[0] == pytest.approx(mean("c a") / math.sqrt(mean("c a") @ mean("c a")))


def test_sif_without_a_known_word_is_refused():
    with pytest.raises(InputError, match="words of 1 sentences"):
        Sif(ids, VECTORS, ["x y"])


def test_a_models_own_input_embeddings(tmp_path):
    encoder = load(save_tiny(tmp_path / "m", "bert"), pooling="mean")
    words, table = input_embeddings(encoder)
    assert table.shape == (len(encoder.tokenizer), 32)
    sentence = SENTENCES[0]
    tokens = encoder.tokenizer.tokenize(sentence)
    assert [encoder.tokenizer.convert_ids_to_tokens(i) for i in words([sentence])[0]] == tokens
    rows = Sif(words, table, SENTENCES)(SENTENCES[:3])
    assert rows.shape == (3, 32)
    assert cosines(rows[:1], rows[1:2])[0] < 0.99


@pytest.mark.parametrize("packed", [False, True])
def test_vectors_are_read_from_a_file(tmp_path, packed):
    text = "3 2\nthe 1 2\nCat 3 4.5\nzebra 9 9\n. . 5 6\n"
    path = tmp_path / ("v.txt.gz" if packed else "v.txt")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    words, table = read_vectors(path, ["The Cat sat ."])
    assert table.tolist() == [[1, 2], [3, 4.5]]  # ". ." is another word than "."
    assert words(["The Cat sat", "the the", "zebra"]) == [[0, 1], [0, 0], []]


@pytest.mark.parametrize(
    ("text", "message"),
    [("the 1 2\na 1 x\n", "v.txt, line 2: is not a word and 2 numbers"), ("the 1 nan\n", "line 1: holds NaN"),
     ("x 1 2\n", "no vector for any word"), (None, "cannot be read"),
     ("the 1 2 3\n\nb 4 5\na 1 2 3\n", "v.txt, line 3: has 2 numbers, the lines before 3")],
)  # fmt: skip
def test_bad_vectors_are_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "v.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_vectors(tmp_path / "v.txt", ["the a"])


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst", ""])
def test_damaged_vectors_are_an_error_that_names_the_file(tmp_path, ending):
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd.compress}.get(ending, bytes)
    data = pack("".join(f"word{i} {i} {i + 1}\n" for i in range(200)).encode() + b"the 1 2\n")
    path, rng, refused = tmp_path / f"v.txt{ending}", random.Random(9), 0
    for number in range(100):
        path.write_bytes(data[: rng.randrange(len(data))] if number % 5 == 0 else flipped(data, rng))
        try:
            read_vectors(path, ["the a"])
        except InputError as error:
            refused += str(error).startswith(str(path))
    assert refused > (50 if ending else 10)


def test_a_line_of_vectors_without_end(tmp_path):
    (tmp_path / "v.txt.gz").write_bytes(gzip.compress(b"the 1 2\n" + b"1 " * 10_000_000))
    with pytest.raises(InputError, match="line 2: more than"):
        read_vectors(tmp_path / "v.txt.gz", ["the"])
