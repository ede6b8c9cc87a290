"""`diffcse.train`, `compare` and `embed` as people write them in Python: texts in any shape, choices as keywords."""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from diffcse.config import Config, EncoderPooling, Precision, load_recipe
from diffcse.errors import InputError

if TYPE_CHECKING:
    from diffcse.encoder.encode import Encoder
    from diffcse.evaluation.own_report import OwnReport
    from diffcse.report.comparison import Comparison
    from diffcse.training.run import Trained

# tqdm says so in every notebook without ipywidgets. Our progress line needs none.
warnings.filterwarnings("ignore", message="IProgress not found")

_SECTIONS = ("method", "text", "training")


def train(
    texts: Any,
    corpus: Any = None,
    output: str | Path | None = None,
    *,
    model: str | Path | None = None,
    recipe: str | None = None,
    column: str | None = None,
    resume: bool = False,
    report: Callable[[str, dict[str, Any]], None] | None = None,
    callbacks: Sequence[Any] = (),
    **settings: Any,
) -> Trained:
    """Train an encoder and leave a complete folder at `output`.

    Args:
        texts: a list of strings, a generator, a pandas Series, a table (DataFrame, dict, `datasets.Dataset`) with
            `column`, a file or glob, a list of paths, or a `Corpus`. A `Config` here means that `corpus` has the texts
            and that the config has all settings.
        output: a new or empty folder.
        model: a folder, a hub id, or "mini"; the recipe's own if not given.
        recipe: name of a bundled recipe, or a .toml file; "adapt" if not given.
        column: the texts' column in a table or in files with columns.
        resume: continue the run in `output`.
        report: receives events in place of the printed progress.
        callbacks: of transformers.
        settings: fields of the recipe by name, such as `max_steps=200` or `mask_ratio=0.2`.

    Raises:
        InputError: unusable texts, settings, model or folder; see also `training.run.run`.
    """
    if output is None:
        raise InputError('output: no folder was given. Call train(..., output="my-encoder").')
    given = {"model": None if model is None else str(model), **settings}
    if isinstance(texts, Config):
        if idle := [name for name, value in {**given, "recipe": recipe}.items() if value is not None]:
            raise InputError(f"{idle[0]}: a Config has all settings. Change it with dataclasses.replace.")
        config, texts = texts, corpus
    elif corpus is not None:
        raise InputError("corpus: goes with a Config only. Give the texts as the first argument alone.")
    else:
        config = _with_settings(load_recipe(recipe or "adapt"), {name: v for name, v in given.items() if v is not None})
    config, source = _source(config, texts, column)
    from diffcse.training.run import run

    if report is not None:
        return run(config, source, output, resume=resume, report=report, callbacks=callbacks)
    from rich.console import Console

    from diffcse.terminal import TrainingView

    with TrainingView(Console()) as view:
        return run(config, source, output, resume=resume, report=view, callbacks=callbacks)


def compare(
    encoders: Any,
    *,
    recipes: Sequence[str] = (),
    seeds: int = 4,
    model: str | Path | None = None,
    max_steps: int | None = None,
    train_column: str | None = None,
    output: str | Path = "comparison",
    baseline: str | None = None,
    report: Callable[[str], None] = lambda line: None,
    **data: Any,
) -> Comparison | OwnReport:
    """Compare encoders on your own data; or, with `recipes`, what these make of your text.

    The result is a dict of plain values. Printed, and in a notebook, it is a table; `to_dict` gives the dict alone.

    Args:
        encoders: as in `evaluate`: a list of folders, names or encoders, or a dict of names to them; differences are
            from the first. With `recipes`: the texts to train on, in any shape that `train` takes.
        recipes: names of recipes or presets, trained with every seed from `model`.
        seeds: runs of each recipe, with the seeds 0, 1, ... A verdict needs four.
        model: the start of all recipes; each recipe's own if None.
        max_steps: updates of the recipes that train weights.
        train_column: the column of the texts to train on.
        output: folder of the runs. Complete runs in it are not trained again.
        baseline: the recipe that the others are compared with; the first if None.
        report: receives a line for each run and encoder.
        data: one of texts, pairs and graded, with column, label and answer as in `evaluate`. With `recipes` and no
            data: the 399 bundled pairs, which do not know your text.

    Raises:
        InputError: no data, or texts, recipes or encoders that cannot be used.
    """
    if not recipes:
        from diffcse.evaluation.report import evaluate

        given = {"model": model, "max_steps": max_steps, "train_column": train_column, "baseline": baseline}
        if idle := [name for name, value in given.items() if value is not None]:
            raise InputError(f"{idle[0]}: goes with recipes")
        if all(data.get(name) is None for name in ("texts", "pairs", "graded")):
            raise InputError("no data: give texts, pairs or graded; or recipes to train")
        return cast("OwnReport", evaluate(encoders, **data))
    from diffcse.evaluation.comparison import compare_sources
    from diffcse.evaluation.data import Data, find_data
    from diffcse.evaluation.own_report import own_data
    from diffcse.report.comparison import Comparison
    from diffcse.tables.recipes import train_recipes

    own = own_data(**data) if data else None
    config, texts = _source(load_recipe("adapt"), encoders, train_column)
    sources = train_recipes(
        recipes, texts, output, seeds=seeds, model=None if model is None else str(model), max_steps=max_steps,
        text={"column": config.text.column}, report=report,
    )  # fmt: skip
    places = Data() if own is not None else find_data(("pairs",), groups=("sts",))
    return Comparison(compare_sources(sources, places, own=own, baseline=baseline, report=report))


def embed(
    model: Encoder | str | Path,
    texts: Any,
    output: str | Path,
    *,
    column: str | None = None,
    keep: Sequence[str] = (),
    pooling: EncoderPooling | None = None,
    prompt: str | None = None,
    truncate_dim: int | None = None,
    normalize: bool = False,
    precision: Precision = "fp32",
    shard: str | None = None,
    rows_per_part: int = 50_000,
    **options: Any,
) -> int:
    """Write an embedding for each text to a file or a folder of parts; return the number of rows that were embedded.

    Args:
        model: an encoder, or what `load` takes.
        texts: any iterable of strings; or a file, a glob, or a list of `Path`s. A folder of parts needs files.
        output: FILE.npy, FILE.parquet, or a folder of .parquet parts (a name without suffix), which is resumed.
        column: the texts' column in files that have columns.
        keep: more columns of the files that go to .parquet.
        pooling: as in `load`, if `model` is not an encoder.
        prompt: the name of a prompt of the model, or a text that ends with a space or a colon.
        truncate_dim: keep only so many numbers of each embedding, the first ones.
        normalize: scale each embedding to length 1.
        precision: the arithmetic, as in `encode`.
        shard: "i/n": write every n-th part of the folder.
        rows_per_part: rows in a part of the folder.
        options: as in `encoder.stream.embed`: store, overwrite, batch_tokens, workers, report, note.

    Raises:
        InputError: unusable texts, settings, model or output; see also `encoder.stream.embed` and `encoder.parts`.
    """
    from diffcse.encoder.encode import use_bf16
    from diffcse.encoder.inputs import Sentences
    from diffcse.encoder.outputs import is_folder
    from diffcse.encoder.similarity import as_encoder
    from diffcse.encoder.stream import adjusted
    from diffcse.encoder.stream import embed as embed_file

    is_name = isinstance(texts, str | Path)
    are_files = is_name or (isinstance(texts, list) and bool(texts) and isinstance(texts[0], Path))
    if are_files:
        texts = Sentences([texts] if is_name else texts, column, keep=keep)
    elif column is not None or keep:
        raise InputError("column, keep: go with files. Give the file's name in place of the texts")
    elif is_folder(Path(output)):
        raise InputError(f"{output}: a folder of parts is resumed by reading the input again. Give the name of a file")
    encoder = adjusted(as_encoder(model, pooling), prompt, truncate_dim)
    options = {"normalise": normalize, "bf16": use_bf16(precision), **options}
    if not is_folder(Path(output)):
        return embed_file(encoder, texts, output, **options)
    return _embed_parts(
        encoder, texts, output, str(model) if isinstance(model, str | Path) else "", shard, rows_per_part, options
    )


def _embed_parts(
    encoder: Encoder, texts: Any, output: str | Path, name: str, shard: str | None, rows: int, options: dict[str, Any]
) -> int:
    from diffcse.encoder.manifest import Shard
    from diffcse.encoder.parts import embed_parts

    report = options.pop("report", lambda done: None)
    return embed_parts(
        encoder, texts, output, name=name, shard=Shard.of(shard), rows_per_part=rows,
        report=lambda done, total: report(done), **options,
    ).rows  # fmt: skip


def _with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """`config` with fields replaced, each in the section that has it."""
    sections: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
    homes = {field.name: name for name in _SECTIONS for field in dataclasses.fields(getattr(config, name))}
    for key, value in settings.items():
        if key not in homes:
            near = difflib.get_close_matches(key, homes, 1)
            hint = f"Did you mean {near[0]}?" if near else "diffcse train --help-all lists the settings."
            raise InputError(f"{key}: no setting has this name. {hint}")
        sections[homes[key]][key] = value
    changed = {name: dataclasses.replace(getattr(config, name), **values) for name, values in sections.items()}
    return dataclasses.replace(config, **changed)


def _source(config: Config, texts: Any, column: str | None) -> tuple[Config, Any]:
    """(config with the column, what `training.run.run` reads) for any kind of `texts`."""
    from diffcse.text.corpus import Corpus
    from diffcse.text.examples import Examples

    if isinstance(texts, Corpus | Examples):
        return config, texts
    single = isinstance(texts, str | Path)  # one text alone is no corpus, so it names a file
    if single:
        texts = [texts]
    if single or (isinstance(texts, Sequence) and len(texts) and all(_is_file(item) for item in texts)):
        if column is not None:
            config = dataclasses.replace(config, text=dataclasses.replace(config.text, column=column))
        return config, [str(item) for item in texts]
    if column is not None:
        try:
            texts = texts[column]
        except (KeyError, TypeError, IndexError):
            raise InputError(f"column = {column!r}: the {type(texts).__name__} has no such column.") from None
    return config, Corpus.from_sentences(texts, documents=config.method.reads_next)


def _is_file(item: Any) -> bool:
    """Whether a text is rather the name of a file, a glob or a data set of the hub."""
    if isinstance(item, Path):
        return True
    if not isinstance(item, str) or "\n" in item or len(item) > 1000:
        return False
    return item.startswith("hub:") or Path(item).is_file() or (" " not in item and any(c in item for c in "*?"))
