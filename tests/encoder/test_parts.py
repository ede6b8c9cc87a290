"""A folder of parts has every row once, whatever was killed, run again or run at the same time."""

import json
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from pyarrow import parquet

from diffcse.encoder import parts
from diffcse.encoder.encode import Encoder
from diffcse.encoder.inputs import Sentences
from diffcse.encoder.manifest import Shard, agree, check, part_files
from diffcse.encoder.parts import embed_parts
from diffcse.errors import InputError
from tests.models import SENTENCES, tiny_model

TEXTS = [*SENTENCES[:20], "", SENTENCES[0], "é\U0001f600"]


@pytest.fixture(scope="module")
def encoder():
    model, tokenizer = tiny_model("bert", masked_lm=False)
    return Encoder(model, tokenizer, "mean", 64)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return path


def write(encoder, text, folder, size=4, **options):
    return embed_parts(encoder, Sentences([text]), folder, rows_per_part=size, **options)


def read(folder):
    table = parquet.read_table([*part_files(folder).values()])
    rows = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    return table["id"].to_pylist(), table["text"].to_pylist(), rows


def test_parts_hold_the_rows_in_order(encoder, text, tmp_path):
    told = []
    written = write(encoder, text, tmp_path / "out", report=lambda done, total: told.append((done, total)))
    ids, texts, rows = read(tmp_path / "out")
    assert (ids, texts) == (list(range(len(TEXTS))), TEXTS)
    np.testing.assert_allclose(rows, encoder(TEXTS), atol=1e-5)
    assert (written.rows, written.written, written.present, written.missing) == (23, 6, 0, 0)
    assert (told[0], told[-1]) == ((0, 23), (23, 23))
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert [entry["rows"] for entry in manifest["parts"]] == [4] * 5 + [3]
    assert check(tmp_path / "out", Sentences([text])) == (6, 23)


@pytest.mark.parametrize("numbers", [[1, 2, 3], [0, 1, 2], [2, 0, 1, 1]])
def test_shards_share_a_folder_whichever_number_is_the_first(encoder, text, tmp_path, numbers):
    results = [write(encoder, text, tmp_path / "out", shard=Shard.of(f"{i}/3")) for i in numbers]
    assert read(tmp_path / "out")[:2] == (list(range(len(TEXTS))), TEXTS)
    assert [result.missing for result in results][:3] == [4, 2, 0]
    assert check(tmp_path / "out", Sentences([text])) == (6, 23)


def test_a_second_run_writes_what_is_missing_and_nothing_else(encoder, text, tmp_path):
    write(encoder, text, tmp_path / "out")
    (tmp_path / "out/part-00002.parquet").unlink()
    (tmp_path / "out/.part-00002.parquet.4194301.partial").write_bytes(b"of a killed process")
    before = {path.name: path.stat().st_mtime_ns for path in part_files(tmp_path / "out").values()}
    told = []
    written = write(encoder, text, tmp_path / "out", report=lambda done, total: told.append((done, total)))
    assert (written.rows, written.written, written.present) == (4, 1, 5)
    assert told == [(0, 4), (4, 4)]
    after = {path.name: path.stat().st_mtime_ns for path in part_files(tmp_path / "out").values()}
    assert {name: time for name, time in after.items() if name in before} == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", *sorted(after)]


def test_an_error_leaves_whole_parts_alone(encoder, text, tmp_path, monkeypatch):
    real = parts.ParquetWriter.write

    def fail(self, batch, rows):
        if batch.first >= 8:
            raise KeyboardInterrupt
        real(self, batch, rows)

    monkeypatch.setattr(parts.ParquetWriter, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        write(encoder, text, tmp_path / "out")
    assert [*part_files(tmp_path / "out")] == [0, 1]
    assert not [*(tmp_path / "out").glob(".part*")]


def test_two_processes_that_write_the_same_parts(encoder, text, tmp_path):
    """The slower process replaces a part by an equal part."""
    slow = parts._Parts.close
    other = threading.Event()

    def close(self):
        if not other.is_set():
            other.set()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("diffcse.files.os.getpid", lambda: 1)  # names the other process's unfinished files
                write(encoder, text, tmp_path / "out")
        slow(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts._Parts, "close", close)
        write(encoder, text, tmp_path / "out")
    assert read(tmp_path / "out")[0] == list(range(len(TEXTS)))
    assert check(tmp_path / "out", Sentences([text])) == (6, 23)


def test_another_model_input_or_setting_is_refused_by_name(encoder, text, tmp_path):
    folder = tmp_path / "out"
    write(encoder, text, folder)
    model, tokenizer = tiny_model("bert", masked_lm=False, seed=1)
    other = tmp_path / "other.txt"
    other.write_text(text.read_text().replace("cat", "cow"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    for wrong, says in (
        (lambda: write(Encoder(model, tokenizer, "mean", 64), text, folder), "another model"),
        (lambda: write(Encoder(encoder.model, encoder.tokenizer, "cls", 64), text, folder), "--pooling mean"),
        (lambda: write(encoder, text, folder, size=5), "--rows-per-part 4"),
        (lambda: write(encoder, text, folder, normalise=True), "--normalize False"),
        (lambda: write(encoder, text, folder, store="int8"), "--store float32"),
        (lambda: agree(folder, {"settings": {"keep": ["id"]}}, {"keep": []}), "with --keep id; now --keep is missing"),
        (lambda: agree(folder, {"settings": {"keep": []}}, {"keep": ["id"]}), "without --keep; now it is id"),
        (lambda: write(encoder, text, folder, bf16=True), "--precision fp32"),
        (lambda: write(encoder, other, folder), "other.txt"),
        (lambda: embed_parts(encoder, Sentences([text, other]), folder, rows_per_part=4), "1 input files, not 2"),
        (lambda: write(encoder, text, folder, overwrite=True, shard=Shard(1, 2)), "--overwrite"),
        (lambda: write(encoder, text, tmp_path / "full"), "no manifest.json"),
        (lambda: Shard.of("5/4"), "--shard 5/4"),
        (lambda: Shard.of("4"), "--shard 4"),
    ):
        with pytest.raises(InputError, match=says):
            wrong()
    assert check(folder, Sentences([text])) == (6, 23)
    text.touch()
    assert write(encoder, text, folder).rows == 0  # the content counts, not the time
    assert write(encoder, other, folder, overwrite=True).rows == 23


def test_check_finds_what_is_wrong(encoder, text, tmp_path):
    folder = tmp_path / "out"
    write(encoder, text, folder)
    first, second = [*part_files(folder).values()][:2]
    whole = first.read_bytes()
    for damage, says in (
        (lambda: first.unlink(), "part-00000.parquet: missing"),
        (lambda: first.write_bytes(second.read_bytes()), "part-00000.parquet: its part"),
        (lambda: first.write_bytes(whole[:500]), "part-00000.parquet: not a whole part"),
        (lambda: (folder / "part-00009.parquet").write_bytes(whole), "part-00009.parquet: has no rows"),
    ):
        damage()
        with pytest.raises(InputError, match=says):
            check(folder, Sentences([text]))
        first.write_bytes(whole)


def test_stored_numbers_and_kept_columns(encoder, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("text,id\n" + "".join(f'"{text}",x{i}\n' for i, text in enumerate(TEXTS)))
    for shard in ("1/2", "2/2"):
        embed_parts(
            encoder, Sentences([table], keep=["id"]), tmp_path / "out", rows_per_part=4, store="int8",
            shard=Shard.of(shard), normalise=True,
        )  # fmt: skip
    written = parquet.read_table([*part_files(tmp_path / "out").values()])
    assert written["id"].to_pylist() == [f"x{i}" for i in range(len(TEXTS))]
    assert str(written.schema.field("embedding").type).startswith("fixed_size_list<element: int8>[32]")
    low, high = np.array(json.loads(written.schema.metadata[b"diffcse.ranges"]))
    rows = low + (np.array(written["embedding"].to_pylist()) + 128.5) * (high - low) / 255
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=0.02)
    assert check(tmp_path / "out", Sentences([table], keep=["id"])) == (6, 23)


@pytest.mark.parametrize("size", [1, 4])
def test_a_row_that_fails_ends_the_run_before_its_part_appears(encoder, text, tmp_path, monkeypatch, size):
    real = Encoder.ready

    @contextmanager
    def broken(self, bf16=False):
        with real(self, bf16) as run:
            yield lambda tokens, most: run(tokens, most) * (np.nan if len(tokens[0]) == len(longest) else 1)

    longest = max(encoder.tokens(TEXTS), key=len)
    monkeypatch.setattr("diffcse.encoder.inputs.BLOCK", 1)
    monkeypatch.setattr(Encoder, "ready", broken)
    with pytest.raises(InputError, match=r"text.txt, line 18 "):
        write(encoder, text, tmp_path / "out", size=size)
    assert [*part_files(tmp_path / "out")] == [*range(17 // size)]
