"""Small folders in the layouts that evaluation reads, made of words of `tests.models`, so that tests need no data."""

import random
from pathlib import Path

from diffcse.evaluation.downstream import STS_SUBSETS
from tests.models import SENTENCES

YES, NO = ("good", "warm", "apple", "sun"), ("cold", "dark", "stone", "snow")


def pairs(n, seed=0):
    """n rows of (score, sentence, sentence); the grades, 0 to 5, are shared words, so encoders can score."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        first, other = rng.choice(SENTENCES).split(), rng.choice(SENTENCES).split()
        keep = i % 6
        second = first[: len(first) * keep // 5][::-1] + other[: len(other) * (5 - keep) // 5]
        rows.append((float(keep), " ".join(first), " ".join(second) or "night"))
    return rows


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def tsv(folder, name, n=30, seed=0, subset=""):
    rows = (f"{score}\t{a}\t{b}{subset and chr(9) + subset}\n" for score, a, b in pairs(n, seed))
    return write(Path(folder) / f"{name}.tsv", "".join(rows))


def sts_year(root, name, n=8):
    for seed, subset in enumerate(STS_SUBSETS[name]):
        folder = Path(root) / "STS" / f"{name}-en-test"
        rows = pairs(n, seed)
        write(folder / f"STS.input.{subset}.txt", "".join(f"{a}\t{b}\n" for _, a, b in rows))
        write(folder / f"STS.gs.{subset}.txt", "".join(f"{score}\n" for score, _, _ in rows))
    return Path(root)


def stsb(root, split, n=30):
    rows = (f"main\tMSRvid\t2012\t{i}\t{score}\t{a}\t{b}\n" for i, (score, a, b) in enumerate(pairs(n)))
    return write(Path(root) / f"STS/STSBenchmark/sts-{split}.csv", "".join(rows))


def sick(root, split, n=30):
    rows = (f"{i}\t{a}\t{b}\t{score}\tNEUTRAL\n" for i, (score, a, b) in enumerate(pairs(n)))
    head = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    return write(Path(root) / f"SICK/SICK_{split}.txt", head + "".join(rows))


def labelled(n, seed=0):
    """n of (sentence, label): the label's words are among the sentence's."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        words = [*rng.choice(SENTENCES).split()[:4], rng.choice((NO, YES)[i % 2])]
        rng.shuffle(words)
        rows.append((" ".join(words), i % 2))
    return rows


def binary(root, name, files, n=60):
    rows = labelled(n)
    for file, label in zip(files, (1, 0), strict=True):
        write(Path(root) / file, "".join(f"{s} \n" for s, y in rows if y == label), "latin-1")


def sst2(root, n=40):
    for seed, split in enumerate(("train", "dev", "test")):
        rows = labelled(n, seed)
        write(Path(root) / f"SST/binary/sentiment-{split}", "".join(f"{s}\t{y}\n" for s, y in rows))


def trec(root, n=60):
    for seed, file in enumerate(("train_5500.label", "TREC_10.label")):
        rows = labelled(n, seed)
        write(Path(root) / "TREC" / file, "".join(f"{('NUM:dist', 'HUM:ind')[y]} {s}\n" for s, y in rows))


def mrpc(root, n=60):
    head = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    for seed, split in enumerate(("train", "test")):
        rows = [(int(score > 2), a, b) for score, a, b in pairs(n, seed)]
        text = "".join(f"{y}\t1\t2\t{a}\t{b}\n" for y, a, b in rows)
        write(Path(root) / f"MRPC/msr_paraphrase_{split}.txt", "\ufeff" + head + text)


def collection(folder, corpus, queries, judgements):
    """BEIR's layout: corpus and queries are id -> text, judgements (query, document, grade)."""
    import json

    folder = Path(folder)
    texts = "".join(json.dumps({"_id": k, "title": "", "text": v}) + "\n" for k, v in corpus.items())
    write(folder / "corpus.jsonl", texts)
    asked = "".join(json.dumps({"_id": k, "text": v}) + "\n" for k, v in queries.items())
    write(folder / "queries.jsonl", asked)
    lines = "".join(f"{q}\t{d}\t{g}\n" for q, d, g in judgements)
    write(folder / "qrels/test.tsv", "query-id\tcorpus-id\tscore\n" + lines)
    return folder


def bag_of_words(sentences):
    """An encoder that needs no model: a count of each word of the corpus, by a hash that is the same everywhere."""
    import zlib

    import numpy as np

    rows = np.zeros((len(sentences), 64))
    for row, sentence in zip(rows, sentences, strict=True):
        for word in sentence.split():
            row[zlib.crc32(word.encode()) % 64] += 1
        row[0] += 0.1
    return rows
