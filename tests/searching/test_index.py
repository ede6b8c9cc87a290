"""An index on disk: what it answers, what changes it, what it refuses, and what a kill leaves."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import diffcse
from diffcse import Index, InputError
from diffcse.encoder.load import load
from diffcse.encoder.outputs import to_unit
from diffcse.searching.hits import search
from tests.models import SENTENCES, WORDS, save_tiny

RNG = np.random.default_rng(0)
TEXTS = list(dict.fromkeys([*SENTENCES, *(" ".join(RNG.choice(WORDS, 6)) for _ in range(300))]))
NUMBERS = list(range(len(TEXTS)))
TABLE = {"text": TEXTS, "number": NUMBERS, "lang": ["en" if n % 3 else "de" for n in NUMBERS]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"), "bert")


@pytest.fixture(scope="module")
def tiny(folder):
    return load(folder, pooling="mean")


@pytest.fixture(scope="module")
def shared(tiny, tmp_path_factory):
    """For tests that only search."""
    return Index.build(TABLE, tmp_path_factory.mktemp("shared") / "index", model=tiny, keep=["number", "lang"])


def ranking(tiny, query, rows=NUMBERS):
    """The rows by cosine, compared one by one; the oracle."""
    made = to_unit(tiny([query, *TEXTS]))
    return sorted(rows, key=lambda row: (-float(made[0] @ made[1 + row]), row))


def test_exact_search_equals_the_loop_and_search_in_memory(shared, tiny):
    queries = ["the cat", TEXTS[17]]
    for query, hits in zip(queries, shared.search(queries, k=7), strict=True):
        assert [hit.row for hit in hits] == ranking(tiny, query)[:7]
        assert [hit.rank for hit in hits] == list(range(1, 8))
        assert all((hit.text, hit.columns["number"]) == (TEXTS[hit.row], hit.row) for hit in hits)
        in_memory = diffcse.search(TEXTS, query, model=tiny, k=7)
        assert [hit.row for hit in in_memory] == [hit.row for hit in hits]
        assert [hit.score for hit in in_memory] == pytest.approx([hit.score for hit in hits], abs=1e-6)
    assert len(shared.search("the cat", k=10_000)) == len(shared) == len(TEXTS)


def test_a_filter_keeps_the_types_of_columns(shared, tiny):
    hits = shared.search("the cat", k=5, where="lang = 'de' AND number > 100")
    assert [hit.row for hit in hits] == ranking(tiny, "the cat", [n for n in NUMBERS if n % 3 == 0 and n > 100])[:5]
    assert shared.search("the cat", where="number < 0") == []
    assert shared.search("the cat", where="lang = 'a;b'") == []


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("langs = 'en'", "no column 'langs'.*lang \\(string\\)"),
        ('lang = "en"', "no column 'en'.*single quotes"),
        ("lang =", "not a filter"),
        ("number = 'x'", "number holds numbers.*number \\(int64\\)"),
        ("lang", "not a filter"),
        ("lang = 'en'; number > 3", "not a filter.*semicolon"),
        ("", "not a filter"),
    ],
)
def test_what_is_no_filter(shared, where, says):
    with pytest.raises(InputError, match=f"--where .*{says}") as caught:
        shared.search("the cat", where=where)
    assert "/src/" not in str(caught.value)
    with pytest.raises(InputError, match=f"--delete .*{says}"):
        shared.delete(where)


def test_what_is_no_query(shared):
    for queries, k, says in (
        ("", 1, "query"),
        ([" "], 1, "query"),
        (["a", ""], 1, "query 2"),
        ("a", 0, "k = 0"),
        ([], 1, "no query"),
    ):
        with pytest.raises(InputError, match=says):
            shared.search(queries, k)


def test_hybrid_joins_both_rankings_by_reciprocal_ranks(tiny, tmp_path):
    texts = [*TEXTS[:40], "zebra crossing", "a zebra"]
    index = Index.build(texts, tmp_path / "index", model=tiny)
    near = [hit.row for hit in index.search("zebra", k=100)]
    words = [41, 40]  # BM25: the shorter text first
    scores = {row: sum(1 / (60 + order.index(row) + 1) for order in (near, words) if row in order) for row in range(42)}
    hits = index.search("zebra", k=5, hybrid=True)
    assert [hit.row for hit in hits] == sorted(scores, key=lambda row: (-scores[row], row))[:5]
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores.values(), reverse=True)[:5], abs=1e-6)
    for odd in ('"cat"', "c++ AND (", "!!!", "the of"):
        assert len(index.search(odd, k=3, hybrid=True)) == 3


def test_add_and_delete(tiny, tmp_path):
    index = Index.build(TABLE, tmp_path / "index", model=tiny, keep=["number", "lang"])
    before = Index.open(tmp_path / "index", model=tiny)
    assert index.add({"text": ["a new zebra"], "number": [1000], "lang": ["fr"]}) == 1
    assert index.search("a new zebra", k=1, hybrid=True)[0].columns == {"number": 1000, "lang": "fr"}
    assert index.search("a new zebra", k=1)[0].row == len(TEXTS)
    assert index.delete("number < 1000 AND lang = 'de'") == sum(n % 3 == 0 for n in NUMBERS)
    assert index.delete("lang = 'de'") == 0
    assert index.add({"text": ["one more"], "number": [1], "lang": ["fr"]}) == 1
    assert index.search("one more", k=1)[0].row == len(TEXTS) + 1
    again = Index.open(tmp_path / "index", model=tiny)
    assert len(again) == len(index) == sum(n % 3 != 0 for n in NUMBERS) + 2
    assert len(before) == len(before.search("cat", k=1000)) == len(TEXTS)  # reads its version on
    with pytest.raises(InputError, match=r"'number'.*int64"):
        index.add({"text": ["x"], "number": ["many"], "lang": ["fr"]})
    with pytest.raises(InputError, match="no column 'lang'"):
        index.add({"text": ["x"], "number": [1]})
    assert len(Index.open(tmp_path / "index")) == len(again)


def test_queries_get_the_query_prompt_and_documents_theirs(tiny, tmp_path):
    prompts = {"query": "dog ", "passage": "cat "}
    prompted = replace(tiny, settings=replace(tiny.settings, prompts=prompts))
    index = Index.build(TEXTS[:20], tmp_path / "index", model=prompted)
    expected = to_unit(tiny(["dog the hill"])) @ to_unit(tiny([f"cat {text}" for text in TEXTS[:20]])).T
    hits = index.search("the hill", k=20)
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected[0].tolist(), reverse=True), abs=1e-5)
    record = json.loads((tmp_path / "index" / "index.json").read_text())
    assert (record["query_prompt"], record["document_prompt"], record["prompts"]) == ("query", "passage", prompts)
    assert search(TEXTS[:20], "the hill", model=prompted, k=1)[0].row == hits[0].row


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_the_similarity_of_the_encoder(tiny, tmp_path, similarity):
    encoder = replace(tiny, settings=replace(tiny.settings, similarity=similarity))
    made = tiny(["the cat", *TEXTS[:30]])
    scores = made[1:] @ made[0] if similarity == "dot" else -np.linalg.norm(made[1:] - made[0], axis=1)
    for hits in (
        Index.build(TEXTS[:30], tmp_path / "index", model=encoder).search("the cat", k=30),
        search(TEXTS[:30], "the cat", model=encoder, k=30),
    ):
        assert [hit.score for hit in hits] == pytest.approx([float(scores[hit.row]) for hit in hits], abs=1e-3)
        assert [hit.row for hit in hits] == np.argsort(-scores, kind="stable").tolist()
    manhattan = replace(tiny, settings=replace(tiny.settings, similarity="manhattan"))
    with pytest.raises(InputError, match="manhattan"):
        Index.build(TEXTS, tmp_path / "other", model=manhattan)


def test_a_query_by_another_model_is_refused_by_name(folder, tiny, tmp_path):
    Index.build(TEXTS[:5], tmp_path / "index", model=folder, pooling="mean")
    assert Index.open(tmp_path / "index").search("the cat", k=1)
    other = save_tiny(tmp_path / "other", "bert", seed=1)
    with pytest.raises(InputError, match=f"{folder.name}.*fingerprint.*{other.name} is another encoder"):
        Index.open(tmp_path / "index", model=other).search("the cat")
    unnamed = Index.build(TEXTS[:5], tmp_path / "unnamed", model=tiny)
    assert unnamed.search("the cat", k=1)
    with pytest.raises(InputError, match="encoder in memory"):
        Index.open(tmp_path / "unnamed").search("the cat")
    cut = replace(tiny, max_tokens=4)
    with pytest.raises(InputError, match="another encoder"):
        Index.open(tmp_path / "unnamed", model=cut).search("the cat")


def test_a_text_beside_a_number_is_explained(folder, tmp_path):
    table = {"text": TEXTS[:5], "label": [1, 2, 3, 4, 5], "name": ["a 'label = '"] * 5}
    index = Index.build(table, tmp_path / "index", model=folder, pooling="mean", column="text", keep=["label", "name"])
    for where in ("label = 'four'", "name = 'x' AND label IN ('4')", "label > '4'"):
        with pytest.raises(InputError, match="label holds numbers: write label = 4"):
            index.search("the cat", where=where)
    for where in ("label LIKE 'a%'", "name = 3 AND label < 'b' - 3"):
        with pytest.raises(InputError, match="--where ") as error:
            index.search("the cat", where=where)
        assert "Error resolving filter expression" not in str(error.value)


def test_a_trained_encoder_and_one_name_to_keep_are_taken(tiny):
    trained = SimpleNamespace(encoder=tiny)
    hit = search({"text": TEXTS[:5], "label": list("abcde")}, TEXTS[1], model=trained, column="text", keep="label")[0]
    assert (hit.row, hit.columns) == (1, {"label": "b"})


def test_vectors_that_embed_wrote(tiny, tmp_path):
    vectors = tiny(TEXTS)
    kind = pa.list_(pa.float32(), 32)
    columns = {"id": pa.array(NUMBERS, pa.int8() if len(TEXTS) < 128 else pa.int16()), "text": TEXTS}
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind)
    pq.write_table(pa.table({**columns, "embedding": flat}), tmp_path / "v.parquet")
    index = Index.build(tmp_path / "v.parquet", tmp_path / "index", model=tiny, keep=["id"])
    assert [hit.row for hit in index.search("the cat", k=5)] == ranking(tiny, "the cat")[:5]
    assert str(index._table.kept.field("id").type) == "int16"
    other = load(save_tiny(tmp_path / "other", "bert", seed=1), pooling="mean")
    with pytest.raises(InputError, match=r"v\.parquet, row 1.*cosine"):
        Index.build(tmp_path / "v.parquet", tmp_path / "no", model=other)
    wide = load(save_tiny(tmp_path / "wide", "bert", hidden=16), pooling="mean")
    with pytest.raises(InputError, match=r"v\.parquet.*32.*16"):
        Index.build(tmp_path / "v.parquet", tmp_path / "no2", model=wide)
    narrow = pa.table({"id": columns["id"], "text": TEXTS, "embedding": vectors[:, :16].tolist()})
    pq.write_table(narrow, tmp_path / "w.parquet")
    for call in (
        lambda: Index.build([tmp_path / "v.parquet", tmp_path / "w.parquet"], tmp_path / "no6", model=tiny),
        lambda: search([tmp_path / "v.parquet", tmp_path / "w.parquet"], "the cat", model=tiny),
    ):
        with pytest.raises(InputError, match=r"w\.parquet, row 1: its embeddings have 16 numbers"):
            call()
    ragged = [row.tolist() for row in vectors]
    ragged[10].append(0.0)
    ragged[11].pop()
    pq.write_table(pa.table({"text": TEXTS, "embedding": ragged}), tmp_path / "r.parquet")
    with pytest.raises(InputError, match=r"r\.parquet.*two lengths"):
        Index.build(tmp_path / "r.parquet", tmp_path / "no5", model=tiny)
    vectors[7, 3] = np.nan
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind)
    pq.write_table(pa.table({"embedding": flat}), tmp_path / "n.parquet")
    with pytest.raises(InputError, match=r"n\.parquet, row 8:.*NaN"):
        Index.build(tmp_path / "n.parquet", tmp_path / "no3", model=tiny)
    with pytest.raises(InputError, match=r"texts\[7\]:.*NaN"):
        Index.build(TEXTS, tmp_path / "no4", model=tiny, vectors=vectors)
    assert (
        Index.build(TEXTS, tmp_path / "given", model=tiny, vectors=tiny(TEXTS)).search("the cat", k=1)[0].row
        == (ranking(tiny, "the cat")[0])
    )


def test_vectors_without_texts(tiny, tmp_path):
    vectors = pa.array(tiny(TEXTS[:9]).tolist(), pa.list_(pa.float64()))
    pq.write_table(pa.table({"embedding": vectors}), tmp_path / "v.parquet")
    index = Index.build(tmp_path / "v.parquet", tmp_path / "index", model=tiny)
    assert index.search("the cat", k=1)[0].row == ranking(tiny, "the cat", NUMBERS[:9])[0]
    with pytest.raises(InputError, match="--hybrid"):
        index.search("the cat", hybrid=True)


def test_an_index_that_exists_or_does_not(shared, tiny, tmp_path):
    with pytest.raises(InputError, match="an index exists"):
        Index.build(TEXTS, shared._place.uri, model=tiny)
    with pytest.raises(InputError, match="no index"):
        Index.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("a")
    for call in (lambda: Index.open(tmp_path / "files"), lambda: Index.build(TEXTS, tmp_path / "files", model=tiny)):
        with pytest.raises(InputError, match=r"index\.json"):
            call()
    with pytest.raises(InputError, match="there are none"):
        Index.build([], tmp_path / "none", model=tiny)
    assert not (tmp_path / "none").exists()


def test_a_damaged_index(tiny, tmp_path):
    place = tmp_path / "index"
    Index.build(TEXTS, place, model=tiny)
    data = sorted((place / "rows.lance" / "data").iterdir())[0]
    whole = data.read_bytes()
    for damaged in (b"", whole[:-100], None):
        data.unlink() if damaged is None else data.write_bytes(damaged)
        with pytest.raises(InputError, match="missing or damaged"):
            Index.open(place, model=tiny).search("the cat")
    data.write_bytes(whole)
    assert Index.open(place, model=tiny).search("the cat")
    record = json.loads((place / "index.json").read_text())
    for text in ("", "{}", '{"schema": 1}', json.dumps({**record, "rows": "many"}), json.dumps({**record, "ann": [1]})):
        (place / "index.json").write_text(text)
        with pytest.raises(InputError, match=r"index\.json: damaged"):
            Index.open(place)


def test_a_file_address(tiny, tmp_path):
    Index.build(TEXTS[:5], f"file://{tmp_path}/an%20index", model=tiny)
    assert len(Index.open(tmp_path / "an index")) == 5


@pytest.mark.parametrize("kind", ["ivf-pq", "hnsw"])
def test_an_approximate_index_states_its_recall(tiny, tmp_path, kind):
    index = Index.build(TEXTS[:50], tmp_path / "index", model=tiny, ann=kind)
    assert index.record.ann is None
    with pytest.raises(InputError, match="50 rows"):
        index.build_ann(kind)
    index.add(TEXTS[50:])
    recall = index.build_ann(kind)
    assert 0.8 < recall <= 1
    assert Index.open(tmp_path / "index").record.ann["recall"] == recall
    exact, near = (index.search("the cat", k=5, exact=exact) for exact in (True, False))
    assert [hit.row for hit in exact] == ranking(tiny, "the cat")[:5]
    assert len({hit.row for hit in exact} & {hit.row for hit in near}) >= 3
    index.record = replace(index.record, ann={**index.record.ann, "nprobes": 1})
    hits = index.search("the cat", k=5, where="row < 7")  # most of these rows are in cells that no probe reads
    assert {hit.row for hit in hits} <= set(range(7))
    assert len(hits) == 5
    assert len(index.search("the cat", k=250)) == 250
    assert len(index.search("the cat", k=3, hybrid=True)) == 3
    assert index.add(["a new zebra"]) == 1
    assert index.search("a new zebra", k=1)[0].row == len(TEXTS)


KILLS = """
import os, signal, sys, json
from pathlib import Path
import diffcse.encoder.inputs as inputs, diffcse.searching.table as table
from diffcse.encoder.load import load
from diffcse.searching.index import Index
tiny, folder, moments = load(sys.argv[1], pooling="mean"), Path(sys.argv[2]), json.loads(sys.argv[3])
inputs.BLOCK, table.COMMIT_ROWS = 4, 8
texts = folder / "texts.csv"
for number, (change, what, rows) in enumerate(moments):
    def report(now, count):
        if now == what and count >= rows:
            os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()  # before lancedb is loaded, whose threads do not survive a fork
    if not child:
        place = folder / str(number)
        if change == "build":
            Index.build(texts, place, model=tiny, keep=["n"], report=report)
        Index.build(["first", "second"], place, model=tiny) if change == "add" else None
        Index.open(place, model=tiny).add(texts, report=report)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


class Seen:
    def __init__(self):
        self.counts = []

    def __call__(self, what, count):
        self.counts.append(count)


MOMENTS = [("build", "rows", 20), ("build", "words", 0), ("add", "rows", 20), ("add", "rows", 40)]


def test_a_killed_run_never_changes_an_answer_and_resumes(folder, tiny, tmp_path):
    rows = [f"{text.replace(',', '')},{n}" for n, text in enumerate(TEXTS[:40])]
    (tmp_path / "texts.csv").write_text("\n".join(["text,n", *rows]) + "\n")
    command = [sys.executable, "-c", KILLS, str(folder), str(tmp_path), json.dumps(MOMENTS)]
    subprocess.run(command, check=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"})
    whole = Index.build(tmp_path / "texts.csv", tmp_path / "whole", model=tiny, keep=["n"]).search("the cat", k=100)
    committed = []
    for number, (change, _, _) in enumerate(MOMENTS):
        place = tmp_path / str(number)
        if change == "build":
            with pytest.raises(InputError, match="--resume"):
                Index.open(place)
            with pytest.raises(InputError, match="--resume"):
                Index.build(tmp_path / "texts.csv", place, model=tiny, keep=["n"])
            with pytest.raises(InputError, match="other input"):
                Index.build(TEXTS, place, model=tiny, resume=True)
            seen = Seen()
            index = Index.build(tmp_path / "texts.csv", place, model=tiny, keep=["n"], resume=True, report=seen)
            committed.append(seen.counts[0])
            assert index.search("the cat", k=100) == whole
            continue
        index = Index.open(place, model=tiny)
        assert [hit.text for hit in sorted(index.search("the cat", k=100), key=lambda hit: hit.row)] == [
            "first",
            "second",
        ]
        if number == 2:
            assert index.add(tmp_path / "texts.csv", resume=True) == 40
        else:  # without --resume the rows of the killed run are dropped
            assert index.add(["third"]) == 1
        rows = sorted(hit.row for hit in index.search("the cat", k=100))
        assert rows == list(range(len(rows))) == list(range(len(index)))
        with pytest.raises(InputError, match="other input"):
            index.add(["fourth"], resume=True)
        if number == 2:  # it has finished: nothing is left to do
            assert index.add(tmp_path / "texts.csv", resume=True) == 0
    assert committed[1] == 40
    assert committed[0] % 8 == 0 < committed[0] < 40
