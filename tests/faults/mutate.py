"""Damaged inputs for every reader: each must be read, or refused by an `InputError`. Anything else is a fault.

A reader here is a function of a folder that holds its inputs, and of the file that is damaged. One file of the folder
is damaged at a time: bytes are changed, removed, repeated or cut off, and marks that give text its structure are added.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diffcse.errors import InputError
from tests.models import SENTENCES, save_tiny

SLOW = 20
"""Seconds after which a reader counts as hanging."""
MEMORY = 8 << 30
"""Bytes of address space that a reader may take in all."""
MARKS = [
    b'"',
    b"\t",
    b",",
    b"\n",
    b"\r",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"null",
    b"NaN",
]
MARKS += [b"-1", b"1e999", b"9" * 40, "\u2028".encode(), b"\\ud800", b"=", b"#", b"true", b"[" * 2000, b"\x80" * 9]


@dataclass
class Findings:
    """What the damaged inputs of one reader led to."""

    reader: str
    tried: int = 0
    read: int = 0
    refused: int = 0
    slow: int = 0
    crashes: list[str] = field(default_factory=list)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """`data` with one to three kinds of damage."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        place, length = chance.randrange(len(data) + 1), chance.choice((1, 1, 2, 8, 64, 512))
        kind = chance.randrange(6)
        if kind == 0 and data:
            place = chance.randrange(len(data))
            data = data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
        elif kind == 1:
            data = data[:place] + data[place + length :]
        elif kind == 2:
            data = data[:place] + data[max(0, place - length) : place] * 2 + data[place:]
        elif kind == 3:
            data = data[:place]
        else:
            data = data[:place] + chance.choice(MARKS) + data[place:]
    return data


# ---- the readers ---------------------------------------------------------------------------------------------------


def _text(folder: Path, file: Path) -> None:
    from diffcse.config import Text
    from diffcse.text.corpus import read_corpus

    read_corpus([file], text=Text(), cache_dir=folder / "cache")


def _pairs(folder: Path, file: Path) -> None:
    from diffcse.evaluation.sts import read_pairs

    read_pairs(folder / "pairs.tsv")


def _examples(folder: Path, file: Path) -> None:
    from diffcse.config import Text
    from diffcse.text.examples import read_examples

    text = Text(anchor="a", positive="b", hard_negative="c")
    read_examples([file], text=text, cache_dir=folder / "cache")


def _labelled(folder: Path, file: Path) -> None:
    from diffcse.evaluation.own_texts import read_labelled

    read_labelled(folder / "labelled.csv")


def _recipes(folder: Path, file: Path) -> None:
    from diffcse.config import load_recipe
    from diffcse.pretraining.config import load_pretraining
    from diffcse.tables.grids import load_grid

    {"recipe": load_recipe, "pretraining": load_pretraining, "grid": load_grid}[file.stem](str(file))


def _records(folder: Path, file: Path) -> None:
    from diffcse.record import read_record

    read_record(folder / "run.json")


def _comparison(folder: Path, file: Path) -> None:
    _command("compare", folder / "one.json", folder / "two.json")


def _word_vectors(folder: Path, file: Path) -> None:
    from diffcse.evaluation.floors import read_vectors

    read_vectors(file, SENTENCES)


def _stored(folder: Path, file: Path) -> None:
    from diffcse.evaluation.stored import StoredEmbeddings

    StoredEmbeddings(file if file.suffix == ".parquet" else folder / "vectors.npy")


def _model(folder: Path, file: Path) -> None:
    from diffcse.encoder.load import load

    load(str(folder / "model"))(SENTENCES[:2])


def _index(folder: Path, file: Path) -> None:
    _command("search", folder / "index", SENTENCES[0], "-k", 3)


def _collection(folder: Path, file: Path) -> None:
    from diffcse.evaluation.data import find_data

    find_data([folder / "data"])


def _command(*arguments: object) -> None:
    """A command in this process; a refusal is raised again as such."""
    from diffcse.cli import main

    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        if end.code == 2:
            raise InputError("refused") from end
        if end.code:
            raise RuntimeError(f"exit code {end.code}") from end


READERS: dict[str, Callable[[Path, Path], None]] = {
    "text": _text,
    "graded pairs": _pairs,
    "examples": _examples,
    "labelled texts": _labelled,
    "recipes and grids": _recipes,
    "run.json": _records,
    "evaluate's JSON": _comparison,
    "word vectors": _word_vectors,
    "stored vectors": _stored,
    "model folder": _model,
    "index": _index,
    "evaluation folder": _collection,
}


# ---- their inputs --------------------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Write sound inputs of every reader, a subfolder each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from diffcse.config import load_recipe, to_toml
    from diffcse.pretraining.config import load_pretraining
    from diffcse.pretraining.config import to_toml as pretraining_toml
    from tests.faults.scenarios import GRID

    here = {name: folder / name.replace(" ", "-").replace("'", "") for name in READERS}
    for place in here.values():
        place.mkdir(parents=True)
    rows = [[str(i), SENTENCES[i], SENTENCES[-i - 1]] for i in range(30)]
    table = "\n".join(['"text",id', *(f'"{text}, ""so""",{i}' for i, text, _ in rows)]) + "\n"
    tabs = "\n".join(["text\tid", *(f"{text}\t{i}" for i, text, _ in rows)]) + "\n"
    lines = "\n".join(json.dumps({"text": text, "id": i, "tags": [i]}) for i, text, _ in rows) + "\n"
    columns = pa.table({"text": [text for _, text, _ in rows]})
    text = here["text"]
    (text / "text.csv").write_text(table)
    (text / "text.tsv").write_text(tabs)
    (text / "text.jsonl").write_text(lines)
    (text / "text.json").write_text(json.dumps([{"text": text} for _, text, _ in rows]))
    (text / "text.txt").write_text("\n".join(SENTENCES[:30]) + "\n")
    (text / "packed.txt.gz").write_bytes(gzip.compress("\n".join(SENTENCES[:30]).encode()))
    pq.write_table(columns, text / "text.parquet")
    triplets = [{"a": text, "b": other, "c": text[::-1]} for _, text, other in rows]
    examples = here["examples"]
    (examples / "examples.jsonl").write_text("\n".join(map(json.dumps, triplets)) + "\n")
    (examples / "examples.csv").write_text("\n".join(["a,b,c", *(",".join(row.values()) for row in triplets)]) + "\n")
    pq.write_table(pa.Table.from_pylist(triplets), examples / "examples.parquet")
    graded = "\n".join(f"{i % 5}\t{SENTENCES[i]}\t{SENTENCES[-i - 1]}" for i in range(20)) + "\n"
    (here["graded pairs"] / "pairs.tsv").write_text(graded)
    labelled = "\n".join(["text,label", *(f"{text},{int(i) % 3}" for i, text, _ in rows)]) + "\n"
    (here["labelled texts"] / "labelled.csv").write_text(labelled)
    recipes = here["recipes and grids"]
    (recipes / "recipe.toml").write_text(to_toml(load_recipe("mini_difference")))
    (recipes / "pretraining.toml").write_text(pretraining_toml(load_pretraining("mini")))
    (recipes / "grid.toml").write_text(GRID)
    numbers = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    words = "\n".join(
        f"{word} {' '.join(map(str, row))}" for word, row in zip(SENTENCES[0].split(), numbers, strict=False)
    )
    (here["word vectors"] / "words.txt").write_text(words + "\n")
    (here["word vectors"] / "packed.txt.gz").write_bytes(gzip.compress(words.encode()))
    stored = here["stored vectors"]
    np.save(stored / "vectors.npy", numbers)
    (stored / "vectors.txt").write_text("\n".join(SENTENCES[:30]) + "\n")
    vectors = {"text": SENTENCES[:30], "embedding": numbers.tolist()}
    pq.write_table(pa.table(vectors), stored / "vectors.parquet")
    _prepare_model(here["model folder"] / "model")
    _prepare_records(here["run.json"], here["evaluate's JSON"], here["model folder"] / "model")
    index = here["index"]
    shutil.copytree(here["model folder"] / "model", index / "model")
    (index / "text.txt").write_text("\n".join(SENTENCES[:30]) + "\n")
    _command("index", index / "text.txt", "--model", index / "model", "--output", index / "index")
    _prepare_collection(here["evaluation folder"] / "data", graded)


def _prepare_model(folder: Path) -> None:
    from diffcse.encoder.load import load
    from diffcse.encoder.save import save

    save_tiny(folder.parent / "plain", "bert")
    save(load(str(folder.parent / "plain"), pooling="mean"), folder, "A card.")
    shutil.rmtree(folder.parent / "plain")


def _prepare_records(record: Path, reports: Path, model: Path) -> None:
    from diffcse.record import Record

    log = [{"step": 1, "loss": 0.5}]
    made = Record(kind="train", config={"method": {}}, seed=0, data={}, scores={}, log=log, status="complete")
    made.write(record / "run.json")
    pairs = record.parent / "pairs"
    pairs.mkdir()
    (pairs / "own.tsv").write_text("\n".join(f"{i % 5}\t{SENTENCES[i]}\t{SENTENCES[-i - 1]}" for i in range(40)) + "\n")
    for name in ("one", "two"):
        _command("evaluate", model, "--data", pairs, "--json", reports / f"{name}.json")
    shutil.rmtree(pairs)


def _prepare_collection(folder: Path, graded: str) -> None:
    (folder / "qrels").mkdir(parents=True)
    documents = [json.dumps({"_id": f"d{i}", "title": "t", "text": SENTENCES[i]}) for i in range(9)]
    (folder / "corpus.jsonl").write_text("\n".join(documents) + "\n")
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q0", "text": SENTENCES[9]}) + "\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td0\t1\nq0\td3\t2\n")


# ---- trying --------------------------------------------------------------------------------------------------------


def tries(folder: Path, count: int, seed: int) -> Iterator[tuple[Path, bytes]]:
    """`count` files of the folder with damaged content, in turn."""
    files = _inputs(folder)
    chance = random.Random(f"{folder.name} {seed}")
    for number in range(count):
        file = files[number % len(files)]
        yield file, mutated(file.read_bytes(), chance)


def _inputs(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and "cache" not in file.parts)
    return [file for file in files if folder.name != "index" or "index" in file.relative_to(folder).parts]


def fuzz(name: str, folder: Path, count: int, seed: int, kept: Path) -> Findings:
    """Try `count` damaged inputs of one reader. Those that crash it are kept in the folder `kept`."""
    found, place = Findings(name), folder / name.replace(" ", "-").replace("'", "")
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123
        for file in _inputs(place)[:20]:
            READERS[name](place, file)  # what is not damaged must be read
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, most))
    signal.signal(signal.SIGALRM, _too_slow)
    for file, damaged in tries(place, count, seed):
        sound = file.read_bytes()
        file.write_bytes(damaged)
        found.tried += 1
        signal.alarm(SLOW)
        try:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):  # noqa: PTH123
                READERS[name](place, file)
            found.read += 1
        except InputError:
            found.refused += 1
        except TimeoutError:
            found.slow += 1
            _keep(kept, name, file, damaged, "slow")
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            line = f"{file.name}: {type(error).__name__}: {str(error)[:120]} ({Path(last.filename).name}:{last.lineno})"
            found.crashes.append(line)
            _keep(kept, name, file, damaged, line)
        finally:
            signal.alarm(0)
            file.write_bytes(sound)
            shutil.rmtree(place / "cache", ignore_errors=True)
    return found


def _too_slow(number: int, frame: object) -> None:
    raise TimeoutError


def _keep(kept: Path, name: str, file: Path, damaged: bytes, why: str) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    number = len(list(kept.iterdir()))
    (kept / f"{number}-{file.name}").write_bytes(damaged)
    (kept / f"{number}.why").write_text(f"{name}: {why}\n")
