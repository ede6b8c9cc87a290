"""Search collections in BEIR's layout (arXiv 2104.08663), and the DiffCSE paper's search on STS-B.

corpus.jsonl     {"_id": ..., "title": ..., "text": ...} a line; title may be missing or empty
queries.jsonl    {"_id": ..., "text": ...} a line
qrels/test.tsv   query-id<TAB>corpus-id<TAB>score, below a header line
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from diffcse.errors import InputError
from diffcse.evaluation.lines import hash_files, read_bytes, split_lines
from diffcse.evaluation.sts import PairSet

ALIKE = 5.0
"""The grade of STS-B that says two sentences mean the same."""


@dataclass(frozen=True, eq=False)
class Collection:
    """Queries, documents, and which documents answer which query."""

    name: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    relevant: tuple[dict[int, float], ...]
    """For each query: document number -> grade above 0; at least one."""
    excluded: tuple[frozenset[int], ...]
    """For each query: documents left out of its ranking (the query's own copy)."""
    unjudged: int
    """Number of queries left out because no relevant document is known."""
    sha256: str

    def sentences(self) -> list[str]:
        """All queries and documents."""
        return [*self.queries, *self.documents]


def is_collection(folder: Path) -> bool:
    """Whether `folder` has BEIR's layout."""
    return (folder / "corpus.jsonl").is_file() or (folder / "queries.jsonl").is_file()


def read_collection(folder: Path) -> Collection:
    """The collection in `folder`, with the judgements of qrels/test.tsv; its name is the folder's.

    A document is its title, a space and its text. As in BEIR, a query that is itself in the corpus (the same id, as in
    ArguAna) does not find itself.

    Raises:
        InputError: a file is missing, a line has another form, or a judgement names an unknown query or document.
    """
    paths = [folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / "test.tsv"]
    missing = [str(path.relative_to(folder)) for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{folder}: a search collection in BEIR's layout lacks {', '.join(missing)}")
    contents = [read_bytes(path, "BEIR's layout") for path in paths]
    corpus, questions = (_read_texts(path, data) for path, data in zip(paths[:2], contents[:2], strict=True))
    places = {name: i for i, name in enumerate(corpus)}
    judged: dict[str, dict[int, float]] = {}
    for i, line in enumerate(split_lines(contents[2], paths[2]), start=1):
        if i == 1 and not _is_number(line.rpartition("\t")[2]):
            continue
        query, document, grade = _judgement(line, f"{paths[2]}, line {i}")
        if query not in questions or document not in places:
            what = f"query {query!r}" if query not in questions else f"document {document!r}"
            raise InputError(f"{paths[2]}, line {i}: {what} is in neither {paths[0].name} nor {paths[1].name}")
        if grade > 0:
            judged.setdefault(query, {})[places[document]] = grade
    if not judged:
        raise InputError(f"{paths[2]}: no judgement above 0, so no query has an answer")
    asked = [name for name in questions if name in judged]
    return Collection(
        name=folder.name or folder.resolve().name,
        queries=tuple(questions[name] for name in asked),
        documents=tuple(corpus.values()),
        relevant=tuple(judged[name] for name in asked),
        excluded=tuple(frozenset({places[name]} - judged[name].keys() if name in places else ()) for name in asked),
        unjudged=len(questions) - len(asked),
        sha256=hash_files((str(path.relative_to(folder)), data) for path, data in zip(paths, contents, strict=True)),
    )


def pairs_as_collection(pairs: PairSet) -> Collection | None:
    """The search of the DiffCSE paper (section 6): each sentence of a pair graded 5 must find the other one.

    Documents are the distinct sentences of the whole set; a query does not find itself. Both sentences of a pair are
    queries: the paper's recalls are multiples of 1 / 194, and STS-B test has 97 such pairs. A sentence in several such
    pairs is one query with several answers. Pairs of equal sentences are no queries. None where no pair is graded 5.
    """
    documents = tuple(dict.fromkeys((*pairs.first, *pairs.second)))
    places = {sentence: i for i, sentence in enumerate(documents)}
    answers: dict[str, dict[int, float]] = {}
    for first, second, score in zip(pairs.first, pairs.second, pairs.scores, strict=True):
        if score == ALIKE and first != second:
            answers.setdefault(first, {})[places[second]] = 1.0
            answers.setdefault(second, {})[places[first]] = 1.0
    if not answers:
        return None
    return Collection(
        name=pairs.name,
        queries=tuple(answers),
        documents=documents,
        relevant=tuple(answers.values()),
        excluded=tuple(frozenset({places[query]}) for query in answers),
        unjudged=0,
        sha256=pairs.sha256,
    )


def _read_texts(path: Path, data: bytes) -> dict[str, str]:
    """id -> text, in the file's order."""
    texts: dict[str, str] = {}
    for i, line in enumerate(split_lines(data, path), start=1):
        where = f"{path}, line {i}"
        try:
            row = json.loads(line)
            name, text, title = row["_id"], row["text"], row.get("title") or ""
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f'{where}: each line is a JSON object with "_id" and "text"') from error
        if not (isinstance(name, str) and isinstance(text, str) and isinstance(title, str)):
            raise InputError(f'{where}: "_id", "text" and "title" must be strings')
        if name in texts:
            raise InputError(f"{where}: the id {name!r} occurs twice")
        # Everywhere else, as in a list of sentences, a sentence is one line.
        texts[name] = " ".join(f"{title} {text}".split())
    return texts


def _judgement(line: str, where: str) -> tuple[str, str, float]:
    fields = line.split("\t")
    if len(fields) != 3 or not _is_number(fields[2]):
        raise InputError(f"{where}: each line is query-id, corpus-id and a number, separated by tabs")
    return fields[0], fields[1], float(fields[2])


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False
