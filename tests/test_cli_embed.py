"""diffcse embed and diffcse similarity, as a person types them."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pyarrow import parquet

import diffcse
import diffcse.encoder.similarity  # before a test replaces what it imports
from diffcse.encoder.load import load
from diffcse.encoder.outputs import Form
from diffcse.errors import InputError
from tests.models import SENTENCES, save_tiny
from tests.test_cli import run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"), "bert")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join([*SENTENCES[:5], "", SENTENCES[0]]) + "\n")
    return path


def give_stdin(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))


def test_embed_writes_a_row_for_each_line(capsys, tiny, text, tmp_path, monkeypatch):
    give_stdin(monkeypatch, "the cat\n\n")
    options = ("--pooling", "mean", "--precision", "fp32", "--batch-tokens", 64)
    code, out, err = run(capsys, "embed", tiny, text, "-", "--output", tmp_path / "rows.npy", *options)
    assert (code, err) == (0, "")
    assert "pooling mean (as asked for)" in out
    assert "9 rows of 32 float32" in out
    lines = [*SENTENCES[:5], "", SENTENCES[0], "the cat", ""]
    np.testing.assert_allclose(np.load(tmp_path / "rows.npy"), load(tiny, pooling="mean")(lines), atol=1e-5)


@pytest.mark.parametrize("spelling", ["--normalize", "--normalise"])
def test_embed_normalised(capsys, tiny, text, tmp_path, spelling):
    assert run(capsys, "embed", tiny, text, "--output", tmp_path / "o.npy", "--pooling", "top2", spelling)[0] == 0
    np.testing.assert_allclose(np.linalg.norm(np.load(tmp_path / "o.npy"), axis=1), 1, atol=1e-5)


def test_embed_reads_as_told_and_says_what_it_changed(capsys, tiny, tmp_path):
    (tmp_path / "a.tsv").write_bytes("the cat\tx\nthe\u200b caf\u00e9\ty\n".encode("utf-16-le"))
    options = ("--encoding", "utf-16-le", "--columns", "text,label", "--quoting", "none", "--pooling", "mean")
    code, out, _ = run(capsys, "embed", tiny, tmp_path / "a.tsv", "--output", tmp_path / "o.npy", *options)
    assert (code, np.load(tmp_path / "o.npy").shape) == (0, (2, 32))
    assert "a.tsv, line 2" in out


def test_vectors_that_are_not_finite_are_refused(capsys, tiny, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("the cat\nthe dog\n")
    broken = load(tiny, pooling="mean")
    with torch.no_grad():
        broken.model.get_input_embeddings().weight[broken.tokenizer.convert_tokens_to_ids("dog")] = float("nan")
    monkeypatch.setattr("diffcse.encoder.load.load", lambda *_, **__: broken)
    (tmp_path / "b.txt").write_text("the cat\n")
    files = (tmp_path / "b.txt", tmp_path / "a.txt")
    for arguments, place in (
        (("embed", tiny, *files, "--output", tmp_path / "o.npy", "--precision", "fp32"), "a.txt, line 2 "),
        (("similarity", tiny, "the cat", "the dog"), "sentence 2 "),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, place in err, "nan" in out) == (2, True, False), err
    assert not (tmp_path / "o.npy").exists()


def test_embed_mistakes(capsys, tiny, text, tmp_path):
    out = tmp_path / "o.npy"
    for arguments, says in (
        ((tiny,), "no file"),
        ((tiny, text), "no output"),
        ((tiny, tmp_path / "no.txt", "--output", out), "no.txt does not exist"),
        ((tiny, text, "--output", tmp_path / "o.csv"), "must end in .npy or .parquet"),
        ((tiny, text, "--output", text), "is also an input"),
        ((tiny, tmp_path / "*.txt", "--output", text), "is also an input"),
        ((tiny, text, "--output", out), "choose with --pooling"),
        ((tiny, text, "--output", out, "--column", "text"), "has no columns"),
        ((tiny, text, "--output", out, "--batch-tokens", 0), "--batch-tokens 0"),
        ((tiny, text, "--output", out, "--workers", 0), "--workers 0"),
        ((tiny, text, "--output", out, "--keep", "id"), "--keep id"),
        ((tiny, text, "--output", tmp_path / "o.parquet", "--keep", "id"), "is plain text"),
        ((tiny, text, "--output", out, "--shard", "1/2"), "--shard: needs a folder"),
        ((tiny, text, "--output", out, "--check"), "--check: needs a folder"),
        ((tiny, text, "--output", tmp_path / "parts", "--check"), "manifest.json"),
        ((tiny, text, "--output", tmp_path / "parts", "--shard", "9/8"), "--shard 9/8"),
        ((tiny, "-", "--output", tmp_path / "parts"), "Write the text to a file"),
        ((tiny, text, "--output", out, "--pooling", "mean", "--prompt", "query"), "--prompt query"),
        ((tiny, text, "--output", out, "--pooling", "mean", "--truncate-dim", 33), "--truncate-dim 33"),
        ((tmp_path / "no", text, "--output", out), "no such folder"),
    ):
        code, _, err = run(capsys, "embed", *arguments)
        assert (code, err.count("\n"), says in err) == (2, 1, True), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt"]


def test_embed_keeps_columns_and_what_is_there(capsys, tiny, tmp_path):
    (tmp_path / "a.csv").write_text("title,id\nthe cat,7\nthe dog,8\n")
    command = ("embed", tiny, tmp_path / "a.csv", "--column", "title", "--keep", "id,title", "--pooling", "mean")
    out = tmp_path / "o.parquet"
    options = ("--output", out, "--prompt", "the ", "--truncate-dim", 8, "--precision", "fp32")
    assert run(capsys, *command, *options)[0] == 0
    table = parquet.read_table(out)
    assert table.drop_columns("embedding").to_pylist() == [
        {"id": "7", "title": "the cat", "text": "the cat"},
        {"id": "8", "title": "the dog", "text": "the dog"},
    ]
    expected = load(tiny, pooling="mean")(["the the cat", "the the dog"])[:, :8]
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), expected, atol=1e-5)
    code, _, err = run(capsys, *command, "--output", out)
    assert (code, "--overwrite" in err) == (2, True)
    assert run(capsys, *command, "--output", out, "--overwrite")[0] == 0
    assert len(parquet.read_table(out)["embedding"][0]) == 32


@pytest.mark.parametrize(("store", "columns"), [("int8", 32), ("binary", 4)])
def test_embed_stores_fewer_bits_and_says_what_they_cost(capsys, tiny, tmp_path, store, columns):
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES))
    options = ("--store", store, "--pooling", "mean", "--precision", "fp32")
    code, out, _ = run(capsys, "embed", tiny, tmp_path / "a.txt", "--output", tmp_path / "o.npy", *options)
    rows = np.load(tmp_path / "o.npy")
    assert (code, rows.dtype, rows.shape) == (0, np.int8, (80, columns))
    exact = load(tiny, pooling="mean")(SENTENCES)
    form = Form(32, store=store).calibrated(exact)
    np.testing.assert_array_equal(rows, form.stored(exact))
    assert f"{store} gives {form.recall(exact):.1%}" in out
    assert (tmp_path / "o.ranges.npy").exists() == (store == "int8")


def test_embed_writes_a_folder_of_parts_and_resumes_it(capsys, tiny, text, tmp_path):
    command = ("embed", tiny, text, "--output", tmp_path / "parts", "--rows-per-part", 2, "--pooling", "mean")
    code, out, _ = run(capsys, *command, "--shard", "1/2")
    assert (code, "2 parts are missing" in out) == (0, True)
    code, out, _ = run(capsys, *command)
    assert (code, "2 parts; 2 were there already" in out, "complete" in out) == (0, True, True)
    assert "7 rows in 4 parts, each row once" in run(capsys, *command, "--check")[1]
    assert "nothing to do (7 rows in 4 parts)" in run(capsys, *command)[1]
    (tmp_path / "parts/part-00003.parquet").unlink()
    code, _, err = run(capsys, *command, "--check")
    assert (code, "part-00003.parquet: missing" in err) == (2, True)


def test_a_stopped_run_says_what_its_folder_keeps(capsys, tiny, text, tmp_path, monkeypatch):
    command = ("embed", tiny, text, "--output", tmp_path / "parts", "--rows-per-part", 2, "--pooling", "mean")

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("diffcse.encoder.parts.embed_parts", stop)
        assert "stopped: nothing was complete yet.\n" in run(capsys, *command)[2]
    assert run(capsys, *command, "--shard", "1/2")[0] == 0
    monkeypatch.setattr("diffcse.encoder.parts.embed_parts", stop)
    code, _, err = run(capsys, *command)
    assert (code, "stopped: kept 3" in err) == (130, True)


def test_embed_in_python(tiny, text, tmp_path):
    options = {"pooling": "mean", "normalize": True}
    assert diffcse.embed(tiny, text, tmp_path / "parts", rows_per_part=3, **options) == 7
    assert diffcse.embed(tiny, str(text), tmp_path / "parts", rows_per_part=3, **options) == 0
    assert diffcse.embed(tiny, SENTENCES, tmp_path / "o.npy", **options) == 80
    with pytest.raises(InputError, match="go with files"):
        diffcse.embed(tiny, SENTENCES, tmp_path / "p.npy", column="text")
    with pytest.raises(InputError, match="Give the name of a file"):
        diffcse.embed(tiny, SENTENCES, tmp_path / "other", **options)


def test_two_sentences_give_one_number_that_can_be_piped_on(capsys, tiny):
    code, out, err = run(capsys, "similarity", tiny, SENTENCES[0], SENTENCES[1], "--pooling", "mean")
    u, v = load(tiny, pooling="mean")(SENTENCES[:2])
    assert code == 0
    assert float(out) == pytest.approx(float(u @ v / np.linalg.norm(u) / np.linalg.norm(v)), abs=1e-4)
    assert "pooling mean (as asked for)" in err


def test_more_sentences_give_a_table(capsys, tiny, monkeypatch):
    arguments = ("similarity", tiny, "--pooling", "mean")
    code, out, _ = run(capsys, *arguments, "the cat [b]", "the dog", "rain fell")
    assert code == 0
    assert "the cat [b]" in out
    give_stdin(monkeypatch, "the cat [b]\n\nthe dog\nrain fell\n")
    assert run(capsys, *arguments, "-")[1] == out
    give_stdin(monkeypatch, "\n".join(SENTENCES[:30]))
    code, out, _ = run(capsys, *arguments, "-")
    assert "nearest" in out
    assert all(sentence in out for sentence in SENTENCES[:30])


def test_pairs_of_a_file_give_one_cosine_a_line(capsys, tiny, tmp_path):
    (tmp_path / "pairs.tsv").write_text("the cat\tthe cat\nthe cat\tthe dog\n")
    code, out, _ = run(capsys, "similarity", tiny, "--file", tmp_path / "pairs.tsv", "--pooling", "mean")
    first, second = map(float, out.split())
    assert (code, first) == (0, 1)
    assert second < 1


def test_similarity_mistakes(capsys, tiny, tmp_path):
    (tmp_path / "pairs.tsv").write_text("a\tb\nc\n")
    for arguments, says in (
        ((tiny, "--pooling", "cls"), "0 sentences given"),
        ((tiny, "one", "--pooling", "cls"), "1 sentence given"),
        ((tiny, "one", "--file", tmp_path / "pairs.tsv"), "not both"),
        ((tiny, "--file", tmp_path / "no.tsv"), "does not exist"),
        ((tiny, "--file", tmp_path / "pairs.tsv", "--pooling", "cls"), "pairs.tsv, line 2: 0 tabs"),
    ):
        code, out, err = run(capsys, "similarity", *arguments)
        assert (code, says in err) == (2, True), err
        assert out == ""


def test_the_example_for_datasets_map(tiny):
    import datasets

    encoder = load(tiny, pooling="mean")
    rows = datasets.Dataset.from_dict({"text": SENTENCES})
    rows = rows.map(lambda batch: {"embedding": diffcse.encode(encoder, batch["text"])}, batched=True, batch_size=32)
    np.testing.assert_allclose(np.array(rows["embedding"]), encoder(SENTENCES), atol=1e-5)
