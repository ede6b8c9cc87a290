"""Encoders x a user's own data -> one report: scores with intervals, beside baselines and beside the start.

Word baselines (TF-IDF, BM25) show what no encoder is needed for. PCA of the first encoder shows what the text alone
gives for nothing. All differences are from the first encoder, on the same items.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffcse.config import EncoderPooling
from diffcse.errors import InputError
from diffcse.evaluation.candidates import Candidate, load_candidate
from diffcse.evaluation.floors import Bm25, Pca, TfIdf
from diffcse.evaluation.measuring import EmbedOnce, Progress
from diffcse.evaluation.own_pairs import Grades, OwnData, Values, read_answers, read_graded, value_of
from diffcse.evaluation.own_texts import read_labelled
from diffcse.figures import Figures
from diffcse.record import finite, read_record, versions
from diffcse.text.lines import STRICT, Reading

SCHEMA = "diffcse-own-texts/1"
_COMPONENTS = 100
_HEADS = {"kmeans_accuracy": "k-means", "nmi": "NMI", "few_shot": "few-shot"}


class OwnReport(dict[str, Any]):
    """The report as plain JSON values; printed, and in a notebook, it is a table."""

    def figures(self) -> Figures:
        """One table, an encoder a row."""
        data, results = self["data"], self["results"]
        keys = [key for key in results[0] if key not in ("encoder", "difference")]
        rows = []
        for number, result in enumerate(results):
            first, *others = (_cell(result.get(key)) for key in keys)
            gain = _cell(result["difference"], "+") if number else "–"
            rows.append([result["encoder"]["name"], first, gain, *others])
        heads = ["encoder", keys[0], "against the first", *(_HEADS.get(key, key) for key in keys[1:])]
        return Figures(f"{data['file']}: {data['items']}, points", heads, rows, caption=_caption(keys, data))

    def to_dict(self) -> dict[str, Any]:
        """The plain values, as `diffcse evaluate --json` writes them."""
        return dict(self)

    def __repr__(self) -> str:
        return str(self.figures())

    def _repr_html_(self) -> str:
        return self.figures()._repr_html_()


def _cell(score: dict[str, float] | None, sign: str = "") -> str:
    if score is None:
        return "–"
    value, low, high = (f"{round(score[key], 1) + 0.0:{sign}.1f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _caption(keys: Sequence[str], data: dict[str, Any]) -> str:
    what = {
        "precision@10": "precision@10: share of the 10 nearest texts with the same label. In brackets: 95 % "
        "interval over resampled texts; of k-means accuracy, NMI and few-shot accuracy (10 texts of each label) the "
        "lowest and highest of 3 starts or draws.",
        "MRR@10": "MRR@10: mean of 1 / rank of the first right answer. recall@k: share of the right answers among the "
        "first k. In brackets: 95 % interval over resampled questions.",
        "Spearman": "Spearman: does the cosine order the pairs as the grades do? In brackets: 95 % interval over "
        "resampled pairs.",
    }[keys[0]]
    left_out = f" {data['empty']:,} rows with an empty cell left out." if data["empty"] else ""
    return f"{what}{left_out}"


def evaluate_own(
    candidates: Sequence[Candidate], data: OwnData, *, floors: bool = True, progress: Progress = lambda *_: None
) -> OwnReport:
    """Each encoder's scores on `data`.

    "low" and "high" of a score, and of its difference from the first encoder, are a 95 % interval over items. Of
    clusters and few-shot accuracy they are the lowest and highest of three starts or draws.

    Args:
        floors: add TF-IDF, BM25 (not for graded pairs) and the first encoder's 100 principal components.

    Raises:
        InputError: no encoder, an encoder fails, or gives NaN or infinity.
    """
    if not candidates:
        raise InputError("no encoder to measure")
    results: list[dict[str, Any]] = []
    base: Any = None
    encodes: list[EmbedOnce] = []
    for candidate in candidates:
        report = lambda done, total, name=candidate.name: progress(name, "embedding", done, total)  # noqa: E731
        encode = EmbedOnce(candidate.fit(data.sentences), report)
        encode(data.sentences)
        progress(candidate.name, "scoring", 0, 0)
        values = data.values(encode)
        base = values[data.score] if base is None else base
        encoder = {"name": candidate.name, "fingerprint": candidate.fingerprint} | candidate.facts
        results.append({"encoder": encoder} | _scores(data, values, base) | data.more(encode))
        encodes.append(encode)
    for name, floor in _floors(data, candidates[0].name, encodes[0]) if floors else []:
        results.append({"encoder": {"name": name, "kind": "floor"}} | _scores(data, data.values(floor), base))
    facts = {"file": data.name, "sha256": data.sha256, "items": data.items, "empty": data.empty} | data.facts()
    return OwnReport(finite({"schema": SCHEMA, "data": facts, "results": results, "versions": versions()}))


def _scores(data: OwnData, values: dict[str, Values], base: Values) -> dict[str, dict[str, float]]:
    """Every score with its interval, and the difference of the main one from `base`."""
    scores = {name: _interval(value_of(data, each), data.draws(each)) for name, each in values.items()}
    main = values[data.score]
    gain = value_of(data, main) - value_of(data, base)
    return {**scores, "difference": _interval(gain, data.draws(main) - data.draws(base))}


def _interval(value: float, draws: Values) -> dict[str, float]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return {"value": value, "low": float(low), "high": float(high)}


def _floors(data: OwnData, name: str, encode: EmbedOnce) -> list[tuple[str, Any]]:
    floors: list[tuple[str, Any]] = [("TF-IDF", TfIdf(data.sentences))]
    if not isinstance(data, Grades):
        floors.append(("BM25", Bm25()))
    texts = list(dict.fromkeys(data.sentences))
    if min(len(texts), np.shape(encode(texts[:1]))[1]) > _COMPONENTS:
        floors.append((f"{name}, PCA to {_COMPONENTS}", Pca(encode, texts, _COMPONENTS)))
    return floors


def own_data(
    texts: Any = None,
    pairs: Any = None,
    graded: Any = None,
    *,
    column: str | None = None,
    label: str = "label",
    answer: str = "answer",
    reading: Reading = STRICT,
) -> OwnData:
    """The own data that one of `texts` (labelled), `pairs` (questions and answers) and `graded` names.

    Raises:
        InputError: none or several are given, or as the readers say.
    """
    given = [name for name, value in (("texts", texts), ("pairs", pairs), ("graded", graded)) if value is not None]
    if len(given) != 1:
        raise InputError(f"{' and '.join(given) or 'no data'}: give one of texts, pairs and graded")
    if texts is not None:
        return read_labelled(texts, column or "text", label, reading=reading)
    if pairs is not None:
        return read_answers(pairs, column or "question", answer, reading=reading)
    return read_graded(graded)


def with_starts(
    sources: Sequence[str | Path], pooling: EncoderPooling | None = None
) -> tuple[list[Candidate], list[str]]:
    """The encoders of `sources`, after the starts from which the runs among them were trained; and notes.

    A start that is given itself is not added.

    Raises:
        InputError: an encoder cannot be loaded.
    """
    starts: dict[str, Candidate] = {}
    notes = []
    for source in sources:
        record = read_record(Path(source) / "run.json") if (Path(source) / "run.json").is_file() else None
        if record is None or record.kind != "train":
            continue
        model = record.config["method"]["model"]
        if model in starts or model in map(str, sources):
            continue
        try:
            starts[model] = load_candidate(model, pooling=pooling or record.config["method"]["pooling"])
        except InputError as error:
            notes.append(f"the start of {source} is not measured: {error}")
    named = [Candidate(**{**vars(start), "name": f"start: {start.name}"}) for start in starts.values()]
    return [*named, *(load_candidate(source, pooling=pooling) for source in sources)], notes
