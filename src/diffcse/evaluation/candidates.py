"""The encoders to measure: a model folder, a file of embeddings, a function, or a floor (TF-IDF, SIF)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from diffcse.config import EncoderPooling, method_identity
from diffcse.encoder.encode import Encoder
from diffcse.encoder.fingerprint import fingerprint
from diffcse.encoder.load import load
from diffcse.errors import InputError
from diffcse.evaluation.data import TextSet
from diffcse.evaluation.embeddings import Encode
from diffcse.evaluation.floors import Sif, TfIdf, input_embeddings, read_vectors
from diffcse.evaluation.stored import SUFFIXES, StoredEmbeddings
from diffcse.record import read_record


@dataclass(frozen=True)
class Candidate:
    """One encoder to measure: a row of the tables."""

    name: str
    kind: Literal["model", "embeddings", "callable", "floor"]
    fit: Callable[[list[str]], Encode]
    """Sentences of a set -> the encoder for that set. Only floors read the sentences."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What is known of pooling, max_tokens, width, normalised and run."""
    fingerprint: str | None = None
    """Two encoders with the same fingerprint give the same embeddings. None: unknown, so nothing is cached."""
    refits: bool = False
    """Whether `fit` depends on the set."""
    sparse: bool = False


def load_candidate(source: str | Path, *, pooling: EncoderPooling | None = None) -> Candidate:
    """A model folder, run or hub id (as `encoder.load` takes them), or a file of embeddings (.npy, .parquet).

    Raises:
        InputError: the source cannot be loaded.
    """
    path = Path(source)
    if path.suffix in SUFFIXES and (path.is_file() or not path.exists()):
        stored = StoredEmbeddings(path)
        return Candidate(str(source), "embeddings", lambda _: stored, {"width": stored.width}, stored.fingerprint)
    return encoder_candidate(str(source), load(source, pooling=pooling), run=_run_facts(path))


def encoder_candidate(name: str, encoder: Encoder, *, run: dict[str, Any] | None = None) -> Candidate:
    """A loaded encoder. Its pooling becomes part of its name."""
    facts: dict[str, Any] = {
        "pooling": encoder.pooling,
        "max_tokens": encoder.max_tokens,
        "width": encoder.width,
        "normalised": encoder.normalised,
    }
    note = getattr(encoder, "note", "")  # who chose the pooling
    facts |= {"pooling_note": str(note)} if note else {}
    facts |= {"run": run} if run is not None else {}
    return Candidate(f"{name} ({encoder.pooling})", "model", lambda _: encoder, facts, fingerprint(encoder))


def callable_candidate(name: str, encode: Encode) -> Candidate:
    """Any function from sentences to rows. A function has no fingerprint, so its results are not cached."""
    return Candidate(name, "callable", lambda _: encode)


def any_candidate(name: str | None, encoder: Any, pooling: EncoderPooling | None) -> Candidate:
    """A candidate from a path, an `Encoder` or a function; `name` replaces the default name.

    Raises:
        InputError: `encoder` is none of these, or cannot be loaded.
    """
    if isinstance(encoder, str | Path):
        made = load_candidate(encoder, pooling=pooling)
    elif isinstance(encoder, Encoder):
        made = encoder_candidate("encoder", encoder)
    elif callable(encoder):
        made = callable_candidate(getattr(encoder, "__qualname__", type(encoder).__name__), encoder)
    else:
        raise InputError(f"an encoder of type {type(encoder).__name__}: give a path, an Encoder or a function")
    return made if name is None else Candidate(**{**vars(made), "name": name})


def floor_candidates(
    models: list[Candidate], *, vectors: Path | None = None, text: TextSet | None = None
) -> list[Candidate]:
    """TF-IDF, and SIF over static word vectors: baselines that have learned nothing about sentences.

    Args:
        models: SIF takes the input embeddings of the first loaded model among these, if there is one.
        vectors: a file of word vectors for one more SIF row.
        text: what the floors are fitted on; by default the sentences of each set.
    """
    where = "each set" if text is None else text.name
    corpus = None if text is None else list(text.sentences)
    facts: dict[str, Any] = {"fitted_on": where} | ({} if text is None else {"fitted_on_sha256": text.sha256})

    def floor(name: str, fit: Callable[[list[str]], Encode], *, sparse: bool = False, **more: Any) -> Candidate:
        return Candidate(f"{name}, fitted on {where}", "floor", fit, facts | more, refits=True, sparse=sparse)

    rows = [floor("TF-IDF", lambda sentences: TfIdf(corpus or sentences), sparse=True)]
    first = next(((model.name, e) for model in models if isinstance(e := model.fit([]), Encoder)), None)
    if first is not None:
        name, encoder = first
        tokenize, table = input_embeddings(encoder)
        rows.append(
            floor(
                f"SIF, input embeddings of {name}",
                lambda sentences: Sif(tokenize, table, corpus or sentences),
                width=int(table.shape[1]),
            )
        )
    if vectors is not None:

        def fit(sentences: list[str]) -> Encode:
            return Sif(*read_vectors(vectors, [*sentences, *(corpus or ())]), corpus or sentences)

        rows.append(floor(f"SIF, {vectors.name}", fit))
    return rows


def _run_facts(folder: Path) -> dict[str, Any] | None:
    """Method and seed of the training run in `folder`, if it is one."""
    file = folder / "run.json"
    if not file.is_file():
        return None
    record = read_record(file)
    return {
        "recipe": record.config.get("name"),
        "method_sha256": method_identity(record.config),  # options change a recipe and leave its name
        "seed": record.seed,
        "train_sha256": record.data.get("sha256"),
    }
