"""Every choice of a run, in frozen dataclasses that read and write as TOML.

A result can only be repeated if everything that shaped it has a name and a value. So there is no option outside
`Config`: a recipe file is one `Config`, the command line overrides fields of one, and `run.json` stores one. A key
that does not exist is an error that names the nearest one that does, never ignored. `Pretraining` is the same for
making a language model from scratch.

Field comments become the command line's help; tables of what each choice means are in docs/method.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from diffcse.errors import InputError

Pooling = Literal["cls", "mean", "first_last", "top2"]
EncoderPooling = Literal[Pooling, "pooler"]
"""What an encoder may have besides: its checkpoint's own trained head. In training the projector plays that part."""
Projector = Literal["batchnorm", "tanh", "none"]
Difference = Literal["rtd", "mlm", "corrective_lm", "none"]
Pairing = Literal["same", "next", "both"]
Positives = Literal["dropout", "next", "both"]
EditRole = Literal["difference", "positive", "negative"]
EditColumns = Literal["anchor", "positive", "both"]
FalseNegatives = Literal["mask", "keep"]
Sampling = Literal["sample", "argmax"]
Inject = Literal["replace", "prepend"]
Schedule = Literal["constant", "linear", "cosine"]
EditScope = Literal["masked", "all"]
Padding = Literal["ignore", "include"]
GeneratorKind = Literal["masked", "causal"]
Condition = Literal["projected", "pooled", "none"]
Precision = Literal["auto", "fp32", "bf16"]
Objective = Literal["mlm", "causal"]
Decay = Literal["linear", "cosine"]
Activation = Literal["gelu", "gelu_tanh"]
StartEmbeddings = Literal["none", "ppmi_svd", "next_sentences"]
NextReads = Literal["all", "unmasked", "cls"]
Store = Literal["fp16", "fp32"]
Select = Literal["auto", "labels", "label_free", "last"]


@dataclass(frozen=True)
class EditFacts:
    """What the other choices must know of a way to edit."""

    generator: GeneratorKind | None
    """The kind of language model it needs."""
    keeps_length: bool
    """Whether token i of the copy stands for token i of the sentence."""
    lengthens: bool = False
    """Whether a copy may have more tokens than the sentence."""
    takes_all: bool = False
    """Whether it can edit every position (edit_scope = "all")."""


EDITS = {
    "mlm": EditFacts(generator="masked", keeps_length=True, takes_all=True),
    "causal_lm": EditFacts(generator="causal", keeps_length=True, takes_all=True),
    "replace": EditFacts(generator=None, keeps_length=True),
    "insert": EditFacts(generator="masked", keeps_length=False, lengthens=True),
    "delete": EditFacts(generator=None, keeps_length=False),
    "insert_random": EditFacts(generator=None, keeps_length=False, lengthens=True),
}
"""The registry of editors: a name here, a class of that name in method/edits.py, and nothing else."""

Edit = Literal[*EDITS]  # type: ignore[valid-type]


@dataclass(frozen=True)
class Method:
    """What is trained and against which losses: the paper's choices (DiffCSE, sections 3 and 5)."""

    model: str = "mini"
    """Checkpoint the encoder starts from: a folder, a hub id, or "mini" (the one bundled here)."""
    generator: str | None = None
    """Frozen masked language model G. Unset: the checkpoint itself, if it has a masked-language-model head."""
    discriminator: str | None = None
    """Checkpoint the discriminator D starts from. Unset: the same as the encoder."""
    causal_generator: str | None = None
    """Frozen causal language model over the same vocabulary, for the edit causal_lm."""
    pooling: Pooling = "cls"
    """How token vectors become one sentence vector h."""
    projector: Projector = "batchnorm"
    """Training-only head g between h and z."""
    contrast: bool = True
    """Use the contrastive loss."""
    positives: Positives = "dropout"
    """What a sentence is pulled towards: its second dropout view, the next sentence of its document, or both."""
    dropout: float | None = None
    """Probability of the dropout layers that encoder and discriminator have. Unset: the checkpoint's own."""
    lora_rank: int | None = None
    """Train low-rank adapters of this rank in the encoder instead of its weights (needs peft). Unset: all weights."""
    temperature: float = 0.05
    """Temperature of the contrastive softmax."""
    difference: Difference = "rtd"
    """The equivariant task beside it: conditional replaced-token detection, a conditional masked or corrective language
    model, or none (= SimCSE)."""
    rtd_weight: float = 0.005
    """Lambda: weight of the difference loss."""
    rtd_schedule: Schedule = "constant"
    """Lambda over the run: constant, or a ramp from 0 up to it."""
    pairing: Pairing = "same"
    """Which sentence D sees edited: the one embedded, the next one of the document, or both."""
    edits: tuple[Edit, ...] = ("mlm",)
    """Ways to edit a sentence; of several, each sentence draws one."""
    edit_role: EditRole = "difference"
    """What the edited copy is for: the difference task, or instead an extra positive or negative view."""
    mask_ratio: float = 0.30
    """Share of tokens that are edited (for mlm: masked), 0 to 1."""
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
    edit_columns: EditColumns = "both"
    """Supervised: whose edits D judges: the anchors', the positives', or both."""
    hard_negative_weight: float = 0.0
    """Supervised: added to the logit of an anchor's own hard negative (a weight of e to this power)."""
    false_negatives: FalseNegatives = "mask"
    """Pairs and next sentences: what becomes of other rows' sentences that equal an anchor or its positive."""

    def __post_init__(self) -> None:
        _check_choices(self)
        _require(self.temperature > 0, "method.temperature", self.temperature, "must be above 0")
        _require(
            self.sampling_temperature > 0, "method.sampling_temperature", self.sampling_temperature, "must be above 0"
        )
        _require(self.dropout is None or 0 <= self.dropout < 1, "method.dropout", self.dropout, "must lie in [0, 1)")
        _require(self.lora_rank is None or self.lora_rank > 0, "method.lora_rank", self.lora_rank, "must be above 0")
        _require(0 < self.mask_ratio < 1, "method.mask_ratio", self.mask_ratio, "must lie between 0 and 1")
        object.__setattr__(self, "edits", tuple(self.edits))  # a list will do in Python
        _require(bool(self.edits), "method.edits", "[]", "name at least one way to edit")
        _require(len({*self.edits}) == len(self.edits), "method.edits", list(self.edits), "names one of them twice")
        self._check_difference() if self.difference != "none" else self._check_contrast_alone()
        if self.edits_sentences:
            self._check_edits()
        if self.positives != "dropout":
            if not self.contrast:
                raise InputError(
                    f'method.positives = "{self.positives}" with method.contrast = false: nothing is pulled anywhere; '
                    'leave positives at "dropout", or switch the contrastive loss on'
                )
            for key, plain in (("pairing", "same"), ("edit_role", "difference")):
                if getattr(self, key) != plain:
                    raise InputError(
                        f'method.{key} = "{getattr(self, key)}" with method.positives = "{self.positives}": only one '
                        f'can have the further view: leave {key} at "{plain}", or positives at "dropout"'
                    )

    def _check_contrast_alone(self) -> None:
        if not self.contrast:
            raise InputError(
                'method.contrast = false with method.difference = "none" leaves nothing to train: switch one of them on'
            )

    def _check_difference(self) -> None:
        _require(
            self.rtd_weight > 0,
            "method.rtd_weight",
            self.rtd_weight,
            'must be above 0: to train without the difference term set method.difference = "none"',
        )
        if self.edit_role != "difference":
            raise InputError(
                f'method.edit_role = "{self.edit_role}" takes the edited copy as a view instead of the difference '
                f'task: set method.difference = "none" (it is "{self.difference}")'
            )
        if self.difference == "mlm" and self.edits != ("mlm",):
            raise InputError(
                'method.difference = "mlm" has D fill the masks itself, so nothing else edits: leave method.edits at '
                '["mlm"], or set method.difference = "rtd"'
            )
        if self.difference == "corrective_lm":
            for name in self.edits:
                if not EDITS[name].keeps_length:
                    raise InputError(
                        f'method.difference = "corrective_lm" asks D for the original token at each position, and '
                        f'after "{name}" positions no longer correspond: take it out of method.edits'
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

    def _check_edits(self) -> None:
        if self.sampling == "argmax" and self.sampling_temperature != 1:
            raise InputError(
                f"method.sampling_temperature = {self.sampling_temperature} changes nothing with "
                'method.sampling = "argmax": set sampling = "sample", or leave the temperature at 1'
            )
        for name in self.edits:
            if self.edit_scope == "all" and not EDITS[name].takes_all:
                raise InputError(
                    f'method.edit_scope = "all" has a generator rewrite every position, which "{name}" does not do: '
                    'set edit_scope = "masked", or take it out of method.edits'
                )
        if "causal_lm" in self.edits and self.causal_generator is None:
            raise InputError(
                'method.edits holds "causal_lm", which needs a causal language model over the encoder\'s vocabulary: '
                "name one as method.causal_generator (diffcse pretrain --objective causal --tokenizer ENCODER "
                "--recipe masked makes one)"
            )

    @property
    def reads_next(self) -> bool:
        """Whether training needs to know which sentence follows which."""
        return self.pairing != "same" or self.positives != "dropout"

    @property
    def edits_sentences(self) -> bool:
        """Whether edited copies are made at all; `difference = "mlm"` only masks."""
        return self.difference in ("rtd", "corrective_lm") or self.edit_role != "difference"

    def needs(self, kind: GeneratorKind) -> bool:
        """Whether a frozen language model of this kind takes part."""
        return self.edits_sentences and any(EDITS[name].generator == kind for name in self.edits)

    def unused(self) -> list[str]:
        """Names of the fields that are set to something else than by default, and change nothing here."""
        idle: set[str] = set()
        if not self.contrast:
            idle |= {"temperature", "hard_negative_weight", "false_negatives"}
            idle |= {"projector"} if self.condition == "pooled" else set()
        if self.projector == "none" and self.condition == "pooled":
            idle |= {"condition"}  # z is h
        if self.difference == "none":
            idle |= {"discriminator", "rtd_weight", "rtd_schedule", "rtd_padding", "condition", "inject", "pairing"}
            idle |= {"edit_columns"}
        elif self.difference != "rtd":
            idle |= {"rtd_padding"}
        if not self.edits_sentences:
            idle |= {"sampling", "sampling_temperature", "edit_scope", "edits", "causal_generator"}
            if self.difference != "mlm":
                idle |= {"mask_ratio"}
        if not self.needs("masked"):
            idle |= {"generator"}
        if not self.needs("causal"):
            idle |= {"causal_generator"}
        if not self.needs("masked") and not self.needs("causal"):
            idle |= {"sampling", "sampling_temperature", "edit_scope", "generator_dropout"}
        return _idle(self, idle)


REFERENCE: dict[str, Any] = {
    "pooling": "cls",
    "projector": "batchnorm",
    "contrast": True,
    "positives": "dropout",
    "temperature": 0.05,
    "difference": "rtd",
    "rtd_weight": 0.005,
    "rtd_schedule": "constant",
    "pairing": "same",
    "edits": ("mlm",),
    "edit_role": "difference",
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


_BOTH = "anchor and positive belong together: set text.anchor and text.positive (--anchor, --positive)"


@dataclass(frozen=True)
class PlainText:
    """Which sentences of the files are read."""

    column: str = "text"
    """Column with the sentences, in files that have columns (.csv, .tsv, .jsonl, .parquet, hub data sets)."""
    document: str | None = None
    """Column that names the document a row belongs to; rows of one document stand together. Plain text: an empty line
    ends a document."""
    split_sentences: bool = False
    """Lines (or cells) are running prose: split each into sentences."""
    language: str = "en"
    """Language of the prose, by its ISO 639-1 code, for split_sentences."""


@dataclass(frozen=True)
class Text(PlainText):
    """What the files hold, and which of it is read: everything between a file and an example."""

    anchor: str | None = None
    """Supervised: column with the anchors. Set it together with positive."""
    positive: str | None = None
    """Supervised: column with each anchor's positive, a sentence that means the same."""
    hard_negative: str | None = None
    """Supervised, optional: column with each anchor's hard negative, a sentence that looks alike and is not."""

    def __post_init__(self) -> None:
        _check_choices(self)
        _require((self.anchor is None) == (self.positive is None), "text.anchor", self.anchor, _BOTH)
        _require(
            self.hard_negative is None or self.anchor is not None,
            "text.hard_negative",
            self.hard_negative,
            "needs anchor and positive beside it",
        )
        named = [name for name in (self.anchor, self.positive, self.hard_negative) if name is not None]
        _require(len(set(named)) == len(named), "text.anchor", self.anchor, "one column cannot have two roles")
        if named:
            for key, plain in (("document", None), ("split_sentences", False), ("column", "text")):
                _require(
                    getattr(self, key) == plain, f"text.{key}", getattr(self, key), "is for plain text, not for pairs"
                )
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
    """Sentences that the contrastive loss sees together, each against all others."""
    mini_batch_size: int | None = None
    """Sentences (each view counts as one) that go through a network at once; unset: all. Memory grows with this instead
    of batch_size, the loss still sees the whole batch. Costs one more forward pass: some 25 % of the speed."""
    gradient_checkpointing: bool = False
    """Keep only what enters each layer, and compute the rest again for the gradient: less memory for long texts and
    deep models, the same weights. Costs one more forward pass: some 25 % of the speed."""
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
    discriminator_learning_rate: float | None = None
    """The same for the discriminator and its token head alone. Unset: learning_rate, as in the paper."""
    warmup_ratio: float = 0.0
    """Share of the steps over which the learning rate first rises."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    max_grad_norm: float = 1.0
    """All trained weights' gradients together are clipped to this length."""
    precision: Precision = "auto"
    """bf16 autocast where the hardware computes in it (auto), or one of the two."""
    packing: bool = True
    """Compute no padding, where the architecture can do without: the same numbers, faster."""
    dev: str | None = None
    """TSV of graded pairs (score, sentence, sentence), or "pairs", 399 that come along. Its Spearman picks the best
    step."""
    select: Select = "auto"
    """What picks the step that is kept: the dev file (labels), sentences held out from the text (label_free), or
    nothing (last). auto: the dev file if there is one, else held-out sentences."""
    eval_every: int = 125
    """Updates between evaluations on the dev file or the held-out sentences."""
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
        _require(
            self.mini_batch_size is None or 1 <= self.mini_batch_size <= self.batch_size,
            "training.mini_batch_size",
            self.mini_batch_size,
            f"must lie between 1 and batch_size = {self.batch_size}: a batch is taken in parts of this size",
        )
        _require(self.epochs > 0, "training.epochs", self.epochs, "must be above 0")
        _require(self.max_steps is None or self.max_steps > 0, "training.max_steps", self.max_steps, "must be above 0")
        _require(self.learning_rate > 0, "training.learning_rate", self.learning_rate, "must be above 0")
        rate = self.discriminator_learning_rate
        _require(rate is None or rate > 0, "training.discriminator_learning_rate", rate, "must be above 0")
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
        method, text = self.method, self.text
        if text.supervised:
            for key, plain in (("pairing", "same"), ("edit_role", "difference"), ("positives", "dropout")):
                if getattr(method, key) != plain:
                    raise InputError(
                        f'method.{key} = "{getattr(method, key)}" is for plain text, and text.anchor names pairs: '
                        f'leave it at "{plain}", or train on plain text'
                    )
        else:
            for key, plain in (("edit_columns", "both"), ("false_negatives", "mask")):
                if getattr(method, key) != plain and not (key == "false_negatives" and method.positives != "dropout"):
                    raise InputError(
                        f'method.{key} = "{getattr(method, key)}" is for pairs: name their columns with text.anchor '
                        "and text.positive, or leave it out"
                    )
        if method.hard_negative_weight and text.hard_negative is None:
            raise InputError(
                f"method.hard_negative_weight = {method.hard_negative_weight}: there are no hard negatives; name their "
                "column with text.hard_negative"
            )


_SECTIONS: dict[str, type] = {"method": Method, "text": Text, "training": Training}


@dataclass(frozen=True)
class Pretraining:
    """A tokenizer and a small language model from scratch: what it looks like and how it is trained."""

    name: str = "default"
    """The recipe's name."""
    purpose: str = ""
    """What this recipe makes."""
    hardware: str = ""
    """What it needs to run in reasonable time."""
    objective: Objective = "mlm"
    """mlm: fill masked tokens from both sides (encoder start, generator). causal: predict each from those before."""
    model: str | None = None
    """Go on from this masked language model (a folder, a hub id, or "mini"), with its tokenizer and shape. Unset: from
    scratch."""
    start_share: float = 0.0
    """With model: what is saved is the average of the weights it had, which get this share, and of the trained ones: it
    keeps of both (Wortsman et al., 2022, arXiv 2109.01903)."""
    tokenizer: str | None = None
    """Take this tokenizer (a folder or hub id) unchanged, to make a generator for its model. Unset: train one."""
    vocabulary: int = 16_384
    """Tokens of a tokenizer trained here, special ones included."""
    lowercase: bool = True
    """A tokenizer trained here lower-cases and strips accents (as BERT's uncased one does)."""
    tokenizer_sentences: int = 1_000_000
    """At most this many sentences, evenly spread, are read to train the tokenizer."""
    layers: int = 4
    """Transformer layers."""
    width: int = 256
    """Numbers in a token's vector."""
    heads: int = 4
    """Attention heads in a layer."""
    intermediate: int = 1024
    """Width of the feed-forward part between its two matrices."""
    activation: Activation = "gelu"
    """gelu, or its tanh approximation."""
    positions: int = 128
    """Longest input the model can take, in tokens."""
    dropout: float = 0.0
    """Dropout while pretraining. What is saved says 0.1 whatever stands here: contrastive views need it."""
    start_embeddings: StartEmbeddings = "none"
    """Token vectors to begin with: random; the SVD of the corpus's word co-occurrences (ppmi_svd); or (mlm) these,
    trained until weighted sums of a sentence's tokens tell which sentence comes next (next_sentences)."""
    start_tokens: int = 30_000_000
    """Tokens counted for the SVD, evenly spread over the corpus."""
    next_weight: float = 0.0
    """mlm: weight of a second loss, added to the masked tokens': by the embedding of a sentence, the next one is told
    from the others of the batch. Above 0, batches are made of sentences and the ones that follow them; so the
    text must be in its own order."""
    next_reads: NextReads = "all"
    """What that embedding is of the last layer: the mean of all tokens (all); of those that are not to be predicted,
    and then everything predicted is a [MASK] (unmasked); or [CLS] (cls). With these two no position serves masked
    tokens and the embedding."""
    sums_weight: float = 0.0
    """mlm: weight of a third loss beside those: 1 - the cosine between that embedding and the weighted sum of the token
    vectors that start_embeddings = "next_sentences" learns. Above 0 only with next_weight above 0."""
    next_temperature: float = 0.05
    """tau of the loss that next_weight weighs."""
    max_tokens: int = 64
    """Longer sentences are cut to this many tokens, special ones included."""
    mask_ratio: float = 0.20
    """mlm: share of tokens predicted; of these 80 % masked, 10 % replaced, 10 % left (Devlin et al., 2019)."""
    batch_tokens: int = 8192
    """Tokens in one weight update."""
    epochs: float = 1.0
    """Passes over the corpus; with next_weight, over its pairs of sentences: most sentences are in two."""
    max_steps: int | None = None
    """Weight updates; overrides epochs when set."""
    learning_rate: float = 1e-3
    """Peak of AdamW's learning rate."""
    schedule: Decay = "linear"
    """How the learning rate falls to 0 after the warm-up."""
    warmup_ratio: float = 0.03
    """Share of the steps over which the learning rate first rises."""
    weight_decay: float = 0.01
    """AdamW's weight decay, of matrices only."""
    max_grad_norm: float = 1.0
    """All gradients together are clipped to this length."""
    held_out: int = 2000
    """Sentences that are never trained on, by which the model is measured."""
    seed: int = 42
    """Decides start weights, held-out sentences, batches, masks and dropout."""
    precision: Precision = "auto"
    """bf16 autocast where the hardware computes in it (auto), or one of the two."""
    eval_every: int = 500
    """Updates between measurements on the held-out sentences."""
    checkpoint_every: int = 500
    """Updates between checkpoints that --resume can start from."""
    log_every: int = 25
    """Updates between logged values (means over the updates since the last)."""
    store: Store = "fp16"
    """How the weights are written. Half the bytes lose nothing that matters; they are computed with in fp32."""

    def __post_init__(self) -> None:
        _check_choices(self)
        for name, least in {
            "vocabulary": 32,
            "tokenizer_sentences": 1,
            "layers": 1,
            "width": 1,
            "heads": 1,
            "intermediate": 1,
            "positions": 4,
            "start_tokens": 1,
            "max_tokens": 4,
            "batch_tokens": 4,
            "held_out": 1,
            "seed": 0,
            "eval_every": 1,
            "checkpoint_every": 1,
            "log_every": 1,
        }.items():
            value = getattr(self, name)
            _require(value >= least, name, value, f"must be at least {least}")
        _require(self.seed < 2**63, "seed", self.seed, "must be below 2^63")
        _require(self.width % self.heads == 0, "width", self.width, f"must be a multiple of heads = {self.heads}")
        if self.model is None:
            room = f"is above positions = {self.positions}"
            _require(self.max_tokens <= self.positions, "max_tokens", self.max_tokens, room)
        _require(
            self.max_tokens <= self.batch_tokens,
            "batch_tokens",
            self.batch_tokens,
            f"must hold at least one sentence of max_tokens = {self.max_tokens}",
        )
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "must lie in [0, 1)")
        _require(0 < self.mask_ratio < 1, "mask_ratio", self.mask_ratio, "must lie between 0 and 1")
        _require(self.epochs > 0, "epochs", self.epochs, "must be above 0")
        _require(self.max_steps is None or self.max_steps > 0, "max_steps", self.max_steps, "must be above 0")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "must be above 0")
        _require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "must lie in [0, 1)")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "must not be negative")
        _require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "must be above 0")
        _require(self.next_weight >= 0, "next_weight", self.next_weight, "must not be negative")
        _require(self.sums_weight >= 0, "sums_weight", self.sums_weight, "must not be negative")
        _require(self.next_temperature > 0, "next_temperature", self.next_temperature, "must be above 0")
        _require(0 <= self.start_share < 1, "start_share", self.start_share, "must lie in [0, 1)")
        scratch = "is of the model to go on from, and there is none: give --model (or --recipe further), or set it to 0"
        _require(self.model is not None or not self.start_share, "start_share", self.start_share, scratch)
        _require(self.model is None or self.tokenizer is None, "tokenizer", self.tokenizer, "model brings its own")
        if self.objective == "causal":
            _require(self.model is None, "model", self.model, "goes on from masked language models: objective = mlm")
            both_ways = (
                "needs a model that reads both ways. For objective = causal set next_weight = 0 and "
                "start_embeddings = ppmi_svd and leave sums_weight out, as the recipe masked does (--recipe masked)"
            )
            _require(self.next_weight == 0, "next_weight", self.next_weight, both_ways)
            _require(self.start_embeddings != "next_sentences", "start_embeddings", self.start_embeddings, both_ways)
        if self.sums_weight:
            needs = "needs next_weight above 0; set it to 0 too (or, for masked tokens alone, take --recipe masked)"
            _require(self.next_weight > 0, "sums_weight", self.sums_weight, needs)
            begins = "is of the vectors that start_embeddings = next_sentences begins with: choose that, or set it to 0"
            _require(self.start_embeddings == "next_sentences", "sums_weight", self.sums_weight, begins)
            given = "a given model does not begin with the vectors it is of: take --recipe further, or set it to 0"
            _require(self.model is None, "sums_weight", self.sums_weight, given)
        if self.start_embeddings == "next_sentences" and self.model is None:
            room = "start_embeddings = next_sentences needs 8 or more, two of which only fill up"
            _require(self.width >= 8, "width", self.width, room)

    @property
    def pooling(self) -> Pooling:
        """How the model is to be pooled: at [CLS] nothing was learned unless something was asked of it."""
        return "cls" if self.next_weight > 0 and self.next_reads == "cls" else "mean"

    @property
    def reads_next(self) -> bool:
        """Whether it matters which sentence follows which."""
        return self.next_weight > 0 or (self.model is None and self.start_embeddings == "next_sentences")

    def unused(self) -> list[str]:
        """Names of the fields that are set to something else than by default, and change nothing here."""
        return _idle(self, self._without_effect())

    def _without_effect(self) -> set[str]:
        """Names of the fields that change nothing beside the others."""
        idle: set[str] = set()
        if self.objective == "causal":
            idle |= {"mask_ratio"}
        if self.next_weight == 0:
            idle |= {"next_temperature", "next_reads"}
        if self.start_embeddings == "none":
            idle |= {"start_tokens"}
        if self.tokenizer is not None or self.model is not None:
            idle |= {"vocabulary", "lowercase", "tokenizer_sentences"}
        if self.model is not None:
            idle |= {"layers", "width", "heads", "intermediate", "activation", "positions"}
            idle |= {"start_embeddings", "start_tokens"}
        return idle


# ---- checks ------------------------------------------------------------------------------------------------------


def _idle(section: Any, names: set[str]) -> list[str]:
    """Those of `names` that are set to something else than by default."""
    fields = dataclasses.fields(section)
    return [f.name for f in fields if f.name in names and getattr(section, f.name) != f.default]


def _require(condition: bool, key: str, value: object, rule: str) -> None:
    if not condition:
        raise InputError(f"{key} = {value}: {rule}")


def _check_choices(section: Any) -> None:
    """Every value has its field's type, and is finite: tyro and TOML check theirs, a caller in Python may not."""
    prefix = "" if isinstance(section, Config | Pretraining) else f"{type(section).__name__.lower()}."
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
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{key} = {_shown(value)}: must be a list, such as [{_shown(value)}]")
        return tuple(_coerce(item, get_args(kind)[0], key) for item in value)
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


def recipe_names(folder: str = "recipes") -> list[str]:
    """Names of the recipes that come with the package in `folder`."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files("diffcse").joinpath(folder).iterdir()
        if entry.name.endswith(".toml")
    )


def load_recipe(name_or_path: str) -> Config:
    """The named recipe, or the one in a TOML file.

    Raises:
        InputError: no such recipe, not TOML, an unknown key, or a value out of range; names file, line and key.
    """
    return parse_recipe(*recipe_file(name_or_path, "recipes"))


def load_pretraining(name_or_path: str) -> Pretraining:
    """The named recipe for `diffcse pretrain`, or the one in a TOML file.

    Raises:
        InputError: as `load_recipe`.
    """
    return parse_pretraining(*recipe_file(name_or_path, "recipes/pretrain"))


def recipe_file(name_or_path: str, folder: str, option: str = "--recipe") -> tuple[bytes, str]:
    """(content, name for messages) of a TOML file: one of the package's in `folder`, by its name, or any by its path.

    Raises:
        InputError: there is none, or it cannot be read; `option` says where it was named.
    """
    path = Path(name_or_path)
    try:
        if path.suffix == ".toml" or path.is_file():
            return path.read_bytes(), str(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such {option.lstrip('-')} file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    names = recipe_names(folder)
    if name_or_path not in names:
        near = difflib.get_close_matches(name_or_path, names, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        kind = option.lstrip("-")
        raise InputError(
            f"{option} {name_or_path}: no {kind} of that name.{hint} There are: {', '.join(names)}; "
            "or give a path that ends in .toml"
        )
    file = resources.files("diffcse").joinpath(folder, f"{name_or_path}.toml")
    return file.read_bytes(), f"{name_or_path}.toml"


def parse_recipe(data: bytes, source: str) -> Config:
    """A `Config` from TOML bytes; `source` is the file's name in messages.

    `preset` under `[method]` first sets several fields at once (see `PRESETS`); keys written out win over it.
    """
    text, table = read_toml(data, source)
    return override(Config(), table, text, source)


def override(config: Config, table: dict[str, Any], text: str, source: str) -> Config:
    """`config` with what `table` sets, as a recipe sets it; `text` is where the table stands, for line numbers.

    Raises:
        InputError: an unknown key, or a value out of range or out of place; names file, line and key.
    """
    sections: dict[str, Any] = {}
    for section, kind in _SECTIONS.items():
        values = table.get(section, {})
        if not isinstance(values, dict):
            raise InputError(f"{source}:{line_of(text, [section])}: {section} must be a table: write [{section}]")
        values = dict(values)
        preset = values.pop("preset", None) if kind is Method else None
        if preset is not None:
            where = f"{source}:{line_of(text, [section, 'preset'])}: method.preset ="
            values = {**_preset(preset, where), **values}
        fields = read_fields(kind, values, [section], text, source)
        make = functools.partial(dataclasses.replace, getattr(config, section), **fields)
        sections[section] = _located(make, text, source)
    rest = {key: value for key, value in table.items() if key not in _SECTIONS}
    head = read_fields(Config, rest, [], text, source)
    return _located(lambda: dataclasses.replace(config, **head, **sections), text, source)


def parse_pretraining(data: bytes, source: str) -> Pretraining:
    """A `Pretraining` from TOML bytes, which have no sections; `source` is the file's name in messages."""
    text, table = read_toml(data, source)
    fields = read_fields(Pretraining, table, [], text, source)
    return _located(lambda: Pretraining(**fields), text, source)


def read_toml(data: bytes, source: str) -> tuple[str, dict[str, Any]]:
    """(text, table) of a TOML file."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{source}:{line}: not UTF-8 text: save the recipe as UTF-8") from error
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib's own error is a ValueError; so is a too long number's
        raise InputError(f"{source}: not TOML: {error}") from error
    return text, table


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


def _located(make: Callable[[], Any], text: str, source: str) -> Any:
    """`make()`, its error completed by the file and the line that sets the key it begins with."""
    try:
        return make()
    except InputError as error:
        key = re.match(r"(\w+)(?:\.(\w+))?", str(error))
        path = [part for part in key.groups() if part] if key else []
        raise InputError(f"{source}:{line_of(text, path)}: {error}") from None


def read_fields(kind: type, values: dict[str, Any], path: list[str], text: str, source: str) -> dict[str, Any]:
    """`values`, each checked against the field of its name in the dataclass `kind`.

    Raises:
        InputError: an unknown key, or a value of another type; names file, line and key.
    """
    kinds = _fields(kind)
    read = {}
    for key, value in values.items():
        where, name = f"{source}:{line_of(text, [*path, key])}", ".".join([*path, key])
        if key not in kinds:
            raise InputError(f"{where}: unknown key {_shown(name).strip(_QUOTES)}: {_near_miss(key, path, kind)}")
        try:
            read[key] = _coerce(value, kinds[key], name)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    return read


def _fields(kind: type) -> dict[str, Any]:
    """Names and types of what a recipe may set in a section (or outside any)."""
    return {name: hint for name, hint in get_type_hints(kind).items() if hint not in _SECTIONS.values()}


def _near_miss(key: str, path: list[str], kind: type) -> str:
    """What an unknown key was probably meant to be: the same name in another place, or a similar one in its own."""
    known = {name: [*_fields(kind), *(["preset"] if kind is Method else [])] for name, kind in _SECTIONS.items()}
    known = {} if kind is Pretraining else known
    for section, keys in known.items():
        if key in keys:
            return f"did you mean {section}.{key}? Write it under [{section}]"
    here = known[path[0]] if kind in _SECTIONS.values() else [*_fields(kind), *known]
    near = difflib.get_close_matches(key, here, 1)
    return f"did you mean {'.'.join([*path, near[0]])}?" if near else f"known keys: {', '.join(here)}"


def line_of(text: str, path: list[str]) -> int:
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


def to_toml(config: Config | Pretraining) -> str:
    """`config` as TOML that its parser reads back to an equal one. Unset fields are left out.

    So are fields without effect where `Pretraining` goes on from a model, the shape of a new one above all: it would
    seem to be that one's.
    """
    idle: set[str] = set()
    if isinstance(config, Pretraining) and config.model is not None:
        idle = config._without_effect() - set(config.unused())

    def lines(section: Any) -> list[str]:
        pairs = ((f.name, getattr(section, f.name)) for f in dataclasses.fields(section))
        return [
            f"{name} = {_toml_value(value)}"
            for name, value in pairs
            if value is not None and not dataclasses.is_dataclass(value) and name not in idle
        ]

    sections = _SECTIONS if isinstance(config, Config) else {}
    blocks = [lines(config), *([f"[{name}]", *lines(getattr(config, name))] for name in sections)]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _toml_value(value: bool | int | float | str | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = "".join(_ESCAPES.get(c, f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else c) for c in value)
        return f'"{escaped}"'
    return repr(value)


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dictionaries and lists, for `run.json`."""
    return {
        name: to_dict(value) if dataclasses.is_dataclass(value) else list(value) if isinstance(value, tuple) else value
        for name, value in ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))
    }


def said_before(names: Sequence[str], before: Mapping[str, Any]) -> str:
    """Fields by their dotted names, each with its value in a config as dictionary: "method.temperature was 0.05".

    >>> said_before(["seed", "a.b", "a.c"], {"seed": 1, "a": {"b": None}})
    'seed was 1, a.b was not set, a.c was not set'
    """
    said = []
    for name in names:
        value: Any = before
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        said.append(f"{name} was {'not set' if value is None else json.dumps(value)}")
    return ", ".join(said)


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
