"""The benchmark of own domains on a tiny data folder: rows, means, and what each method is given."""

import json

import numpy as np
import pytest

from benchmarks import domains
from diffcse.evaluation.own_texts import draw_queries, neighbour_precision, read_labelled


@pytest.fixture
def data(tmp_path):
    """240 labelled texts as stackoverflow.csv, and a search collection."""
    words = ["cat purr fur", "sea salt wave", "code loop bug"]
    rows = [f"{words[i % 3]} item{i} {words[i % 3].split()[i % 2]},{i % 3}" for i in range(240)]
    (tmp_path / "stackoverflow.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (tmp_path / "cranfield" / "qrels").mkdir(parents=True)
    write = lambda name, lines: (tmp_path / "cranfield" / name).write_text("\n".join(lines) + "\n")  # noqa: E731
    write("corpus.jsonl", [json.dumps({"_id": f"d{i}", "title": "", "text": f"{words[i % 3]} {i}"}) for i in range(12)])
    write("queries.jsonl", [json.dumps({"_id": "q0", "text": "purr"}), json.dumps({"_id": "q1", "text": "wave"})])
    write("qrels/test.tsv", ["query-id\tcorpus-id\tscore", "q0\td0\t2", "q1\td1\t1"])
    return tmp_path


def test_the_table_has_a_row_for_each_method(data, tmp_path, monkeypatch):
    class Encoder:
        def __call__(self, texts):
            return np.stack([np.random.default_rng(list(text.encode())).normal(size=128) for text in texts])

    monkeypatch.setattr(domains, "load", lambda name: Encoder())
    output = tmp_path / "out"
    arguments = ["--starts", "mini", "--domains", "stackoverflow", "--seeds", "0", "1", "--texts", "200", "210"]
    domains.main([str(data), "--output", str(output), *arguments])
    results = json.loads((output / "domains.json").read_text())["results"]
    assert [result["row"] for result in results] == ["start", "PCA 100", "adapt, 200 texts", "adapt, 210 texts"]
    assert [len(result["by_seed"]) for result in results] == [1, 1, 2, 2]
    start, _, adapt, _ = results
    assert adapt["difference"]["value"] == pytest.approx(adapt["score"]["value"] - start["score"]["value"])
    labelled = read_labelled(data / "stackoverflow.csv")
    rows, queries = Encoder()(labelled.texts), draw_queries(240)
    expected = 100 * neighbour_precision(rows, labelled.labels_N, queries).mean()
    assert start["score"]["value"] == pytest.approx(expected, abs=0.1)
    page = (output / "table.md").read_text()
    assert f"| mini | start | {start['score']['value']:.1f} | {start['score']['value']:.1f} |" in page
    assert (
        "python -m benchmarks.domains DATA_DIR --starts mini --domains stackoverflow --seeds 0 1 --texts 200 210`"
        in page
    )


def test_queries_of_a_collection_are_embedded_and_not_learned_from(data):
    domain = domains.read_domain(data, "cranfield")
    assert (len(domain.texts), domain.others) == (12, ["purr", "wave"])
    rows = np.eye(14)
    rows[12], rows[13] = rows[0], rows[2]  # q0 finds its answer first; q1 finds another text, and d1 is among the ties
    gains = domain.measure(rows)
    assert gains[0] == 1
    assert gains[1] < 0.5
