"""Row i is sentence i, whatever the number of blocks; a file is there whole or not at all."""

import tracemalloc
from contextlib import contextmanager, nullcontext
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from diffcse.encoder import inputs
from diffcse.encoder.encode import Encoder
from diffcse.encoder.stream import embed
from diffcse.errors import InputError
from tests.models import SENTENCES, tiny_model

TEXTS = [*SENTENCES[:20], "", SENTENCES[0], "", "é\U0001f600"]


@pytest.fixture(scope="module")
def encoder():
    model, tokenizer = tiny_model("bert", masked_lm=False)
    return Encoder(model, tokenizer, "mean", 64)


def read(path):
    """(rows, sentences or None) of either format."""
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False, mmap_mode="r"), None
    table = parquet.read_table(path)
    rows = np.array(table["embedding"].to_pylist(), dtype=np.float32).reshape(-1, 32)
    return rows, table["text"].to_pylist()


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_rows_are_the_sentences_in_order_empty_and_repeated_ones_too(encoder, tmp_path, monkeypatch, suffix, block):
    monkeypatch.setattr(inputs, "BLOCK", block)
    told, path = [], tmp_path / f"out{suffix}"
    assert embed(encoder, iter(TEXTS), path, report=told.append) == len(TEXTS)
    rows, texts = read(path)
    np.testing.assert_allclose(rows, encoder(TEXTS), atol=1e-5)
    assert (rows.dtype, rows.shape) == (np.float32, (len(TEXTS), 32))
    assert texts in (None, TEXTS)
    assert told == [*range(block, len(TEXTS), block), len(TEXTS)]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_no_sentences(encoder, tmp_path, suffix):
    assert embed(encoder, [], tmp_path / f"out{suffix}") == 0
    assert read(tmp_path / f"out{suffix}")[0].shape == (0, 32)


def test_normalised(encoder, tmp_path):
    embed(encoder, TEXTS, tmp_path / "out.npy", normalise=True)
    rows = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_the_pooling_stands_in_the_parquet_file(encoder, tmp_path):
    embed(encoder, TEXTS, tmp_path / "out.parquet")
    schema = parquet.read_schema(tmp_path / "out.parquet")
    assert schema.metadata[b"diffcse.pooling"] == b"mean"
    assert parquet.ParquetFile(tmp_path / "out.parquet").metadata.num_row_groups == 1


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_what_goes_wrong_on_the_way_leaves_the_older_file(encoder, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(inputs, "BLOCK", 2)
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"old")

    def sentences(error):
        yield from TEXTS[:5]
        raise error

    for error in (InputError("line 6"), KeyboardInterrupt(), OSError(28, "No space left on device")):
        with pytest.raises(InputError if isinstance(error, OSError) else type(error)):
            embed(encoder, sentences(error), path, overwrite=True)
        assert path.read_bytes() == b"old"
        assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_other_suffixes(encoder, tmp_path):
    for name in ("out", "out.csv", "out.npz"):
        with pytest.raises(InputError, match=r"the output must end in \.npy or \.parquet"):
            embed(encoder, TEXTS, tmp_path / name)


class Quick:
    """Stands for an encoder of 256 dimensions that costs no time; a row says its sentence's number."""

    width, pooling, max_tokens = 256, "mean", 64

    def tokens(self, sentences):
        return [np.array([int(sentence)]) for sentence in sentences]

    @contextmanager
    def ready(self, bf16):
        yield lambda tokens, batch_tokens: np.repeat(np.array(tokens, dtype=np.float32), 256, axis=1)


@pytest.mark.parametrize("place", [1, 4, 6])
def test_an_embedding_that_is_not_finite_is_named_and_nothing_is_written(tmp_path, monkeypatch, place):
    monkeypatch.setattr(inputs, "BLOCK", 2)
    encoder = Quick()
    numbers = ["1"] * 7
    numbers[place - 1] = "7"
    encoder.ready = lambda bf16: nullcontext(
        lambda tokens, batch_tokens: np.array([[np.nan if ids[0] == 7 else 1.0] * 256 for ids in tokens], np.float32)
    )
    (tmp_path / "out.npy").write_bytes(b"old")
    with pytest.raises(InputError, match=f"sentence {place} "):
        embed(encoder, numbers, tmp_path / "out.npy", overwrite=True)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("out.npy", b"old")]


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "BLOCK", 1024)
    taken, ahead = [0], []

    def sentences():
        for number in range(60_000):
            taken[0] += 1
            yield str(number)

    tracemalloc.start()
    embed(Quick(), sentences(), tmp_path / "out.npy", report=lambda done: ahead.append(taken[0] - done))  # 61 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy", mmap_mode="r")[:, 0], np.arange(60_000))
    assert max(ahead) <= 3 * 1024
    assert peak < 12e6


@given(st.integers(0, 40), st.integers(1, 50), st.integers(1, 60))
def test_any_blocks_keep_the_order(tmp_path_factory, count, block, characters):
    path = tmp_path_factory.getbasetemp() / "blocks.npy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "BLOCK", block)
        patch.setattr(inputs, "_BLOCK_CHARACTERS", characters)
        told = []
        assert embed(Quick(), map(str, range(count)), path, report=told.append, overwrite=True) == count
    assert np.load(path)[:, 0].tolist() == [*range(count)]
    assert told == sorted(set(told))
    assert all(after - before <= block for before, after in pairwise([0, *told]))


def test_a_wrong_sentence_is_told_by_its_number_among_all(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "BLOCK", 2)
    with pytest.raises(InputError, match=r"sentences\[5\] is a missing value"):
        embed(Quick(), [*"01234", None], tmp_path / "out.npy")
    with pytest.raises(InputError, match="workers = 0: must be at least 1"):
        embed(Quick(), [], tmp_path / "out.npy", workers=0)
    with pytest.raises(InputError, match="one string was given"):
        embed(Quick(), "One sentence.", tmp_path / "out.npy")
    assert [*tmp_path.iterdir()] == []
