"""The choices of the method: what is trained and against which losses. Tables of them are in docs/method.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from diffcse.config.fields import check_values, non_default, require, setting
from diffcse.errors import InputError

Pooling = Literal["cls", "mean", "first_last", "top2", "max", "mean_sqrt_len", "weighted_mean", "last_token"]
EncoderPooling = Literal[Pooling, "pooler"]
"""Poolings of a loaded encoder: also its checkpoint's own trained head. In training the projector has that role."""
Learn = Literal["weights", "map"]
Projector = Literal["batchnorm", "tanh", "none"]
Difference = Literal["rtd", "mlm", "corrective_lm", "none"]
Pairing = Literal["same", "next", "both"]
Positives = Literal["dropout", "next", "both", "crop"]
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
ADAPT_FEWEST, ADAPT_MOST = 200, 20_000
"""The recipe `adapt` refuses fewer texts; of more, the seed draws so many to learn from."""


@dataclass(frozen=True)
class EditFacts:
    """The properties of an editor that other choices depend on."""

    generator: GeneratorKind | None
    """The kind of language model it needs."""
    keeps_length: bool
    """Whether token i of the copy corresponds to token i of the sentence."""
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
"""The registry of editors. Each name has a class in method/edits.py."""

Edit = Literal[*EDITS]  # type: ignore[valid-type]

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
"""The behaviour of the paper's 2022 reference code (`preset = "reference"`), also where it equals our default."""

PRESETS: dict[str, dict[str, Any]] = {"reference": REFERENCE, "simcse": {"difference": "none", "projector": "tanh"}}


@dataclass(frozen=True)
class Method:
    """What is trained and against which losses: the paper's choices (DiffCSE, sections 3 and 5).

    Raises:
        InputError: a value out of range, or choices that contradict each other or train nothing.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    model: str = "mini"
    """Checkpoint that the encoder starts from: a folder, a hub id, or "mini" (the bundled one)."""
    generator: str | None = None
    """Frozen masked language model G. Unset: the checkpoint itself, if it has a masked-language-model head."""
    discriminator: str | None = None
    """Checkpoint that the discriminator D starts from. Unset: the encoder's."""
    causal_generator: str | None = None
    """Frozen causal language model with the same vocabulary, for the edit causal_lm."""
    learn: Learn = "weights"
    """What is learned: the encoder's weights by the losses, or one linear layer behind it, from the text alone."""
    map_size: int = setting(128, at_least=2)
    """For learn = "map": most dimensions of each of the three models of the text."""
    map_strength: float = setting(1.0, above=0)
    """For learn = "map": weight of the learned similarity beside the encoder's own."""
    map_ridge: float = setting(0.1, above=0)
    """For learn = "map": least penalty of the regression, in units of its mean eigenvalue."""
    pooling: Pooling | None = None
    """How token vectors become one sentence vector h. Unset: as the model's folder states, or by [CLS]."""
    projector: Projector = "batchnorm"
    """Training-only head g between h and z."""
    contrast: bool = True
    """Use the contrastive loss."""
    positives: Positives = "dropout"
    """What a sentence is pulled towards: its second dropout view, the next sentence of its document, both, or (crop)
    another span of the same text."""
    crop_share_min: float = setting(0.25, above=0, below=1)
    """For positives = "crop": least share of a text in a span; each pair of spans draws its share."""
    crop_share_max: float = setting(0.5, above=0, below=1)
    """For positives = "crop": greatest share of a text in a span."""
    crop_overlap: float = setting(0.0, at_least=0, below=1)
    """For positives = "crop": share of a span that lies in the other span too. Above 0 it teaches to match words."""
    crop_least: int = setting(3, at_least=1)
    """For positives = "crop": fewest words of a span. A shorter text is its own positive, as with dropout."""
    dropout: float | None = setting(None, at_least=0, below=1)
    """Dropout probability in encoder and discriminator. Unset: the checkpoint's own."""
    lora_rank: int | None = setting(None, above=0)
    """Train low-rank adapters of this rank instead of the encoder's weights (needs peft). Unset: all weights."""
    temperature: float = setting(0.05, above=0)
    """Temperature of the contrastive softmax."""
    difference: Difference = "rtd"
    """The difference task: conditional replaced-token detection, a conditional masked or corrective language model, or
    none (= SimCSE)."""
    rtd_weight: float = 0.005
    """Lambda: weight of the difference loss."""
    rtd_schedule: Schedule = "constant"
    """Lambda over the run: constant, or rising from 0 to it."""
    pairing: Pairing = "same"
    """Which sentence D gets an edited copy of: the embedded one, the next one of the document, or both."""
    edits: tuple[Edit, ...] = ("mlm",)
    """Ways to edit a sentence. If there are several, each sentence draws one of them."""
    edit_role: EditRole = "difference"
    """What the edited copy is used for: the difference task, or an extra positive or negative view."""
    mask_ratio: float = setting(0.30, above=0, below=1)
    """Share of tokens that are edited (for mlm: masked), between 0 and 1."""
    sampling: Sampling = "sample"
    """How a token is taken from G's distribution: drawn at random, or the most likely one."""
    sampling_temperature: float = setting(1.0, above=0)
    """Divides G's logits before a draw: below 1 gives likelier words, above 1 less likely ones."""
    edit_scope: EditScope = "masked"
    """Which positions take G's token: the masked ones, or all."""
    rtd_padding: Padding = "ignore"
    """Whether padding counts in the difference loss (with the label "original")."""
    generator_dropout: bool = False
    """Run G with its dropout on."""
    condition: Condition = "projected"
    """What D knows of the sentence: z = g(h), h, or nothing (plain ELECTRA: f learns nothing from D)."""
    inject: Inject = "replace"
    """Where D gets it: in place of the embedding of position 0, or as an additional token in front."""
    edit_columns: EditColumns = "both"
    """Supervised: whose edited copies D judges: the anchors', the positives', or both."""
    hard_negative_weight: float = 0.0
    """Added to the logit of an anchor's own hard negative, which then has the weight e to this power. Supervised, or
    with edit_role = "negative"."""
    false_negatives: FalseNegatives = "mask"
    """Pairs and next sentences: leave out (mask) or keep the negatives that equal the anchor or its positive."""

    def __post_init__(self) -> None:
        check_values(self, "method.")
        require(bool(self.edits), "method.edits", "[]", "name at least one way to edit")
        require(len({*self.edits}) == len(self.edits), "method.edits", list(self.edits), "names an edit twice")
        if self.difference != "none":
            self._check_difference()
        elif not self.contrast:
            raise InputError(
                'method.contrast = false with method.difference = "none" leaves nothing to train: set one of them'
            )
        if self.edits_sentences:
            self._check_edits()
        if self.positives != "dropout":
            self._check_positives()

    def _check_difference(self) -> None:
        rule = 'must be above 0: to train without the difference term set method.difference = "none"'
        require(self.rtd_weight > 0, "method.rtd_weight", self.rtd_weight, rule)
        if self.edit_role != "difference":
            raise InputError(
                f'method.edit_role = "{self.edit_role}" takes the edited copy as a view, not for the difference task: '
                f'set method.difference = "none" (it is "{self.difference}")'
            )
        moving = [name for name in self.edits if not EDITS[name].keeps_length]
        if self.difference == "corrective_lm" and moving:
            raise InputError(
                f'method.difference = "corrective_lm" predicts the original token at each position, and "{moving[0]}" '
                "moves the positions: remove it from method.edits"
            )
        if not self.contrast and self.condition == "none":
            raise InputError(
                'method.contrast = false with method.condition = "none" gives the encoder no gradient: set '
                'condition = "projected" or "pooled", or contrast = true'
            )

    def _check_edits(self) -> None:
        partial = [name for name in self.edits if not EDITS[name].takes_all]
        if self.edit_scope == "all" and partial:
            raise InputError(
                f'method.edit_scope = "all": the edit "{partial[0]}" cannot rewrite every position: set '
                'edit_scope = "masked", or remove it from method.edits'
            )
        if "causal_lm" in self.edits and self.causal_generator is None:
            raise InputError(
                'method.edits: "causal_lm" needs a causal language model with the encoder\'s vocabulary: set '
                "method.causal_generator (diffcse pretrain --objective causal --tokenizer ENCODER --recipe masked "
                "makes a model of this kind)"
            )

    def _check_positives(self) -> None:
        if self.crop_share_min > self.crop_share_max:
            raise InputError(
                f"method.crop_share_min = {self.crop_share_min:g}: must be at most crop_share_max = "
                f"{self.crop_share_max:g}"
            )
        if not self.contrast:
            raise InputError(
                f'method.positives = "{self.positives}" with method.contrast = false: no loss uses positives; set '
                'positives = "dropout", or contrast = true'
            )
        for key, plain in (("pairing", "same"), ("edit_role", "difference")):
            if getattr(self, key) != plain:
                raise InputError(
                    f'method.{key} = "{getattr(self, key)}" with method.positives = "{self.positives}": only one of '
                    f'them can use the further view: set {key} = "{plain}", or positives = "dropout"'
                )

    @property
    def reads_next(self) -> bool:
        """Whether training needs to know which sentence follows which."""
        return self.pairing != "same" or self.positives in ("next", "both")

    @property
    def edits_sentences(self) -> bool:
        """Whether edited copies are made at all; `difference = "mlm"` only masks."""
        return self.difference in ("rtd", "corrective_lm") or self.edit_role != "difference"

    def needs(self, kind: GeneratorKind) -> bool:
        """Whether a frozen language model of this kind takes part."""
        return self.edits_sentences and any(EDITS[name].generator == kind for name in self.edits)

    def unused(self) -> list[str]:
        """Names of the fields that differ from their default and have no effect beside the other choices."""
        if self.learn == "map":
            used = {"model", "learn", "pooling", "difference", "map_size", "map_strength", "map_ridge"}
            return non_default(self, {f.name for f in fields(self)} - used)
        idle: set[str] = {"map_size", "map_strength", "map_ridge"}
        if self.positives != "crop":
            idle |= {"crop_share_min", "crop_share_max", "crop_overlap", "crop_least"}
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
        if self.condition == "none":
            idle |= {"inject"}  # D gets nothing
        if self.sampling == "argmax":
            idle |= {"sampling_temperature"}
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
        return non_default(self, idle)
