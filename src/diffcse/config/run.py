"""One run: which text is read, how it is trained, and the recipe files that store it.

A result can be repeated only if everything that shaped it has a name and a value. So there is no option outside
`Config`. A recipe file is one `Config`, the command line overrides its fields, and `run.json` stores it. An unknown key
is an error that names the nearest known key. Field docstrings become the command line's help.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from diffcse.config.fields import (
    check_values,
    effective,
    identity,
    non_default,
    override,
    preset,
    read_toml,
    require,
    setting,
)
from diffcse.config.method import Method
from diffcse.errors import InputError

Precision = Literal["auto", "fp32", "bf16"]
Quoting = Literal["auto", "csv", "none"]
Store = Literal["float32", "int8", "binary"]
"""Type of stored embeddings; `Precision` is the arithmetic that makes them."""
Select = Literal["auto", "labels", "label_free", "last"]
Tracker = Literal["none", "tensorboard", "trackio", "wandb", "mlflow"]


@dataclass(frozen=True)
class PlainText:
    """Which sentences of the files are read."""

    column: str = "text"
    """Column with the sentences, in files that have columns (.csv, .tsv, .jsonl, .parquet, hub data sets)."""
    document: str | None = None
    """Column that names the document of a row; rows of one document stand together. In plain text an empty line ends a
    document."""
    split_sentences: bool = False
    """Lines (or cells) are running prose: split each into sentences."""
    language: str = "en"
    """Language of the prose, by its ISO 639-1 code, for split_sentences."""
    encoding: str | None = None
    """Encoding of text files, such as windows-1252; bytes outside it become U+FFFD. Unset: UTF-8, or what a byte order
    mark says."""
    quoting: Quoting = "auto"
    """Double quotes in .csv and .tsv enclose cells (csv) or are text (none). auto: csv in .csv, and in a .tsv file that
    is consistently quoted."""
    columns: str | None = None
    """Names of all columns, with commas between them, for .csv and .tsv files without a header."""
    max_line_bytes: int = setting(100_000, affects="nothing", at_least=1)
    """Longest line or cell, in bytes; a longer one is an error."""
    max_blank_lines: int = setting(1_000_000, affects="nothing", at_least=1)
    """Most blank lines or rows in a row, roughly; more are an error."""
    max_expansion: int = setting(200, affects="nothing", at_least=1)
    """How many times its own size a packed file may unpack to; checked from 256 MiB on."""


@dataclass(frozen=True)
class Text(PlainText):
    """How files become examples: which columns are read, and whether they are sentences or pairs."""

    anchor: str | None = None
    """Supervised: column with the anchors. Set positive too."""
    positive: str | None = None
    """Supervised: column with each anchor's positive, a sentence that means the same."""
    hard_negative: str | None = None
    """Supervised, optional: column with each anchor's hard negative, a similar sentence of another meaning."""

    def __post_init__(self) -> None:
        check_values(self, "text.")
        for key in ("column", "anchor", "positive", "hard_negative", "document", "language", "encoding", "columns"):
            require(getattr(self, key) != "", f"text.{key}", "(empty)", "must not be empty")
        together = "set both text.anchor and text.positive (--anchor, --positive), or neither"
        require((self.anchor is None) == (self.positive is None), "text.anchor", self.anchor, together)
        lonely = self.hard_negative is not None and self.anchor is None
        require(not lonely, "text.hard_negative", self.hard_negative, "needs text.anchor and text.positive")
        roles = [name for name in (self.anchor, self.positive, self.hard_negative) if name is not None]
        require(len(set(roles)) == len(roles), "text.anchor", self.anchor, "one column cannot have two roles")

    @property
    def supervised(self) -> bool:
        """Whether examples are pairs or triplets from named columns."""
        return self.anchor is not None


@dataclass(frozen=True)
class Training:
    """How long and how fast: everything outside the method itself."""

    seed: int = setting(42, at_least=0)
    """Determines batches, masks, samples and dropout."""
    batch_size: int = setting(64, at_least=2)
    """Sentences that the contrastive loss compares with each other."""
    mini_batch_size: int | None = setting(None, at_least=1)
    """Sentences (each view counts as one) that a network computes at once; unset: all. Memory grows with this instead
    of batch_size, and the loss still compares the whole batch. Needs a second forward pass: about 25 % slower."""
    gradient_checkpointing: bool = setting(False, affects="nothing")
    """Keep only the input of each layer and compute the rest again for the gradient: less memory for long texts and
    deep models, the same weights. Needs a second forward pass: about 25 % slower."""
    accumulation: int = setting(1, at_least=1)
    """Forward passes per weight update."""
    max_tokens: int = setting(32, at_least=4)
    """Longer sentences are cut to this many tokens in training. The saved encoder keeps its own limit."""
    epochs: float = setting(2.0, above=0)
    """Passes over the corpus."""
    max_steps: int | None = setting(None, above=0)
    """Weight updates; overrides epochs when set."""
    learning_rate: float = setting(7e-6, above=0)
    """Peak of AdamW's learning rate; decays linearly to 0."""
    discriminator_learning_rate: float | None = setting(None, above=0)
    """The same for the discriminator and its token head. Unset: learning_rate, as in the paper."""
    warmup_ratio: float = setting(0.0, at_least=0, below=1)
    """Share of the steps over which the learning rate first rises."""
    weight_decay: float = setting(0.0, at_least=0)
    """AdamW's weight decay."""
    max_grad_norm: float = setting(1.0, above=0)
    """The gradient of all trained weights together is clipped to this norm."""
    precision: Precision = "auto"
    """fp32, bf16 autocast, or bf16 where the hardware computes in it (auto)."""
    packing: bool = True
    """Compute no padding where the architecture allows it: the same numbers, faster."""
    dev: str | None = setting(None, affects="score")
    """Your own judge, which selects the best step: a TSV of graded pairs (score, sentence, sentence), "pairs" (the 399
    bundled ones), or a table of labelled texts (--dev-label) or of questions with answers
    (--dev-answer)."""
    dev_column: str | None = setting(None, affects="score")
    """The column of dev's texts or questions. Unset: text.column for texts, "question" for questions."""
    dev_label: str | None = setting(None, affects="score")
    """dev has texts with labels, which this column names: precision@10 of their neighbours judges."""
    dev_answer: str | None = setting(None, affects="score")
    """dev has questions with answers, which this column names: MRR@10 judges."""
    select: Select = setting("auto", affects="score")
    """What selects the step that ships: the dev file (labels), sentences held out from the text (label_free), or
    nothing (last). auto: the dev file if there is one, otherwise held-out sentences."""
    eval_every: int = setting(125, affects="score", at_least=1)
    """Updates between evaluations on the dev file or the held-out sentences."""
    patience: int | None = setting(None, affects="score", at_least=1)
    """Stop after this many evaluations in a row without a new best score of the judge that selects. Unset: never."""
    checkpoint_every: int = setting(500, affects="nothing", at_least=1)
    """Updates between checkpoints that --resume can start from."""
    log_every: int = setting(25, affects="nothing", at_least=1)
    """Updates between logged values (means over the updates since the last)."""
    report_to: Tracker = setting("none", affects="nothing")
    """Experiment tracker that also gets the log; its package must be installed."""
    keep_training_parts: bool = setting(False, affects="nothing")
    """Also keep projector, discriminator and head of the last step, next to the model folder."""

    def __post_init__(self) -> None:
        check_values(self, "training.")
        self._check_dev()
        size = self.mini_batch_size
        most = f"must be at most batch_size = {self.batch_size}: a batch is computed in parts of this size"
        require(size is None or size <= self.batch_size, "training.mini_batch_size", size, most)

    def _check_dev(self) -> None:
        columns = {"dev_label": self.dev_label, "dev_answer": self.dev_answer, "dev_column": self.dev_column}
        named = [name for name, column in columns.items() if column is not None]
        if named and self.dev is None:
            raise InputError(f"training.{named[0]}: names a column of a dev file, and there is none. Set training.dev")
        if named[:2] == ["dev_label", "dev_answer"]:
            raise InputError(
                "training.dev_label, training.dev_answer: a dev file has labels or answers. Set one of them"
            )
        if named == ["dev_column"]:
            raise InputError("training.dev_column: graded pairs have no columns. Set dev_label or dev_answer too")
        if named and self.dev == "pairs":
            raise InputError(
                f'training.{named[0]}: the bundled "pairs" have no columns. Name a table with training.dev'
            )


@dataclass(frozen=True)
class Config:
    """One run. `name`, `reproduces` and `hardware` describe the recipe for a reader."""

    name: str = setting("default", affects="nothing")
    """The recipe's name."""
    reproduces: str = setting("", affects="nothing")
    """What this recipe reproduces, with its source."""
    hardware: str = setting("", affects="nothing")
    """What it needs to run in reasonable time."""
    method: Method = field(default_factory=Method)
    text: Text = field(default_factory=Text)
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        check_values(self)
        if self.text.supervised:
            for key, plain in (("pairing", "same"), ("edit_role", "difference"), ("positives", "dropout")):
                value = getattr(self.method, key)
                if value != plain:
                    raise InputError(
                        f'method.{key} = "{value}" needs plain text, and text.anchor names pairs: set {key} = '
                        f'"{plain}", or train on plain text'
                    )

    def unused(self) -> list[str]:
        """Dotted names of the fields that differ from their default and have no effect beside the other choices."""
        method, text = self.method, self.text
        idle_method, idle_text, idle_training = set(method.unused()), set(), set()
        if text.supervised:
            idle_text |= {"column", "document", "split_sentences", "language"}
        else:
            idle_method |= {"edit_columns"} if method.positives != "crop" else set()
            idle_method |= {"false_negatives"} if method.positives == "dropout" else set()
        if text.hard_negative is None and method.edit_role != "negative":
            idle_method |= {"hard_negative_weight"}
        if not method.reads_next:
            idle_text |= {"document"}
        if method.difference == "none":
            idle_training |= {"discriminator_learning_rate"}
        if method.learn == "map":
            idle_training |= {f.name for f in fields(Training)} - {
                "seed",
                "dev",
                "dev_column",
                "dev_label",
                "dev_answer",
                "select",
                "precision",
            }
        idle = {"method": idle_method, "text": idle_text, "training": idle_training}
        return [f"{name}.{key}" for name, keys in idle.items() for key in non_default(getattr(self, name), keys)]


_NOT_THE_METHOD = (
    *("training.seed", "training.dev", "training.dev_column", "training.dev_label", "training.dev_answer"),
)
"""Fields that affect the result and are not part of the method: the seed, and the dev file, which is data."""


def method_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A `Config`, as dictionary, reduced to the method: what affects weights or score, without seed and dev file."""
    return effective(config, Config, without=_NOT_THE_METHOD)


def method_identity(config: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of `method_config`: equal for runs of one method with different seeds."""
    return identity(config, Config, without=_NOT_THE_METHOD)


def check_tracker(report_to: str) -> None:
    """That the package of a tracker is installed; it is not imported.

    Raises:
        InputError: it is not; names the line that installs it.
    """
    if report_to != "none" and importlib.util.find_spec(report_to) is None:
        package = '"diffcse[watch]"' if report_to in ("tensorboard", "trackio") else report_to
        raise InputError(f'training.report_to = "{report_to}": {report_to} is not installed: pip install {package}')


# ---- recipe files ------------------------------------------------------------------------------------------------


def recipe_names(folder: str = "recipes") -> list[str]:
    """Names of the recipes that come with the package in `folder`."""
    files = resources.files("diffcse").joinpath(folder).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_recipe(name_or_path: str) -> Config:
    """The named recipe, or the one in a TOML file.

    Raises:
        InputError: no such recipe, not TOML, an unknown key, or a value out of range; names file and key.
    """
    return parse_recipe(*recipe_file(name_or_path, "recipes"))


def parse_recipe(data: bytes, source: str) -> Config:
    """A `Config` from TOML bytes; `source` is the file's name in messages.

    `preset` under `[method]` first sets several fields at once (see `PRESETS`); keys written out win over it.

    Raises:
        InputError: as `load_recipe`.
    """
    config: Config = override(Config(), read_toml(data, source), source)
    return config


def apply_preset(config: Config, name: str) -> Config:
    """`config` with the named preset's method fields set.

    Raises:
        InputError: no such preset.
    """
    fields: dict[str, Any] = dict(preset(Method, name, "--preset"))
    return dataclasses.replace(config, method=dataclasses.replace(config.method, **fields))


def recipe_file(name_or_path: str, folder: str, option: str = "--recipe") -> tuple[bytes, str]:
    """(content, name for messages) of a TOML file: a bundled one in `folder` by its name, or any by its path.

    Raises:
        InputError: it does not exist, or it cannot be read; `option` is the option that named it.
    """
    path, kind = Path(name_or_path), option.lstrip("-")
    try:
        if path.suffix == ".toml" or path.is_file():
            return path.read_bytes(), str(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such {kind} file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    names = recipe_names(folder)
    if name_or_path not in names:
        near = difflib.get_close_matches(name_or_path, names, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"{option} {name_or_path}: no {kind} of that name.{hint} Known names: {', '.join(names)}; "
            "or give a path that ends in .toml"
        )
    file = resources.files("diffcse").joinpath(folder, f"{name_or_path}.toml")
    return file.read_bytes(), f"{name_or_path}.toml"
