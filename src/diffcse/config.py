"""Every choice of a run, in two frozen dataclasses that read and write as TOML.

A result can only be repeated if everything that shaped it has a name and a value. So there is no option outside
`Config`: a recipe file is one `Config`, the command line overrides fields of one, and `run.json` stores one. A key
that does not exist is an error that names the nearest one that does, never ignored.

Field comments become the command line's help; tables of what each choice means are in docs/method.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from diffcse.errors import InputError

Pooling = Literal["cls", "mean", "first_last", "top2"]
EncoderPooling = Literal[Pooling, "pooler"]
"""What an encoder may have besides: its checkpoint's own trained head. In training the projector plays that part."""
Projector = Literal["batchnorm", "tanh", "none"]
Difference = Literal["rtd", "none"]
Sampling = Literal["sample", "argmax"]
Inject = Literal["replace", "prepend"]
Schedule = Literal["constant", "linear", "cosine"]
EditScope = Literal["masked", "all"]
Padding = Literal["ignore", "include"]
Condition = Literal["projected", "pooled", "none"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Method:
    """What is trained and against which losses: the paper's choices (DiffCSE, sections 3 and 5)."""

    model: str = "mini"
    """Checkpoint the encoder starts from: a folder, a hub id, or "mini" (the one bundled here)."""
    generator: str | None = None
    """Frozen masked language model G. Unset: the checkpoint itself, if it has a masked-language-model head."""
    discriminator: str | None = None
    """Checkpoint the discriminator D starts from. Unset: the same as the encoder."""
    pooling: Pooling = "cls"
    """How token vectors become one sentence vector h."""
    projector: Projector = "batchnorm"
    """Training-only head g between h and z."""
    contrast: bool = True
    """Use the contrastive loss over two dropout views."""
    dropout: float | None = None
    """Probability of every dropout layer in encoder and discriminator. Unset: the checkpoint's own."""
    lora_rank: int | None = None
    """Train low-rank adapters of this rank in the encoder instead of its weights (needs peft). Unset: all weights."""
    temperature: float = 0.05
    """Temperature of the contrastive softmax."""
    difference: Difference = "rtd"
    """The equivariant task beside it: conditional replaced-token detection, or none (= SimCSE)."""
    rtd_weight: float = 0.005
    """Lambda: weight of the difference loss."""
    rtd_schedule: Schedule = "constant"
    """Lambda over the run: constant, or a ramp from 0 up to it."""
    mask_ratio: float = 0.30
    """Share of tokens chosen for masking, 0 to 1."""
    sampling: Sampling = "sample"
    """How G's distribution becomes a token: drawn from it, or its most likely one."""
    sampling_temperature: float = 1.0
    """Divides G's logits before a draw: below 1 edits are likelier words, above 1 wilder ones."""
    edit_scope: EditScope = "masked"
    """Which positions take G's token: the masked ones, or all."""
    rtd_padding: Padding = "ignore"
    """Whether padding counts in the difference loss (as "original")."""
    generator_dropout: bool = False
    """Run G with dropout switched on."""
    condition: Condition = "projected"
    """What D is told of the sentence: z = g(h), h, or nothing (plain ELECTRA: f learns nothing from it)."""
    inject: Inject = "replace"
    """How D is told: in the place of position 0's embedding, or as one more token in front."""

    def __post_init__(self) -> None:
        _check_choices(self)
        _require(self.temperature > 0, "method.temperature", self.temperature, "must be above 0")
        _require(
            self.sampling_temperature > 0, "method.sampling_temperature", self.sampling_temperature, "must be above 0"
        )
        _require(self.dropout is None or 0 <= self.dropout < 1, "method.dropout", self.dropout, "must lie in [0, 1)")
        _require(self.lora_rank is None or self.lora_rank > 0, "method.lora_rank", self.lora_rank, "must be above 0")
        _require(0 < self.mask_ratio < 1, "method.mask_ratio", self.mask_ratio, "must lie between 0 and 1")
        if self.difference == "none":
            if not self.contrast:
                raise InputError(
                    'method.contrast = false with method.difference = "none" leaves nothing to train: '
                    "switch one of them on"
                )
        else:
            _require(
                self.rtd_weight > 0,
                "method.rtd_weight",
                self.rtd_weight,
                'must be above 0: to train without the difference term set method.difference = "none"',
            )
            if self.sampling == "argmax" and self.sampling_temperature != 1:
                raise InputError(
                    f"method.sampling_temperature = {self.sampling_temperature} changes nothing with "
                    'method.sampling = "argmax": set sampling = "sample", or leave the temperature at 1'
                )
            if self.condition == "none" and self.inject != "replace":
                raise InputError(
                    f'method.inject = "{self.inject}" with method.condition = "none": there is nothing to inject'
                )
            if not self.contrast and self.condition == "none":
                raise InputError(
                    'method.contrast = false with method.condition = "none" gives the encoder no gradient at all: '
                    'condition D on "projected" or "pooled", or switch the contrastive loss on'
                )


REFERENCE: dict[str, Any] = {
    "pooling": "cls",
    "projector": "batchnorm",
    "contrast": True,
    "temperature": 0.05,
    "difference": "rtd",
    "rtd_weight": 0.005,
    "rtd_schedule": "constant",
    "mask_ratio": 0.30,
    "sampling": "argmax",
    "sampling_temperature": 1.0,
    "edit_scope": "all",
    "rtd_padding": "include",
    "generator_dropout": True,
    "condition": "projected",
    "inject": "replace",
}
"""What the paper's 2022 reference code does where our defaults differ: `preset = "reference"`."""

PRESETS: dict[str, dict[str, Any]] = {"reference": REFERENCE, "simcse": {"difference": "none", "projector": "tanh"}}


@dataclass(frozen=True)
class Text:
    """What the files hold, and which of it is read: everything between a file and an example."""

    column: str = "text"
    """Column with the sentences, in files that have columns (.csv, .tsv, .jsonl, .parquet, hub data sets)."""
    anchor: str | None = None
    """Supervised: column with the anchors. Set it together with positive."""
    positive: str | None = None
    """Supervised: column with each anchor's positive, a sentence that means the same."""
    hard_negative: str | None = None
    """Supervised, optional: column with each anchor's hard negative, a sentence that looks alike and is not."""
    document: str | None = None
    """Column that names the document a row belongs to; rows of one document stand together. Plain text: an empty line
    ends a document."""
    split_sentences: bool = False
    """Lines (or cells) are running prose: split each into sentences."""
    language: str = "en"
    """Language of the prose, by its ISO 639-1 code, for split_sentences."""

    def __post_init__(self) -> None:
        _check_choices(self)
        _require((self.anchor is None) == (self.positive is None), "text.anchor", self.anchor, "set it with positive")
        _require(
            self.hard_negative is None or self.anchor is not None,
            "text.hard_negative",
            self.hard_negative,
            "needs anchor and positive beside it",
        )
        named = [name for name in (self.anchor, self.positive, self.hard_negative) if name is not None]
        _require(len(set(named)) == len(named), "text.anchor", self.anchor, "one column cannot have two roles")
        if named:
            for key in ("document", "split_sentences"):
                _require(not getattr(self, key), f"text.{key}", getattr(self, key), "is for plain text, not for pairs")
        for key in ("column", "anchor", "positive", "hard_negative", "document", "language"):
            _require(getattr(self, key) != "", f"text.{key}", "(empty)", "must not be empty")

    @property
    def supervised(self) -> bool:
        """Whether examples are pairs or triplets from named columns."""
        return self.anchor is not None


@dataclass(frozen=True)
class Training:
    """How long, how fast, on what: everything outside the method itself."""

    seed: int = 42
    """Decides batches, masks, samples and dropout."""
    batch_size: int = 64
    """Sentences in one forward pass of one process. The contrastive loss sees these."""
    accumulation: int = 1
    """Forward passes per weight update."""
    max_tokens: int = 32
    """Longer sentences are cut to this many tokens in training. The saved encoder keeps its own limit."""
    epochs: float = 2.0
    """Passes over the corpus."""
    max_steps: int | None = None
    """Weight updates; overrides epochs when set."""
    learning_rate: float = 7e-6
    """Peak of AdamW's learning rate; decays linearly to 0."""
    warmup_ratio: float = 0.0
    """Share of the steps over which the learning rate first rises."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    max_grad_norm: float = 1.0
    """All trained weights' gradients together are clipped to this length."""
    precision: Precision = "auto"
    """bf16 autocast where the hardware computes in it (auto), or one of the two."""
    dev: str | None = None
    """TSV of graded pairs (score, sentence, sentence). Its Spearman picks the best step."""
    eval_every: int = 125
    """Updates between evaluations on the dev file."""
    checkpoint_every: int = 500
    """Updates between checkpoints that --resume can start from."""
    log_every: int = 25
    """Updates between logged values (means over the updates since the last)."""
    keep_training_parts: bool = False
    """Also keep projector, discriminator and head of the last step, beside (never in) the model folder."""

    def __post_init__(self) -> None:
        _check_choices(self)
        for name, least in {
            "batch_size": 2,
            "accumulation": 1,
            "max_tokens": 4,
            "eval_every": 1,
            "checkpoint_every": 1,
            "log_every": 1,
            "seed": 0,
        }.items():
            value = getattr(self, name)
            _require(value >= least, f"training.{name}", value, f"must be at least {least}")
        _require(self.seed < 2**63, "training.seed", self.seed, "must be below 2^63")
        _require(self.epochs > 0, "training.epochs", self.epochs, "must be above 0")
        _require(self.max_steps is None or self.max_steps > 0, "training.max_steps", self.max_steps, "must be above 0")
        _require(self.learning_rate > 0, "training.learning_rate", self.learning_rate, "must be above 0")
        _require(0 <= self.warmup_ratio < 1, "training.warmup_ratio", self.warmup_ratio, "must lie in [0, 1)")
        _require(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "must not be negative")
        _require(self.max_grad_norm > 0, "training.max_grad_norm", self.max_grad_norm, "must be above 0")


@dataclass(frozen=True)
class Config:
    """One run. `name`, `reproduces` and `hardware` tell a reader what a recipe is for."""

    name: str = "default"
    """The recipe's name."""
    reproduces: str = ""
    """What this recipe reproduces, with its source."""
    hardware: str = ""
    """What it needs to run in reasonable time."""
    method: Method = field(default_factory=Method)
    text: Text = field(default_factory=Text)
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        _check_choices(self)


_SECTIONS: dict[str, type] = {"method": Method, "text": Text, "training": Training}


# ---- checks ------------------------------------------------------------------------------------------------------


def _require(condition: bool, key: str, value: object, rule: str) -> None:
    if not condition:
        raise InputError(f"{key} = {value}: {rule}")


def _check_choices(section: Any) -> None:
    """Every value has its field's type, and is finite: tyro and TOML check theirs, a caller in Python may not."""
    prefix = "" if isinstance(section, Config) else f"{type(section).__name__.lower()}."
    for name, kind in get_type_hints(type(section)).items():
        _coerce(getattr(section, name), kind, f"{prefix}{name}")


def _coerce(value: Any, kind: Any, key: str) -> Any:
    """`value` as `kind`; an integer serves where a float is asked, nothing else is converted."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value in choices:
            return value
        near = difflib.get_close_matches(_shown(value).strip(_QUOTES), choices, 1)
        hint = _WHY_NOT.get(f"{key} = {_shown(value)}") or (f" Did you mean {near[0]!r}?" if near else "")
        raise InputError(f"{key} = {_shown(value)}: must be one of {', '.join(map(repr, choices))}.{hint}")
    options = get_args(kind) or (kind,)
    if value is None and type(None) in options:
        return None
    wanted = next(option for option in options if option is not type(None))
    fits = type(value) is wanted
    if isinstance(value, int):
        fits = (fits or (wanted is float and type(value) is int)) and abs(value) < 2**63
    elif isinstance(value, float):
        fits = fits and abs(value) < float("inf")
    elif isinstance(value, str):
        fits = fits and value.encode(errors="ignore").decode() == value
    if not fits:
        raise InputError(f"{key} = {_shown(value)}: must be {_WORDS[wanted]}")
    return float(value) if wanted is float else value


_WHY_NOT = {
    "method.pooling = 'pooler'": " A checkpoint's own head is for loading and measuring an encoder; in training the "
    "projector plays its part, and is thrown away after it."
}
"""What is said of values that look right and are not."""
_QUOTES = "\"'"
_WORDS = {
    int: "a whole number below 2^63",
    float: "a finite number",
    bool: "true or false",
    str: "text in quotes, of Unicode characters",
    Method: "a Method",
    Text: "a Text",
    Training: "a Training",
}


def _shown(value: object) -> str:
    """`value` as it appears in a message: short, whatever a recipe holds."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, tables in tables in tables
        return f"a very long {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:76]} ..."


# ---- TOML --------------------------------------------------------------------------------------------------------


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files("diffcse").joinpath("recipes").iterdir()
        if entry.name.endswith(".toml")
    )


def load_recipe(name_or_path: str) -> Config:
    """The named recipe, or the one in a TOML file.

    Raises:
        InputError: no such recipe, not TOML, an unknown key, or a value out of range; names file, line and key.
    """
    path = Path(name_or_path)
    try:
        if path.suffix == ".toml" or path.is_file():
            return parse_recipe(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such recipe file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    names = recipe_names()
    if name_or_path not in names:
        near = difflib.get_close_matches(name_or_path, names, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"--recipe {name_or_path}: no recipe of that name.{hint} There are: {', '.join(names)}; "
            "or give a path that ends in .toml"
        )
    file = resources.files("diffcse").joinpath("recipes", f"{name_or_path}.toml")
    return parse_recipe(file.read_bytes(), f"{name_or_path}.toml")


def parse_recipe(data: bytes, source: str) -> Config:
    """A `Config` from TOML bytes; `source` is the file's name in messages.

    `preset` under `[method]` first sets several fields at once (see `PRESETS`); keys written out win over it.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{source}:{line}: not UTF-8 text: save the recipe as UTF-8") from error
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib's own error is a ValueError; so is a too long number's
        raise InputError(f"{source}: not TOML: {error}") from error
    sections: dict[str, Any] = {}
    for section, kind in _SECTIONS.items():
        values = table.pop(section, {})
        if not isinstance(values, dict):
            raise InputError(f"{source}:{_line(text, [section])}: {section} must be a table: write [{section}]")
        preset = values.pop("preset", None) if kind is Method else None
        if preset is not None:
            where = f"{source}:{_line(text, [section, 'preset'])}: method.preset ="
            values = {**_preset(preset, where), **values}
        sections[section] = _section(kind, values, section, text, source)
    head = _read_fields(Config, table, [], text, source)
    return Config(**head, **sections)


def apply_preset(config: Config, name: str) -> Config:
    """`config` with the named preset's method fields set.

    Raises:
        InputError: no such preset.
    """
    return dataclasses.replace(config, method=dataclasses.replace(config.method, **_preset(name, "--preset")))


def _preset(name: object, where: str) -> dict[str, Any]:
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(f"{where} {_shown(name)}: must be one of {', '.join(map(repr, PRESETS))}")
    return PRESETS[name]


def _section(kind: type, values: dict[str, Any], section: str, text: str, source: str) -> Any:
    fields = _read_fields(kind, values, [section], text, source)
    try:
        return kind(**fields)
    except InputError as error:
        key = re.match(r"\w+\.(\w+)", str(error))
        raise InputError(f"{source}:{_line(text, [section, key[1]] if key else [section])}: {error}") from None


def _read_fields(kind: type, values: dict[str, Any], path: list[str], text: str, source: str) -> dict[str, Any]:
    kinds = _fields(kind)
    read = {}
    for key, value in values.items():
        where, name = f"{source}:{_line(text, [*path, key])}", ".".join([*path, key])
        if key not in kinds:
            raise InputError(f"{where}: unknown key {_shown(name).strip(_QUOTES)}: {_near_miss(key, path)}")
        try:
            read[key] = _coerce(value, kinds[key], name)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    return read


def _fields(kind: type) -> dict[str, Any]:
    """Names and types of what a recipe may set in a section (or outside any)."""
    return {name: hint for name, hint in get_type_hints(kind).items() if hint not in _SECTIONS.values()}


def _near_miss(key: str, path: list[str]) -> str:
    """What an unknown key was probably meant to be: the same name in another place, or a similar one in its own."""
    known = {name: [*_fields(kind), *(["preset"] if kind is Method else [])] for name, kind in _SECTIONS.items()}
    for section, keys in known.items():
        if key in keys:
            return f"did you mean {section}.{key}? Write it under [{section}]"
    here = known[path[0]] if path else [*_fields(Config), *known]
    near = difflib.get_close_matches(key, here, 1)
    return f"did you mean {'.'.join([*path, near[0]])}?" if near else f"known keys: {', '.join(here)}"


def _line(text: str, path: list[str]) -> int:
    """Line that sets the key at `path`, or else opens the innermost table around it; 1 if there is neither."""
    table: list[str] = []
    depth, line = 0, 1
    for number, content in enumerate(_LONG_STRING.sub(lambda s: "\n" * s[0].count("\n"), text).split("\n"), 1):
        found = _OPENING.match(content.strip())
        if not found:
            continue
        keys = [key.strip(_QUOTES) for key in re.findall(_KEY, found["keys"])]
        here = keys if found["table"] else [*table, *keys]
        if found["table"]:
            table = keys
        shared = here[: len(path)]
        if len(shared) > depth and shared == path[: len(shared)]:
            depth, line = len(shared), number
    return line


_KEY = r"""[\w-]+|"[^"]*"|'[^']*'"""
_OPENING = re.compile(rf"(?P<table>\[\[?)?\s*(?P<keys>(?:{_KEY})(?:\s*\.\s*(?:{_KEY}))*)\s*[=\]]")
_LONG_STRING = re.compile(r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'')


def to_toml(config: Config) -> str:
    """`config` as TOML that `parse_recipe` reads back to an equal one. Unset fields are left out."""

    def lines(section: Any) -> list[str]:
        pairs = ((f.name, getattr(section, f.name)) for f in dataclasses.fields(section))
        return [
            f"{name} = {_toml_value(value)}"
            for name, value in pairs
            if value is not None and not dataclasses.is_dataclass(value)
        ]

    blocks = [lines(config), *([f"[{name}]", *lines(getattr(config, name))] for name in _SECTIONS)]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _toml_value(value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = "".join(_ESCAPES.get(c, f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else c) for c in value)
        return f'"{escaped}"'
    return repr(value)


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def to_dict(config: Config) -> dict[str, Any]:
    """`config` as plain dictionaries, for `run.json`."""
    return dataclasses.asdict(config)


def differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two configs, as dictionaries, differ."""
    found: list[str] = []
    for key in {**one, **other}:
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}")
    return found
