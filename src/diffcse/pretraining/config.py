"""The choices of `diffcse pretrain`, in a frozen dataclass that reads and writes as TOML without sections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffcse.config import fields
from diffcse.config.fields import check_values, non_default, override, read_toml, require, setting
from diffcse.config.method import Pooling
from diffcse.config.run import Precision, recipe_file

Objective = Literal["mlm", "causal"]
StartEmbeddings = Literal["none", "ppmi_svd", "next_sentences"]
NextReads = Literal["all", "cls"]
Store = Literal["fp16", "fp32"]


@dataclass(frozen=True)
class Pretraining:
    """How a small language model and its tokenizer are made.

    Raises:
        InputError: a value out of range, or choices that contradict each other.
    """

    name: str = setting("default", affects="nothing")
    """The recipe's name."""
    purpose: str = setting("", affects="nothing")
    """What this recipe makes."""
    hardware: str = setting("", affects="nothing")
    """What it needs to run in reasonable time."""
    objective: Objective = "mlm"
    """mlm: predict masked tokens from both sides (for encoders, generators). causal: predict each token from those
    before it."""
    model: str | None = None
    """Continue from this masked language model (a folder, a hub id, or "mini"), with its tokenizer and shape. Unset:
    from scratch."""
    start_share: float = setting(0.0, at_least=0, below=1)
    """With model: share of its weights in the saved average of them and the trained ones (Wortsman et al., 2022, arXiv
    2109.01903)."""
    tokenizer: str | None = None
    """Use this tokenizer (a folder or hub id) unchanged, to make a generator for its model. Unset: train one."""
    vocabulary: int = setting(16_384, at_least=32)
    """Tokens of a tokenizer trained here, special tokens included."""
    lowercase: bool = True
    """A tokenizer trained here lower-cases and strips accents (as BERT's uncased one does)."""
    layers: int = setting(4, at_least=1)
    """Transformer layers."""
    width: int = setting(256, at_least=1)
    """Numbers in a token's vector."""
    heads: int = setting(4, at_least=1)
    """Attention heads in a layer."""
    intermediate: int = setting(1024, at_least=1)
    """Width of the feed-forward layer."""
    positions: int = setting(128, at_least=4)
    """Longest input the model can take, in tokens."""
    dropout: float = setting(0.0, at_least=0, below=1)
    """Dropout while pretraining. The saved configuration always has 0.1, because contrastive views need dropout."""
    start_embeddings: StartEmbeddings = "none"
    """Initial token vectors: random; the SVD of the corpus's word co-occurrences (ppmi_svd); or (mlm) these, trained
    until weighted sums of a sentence's tokens predict the next sentence (next_sentences)."""
    next_weight: float = setting(0.0, at_least=0)
    """mlm: weight of a second loss: the embedding of a sentence must select the next sentence among those of the batch.
    Above 0, batches hold sentences and their next ones, so the text must be in its original order."""
    next_reads: NextReads = "all"
    """How that embedding is made from the last layer: the mean of all tokens (all), or [CLS] (cls)."""
    sums_weight: float = setting(0.0, at_least=0)
    """mlm: weight of a third loss: 1 - the cosine between that embedding and the weighted sum of the token vectors of
    start_embeddings = "next_sentences". Needs next_weight above 0."""
    max_tokens: int = setting(64, at_least=4)
    """Longer sentences are cut to this many tokens, special ones included."""
    mask_ratio: float = setting(0.20, above=0, below=1)
    """mlm: share of tokens predicted; of these 80 % masked, 10 % replaced, 10 % kept (Devlin et al., 2019)."""
    batch_tokens: int = setting(8192, at_least=4)
    """Tokens in one weight update."""
    epochs: float = setting(1.0, above=0)
    """Passes over the corpus; with next_weight, over its pairs of a sentence and the next one."""
    max_steps: int | None = setting(None, above=0)
    """Weight updates; overrides epochs when set."""
    learning_rate: float = setting(1e-3, above=0)
    """Peak of AdamW's learning rate, which then falls linearly to 0."""
    warmup_ratio: float = setting(0.03, at_least=0, below=1)
    """Share of the steps over which the learning rate first rises."""
    weight_decay: float = setting(0.01, at_least=0)
    """AdamW's weight decay, of matrices only."""
    max_grad_norm: float = setting(1.0, above=0)
    """The gradient of all weights together is clipped to this norm."""
    held_out: int = setting(2000, at_least=1)
    """Sentences that are not trained on; they measure the model."""
    seed: int = setting(42, at_least=0)
    """Determines initial weights, held-out sentences, batches, masks and dropout."""
    precision: Precision = "auto"
    """fp32, bf16 autocast, or bf16 where the hardware computes in it (auto)."""
    eval_every: int = setting(500, affects="nothing", at_least=1)
    """Updates between measurements on the held-out sentences."""
    checkpoint_every: int = setting(500, affects="nothing", at_least=1)
    """Updates between checkpoints that --resume can start from."""
    log_every: int = setting(25, affects="nothing", at_least=1)
    """Updates between logged values (means over the updates since the last)."""
    store: Store = "fp16"
    """Format of the saved weights. fp16 needs half the bytes of fp32."""

    def __post_init__(self) -> None:
        check_values(self)
        require(self.width % self.heads == 0, "width", self.width, f"must be a multiple of heads = {self.heads}")
        fits = self.model is not None or self.max_tokens <= self.positions
        require(fits, "max_tokens", self.max_tokens, f"is above positions = {self.positions}")
        least = f"must be at least max_tokens = {self.max_tokens}: an update needs one whole sentence"
        require(self.max_tokens <= self.batch_tokens, "batch_tokens", self.batch_tokens, least)
        missing = "needs a model to continue from: set model (or take --recipe further), or start_share = 0"
        require(self.model is not None or not self.start_share, "start_share", self.start_share, missing)
        own = "model has its own tokenizer: remove one of the two"
        require(self.model is None or self.tokenizer is None, "tokenizer", self.tokenizer, own)
        if self.objective == "causal":
            self._check_causal()
        if self.sums_weight:
            self._check_sums()
        if self.start_embeddings == "next_sentences" and self.model is None:
            room = "must be at least 8 for start_embeddings = next_sentences"
            require(self.width >= 8, "width", self.width, room)

    def _check_causal(self) -> None:
        require(self.model is None, "model", self.model, "is a masked language model: set objective = mlm")
        both_ways = (
            "needs a model that reads in both directions. For objective = causal set next_weight = 0, sums_weight = 0 "
            "and start_embeddings = ppmi_svd, as the recipe masked does (--recipe masked)"
        )
        require(self.next_weight == 0, "next_weight", self.next_weight, both_ways)
        require(self.start_embeddings != "next_sentences", "start_embeddings", self.start_embeddings, both_ways)

    def _check_sums(self) -> None:
        needs = "needs next_weight above 0; set it to 0 too, or take --recipe masked"
        require(self.next_weight > 0, "sums_weight", self.sums_weight, needs)
        begins = "needs start_embeddings = next_sentences, whose vectors it uses; set that, or sums_weight = 0"
        require(self.start_embeddings == "next_sentences", "sums_weight", self.sums_weight, begins)
        given = "needs start_embeddings, which a given model does not use: take --recipe further, or sums_weight = 0"
        require(self.model is None, "sums_weight", self.sums_weight, given)

    @property
    def pooling(self) -> Pooling:
        """The pooling of the made model: [CLS] only if the next-sentence loss trained it."""
        return "cls" if self.next_weight > 0 and self.next_reads == "cls" else "mean"

    @property
    def reads_next(self) -> bool:
        """Whether it matters which sentence follows which."""
        return self.next_weight > 0 or (self.model is None and self.start_embeddings == "next_sentences")

    def unused(self) -> list[str]:
        """Names of the fields that differ from their default and have no effect beside the other choices."""
        return non_default(self, self._without_effect())

    def _without_effect(self) -> set[str]:
        """Names of the fields that have no effect beside the other choices."""
        idle: set[str] = set()
        if self.objective == "causal":
            idle |= {"mask_ratio"}
        if self.next_weight == 0:
            idle |= {"next_reads"}
        if self.tokenizer is not None or self.model is not None:
            idle |= {"vocabulary", "lowercase"}
        if self.model is not None:
            idle |= {"layers", "width", "heads", "intermediate", "positions", "start_embeddings"}
        return idle


def load_pretraining(name_or_path: str) -> Pretraining:
    """The named recipe for `diffcse pretrain`, or the one in a TOML file.

    Raises:
        InputError: no such recipe, not TOML, an unknown key, or a value out of range; names file and key.
    """
    return parse_pretraining(*recipe_file(name_or_path, "recipes/pretrain"))


def parse_pretraining(data: bytes, source: str) -> Pretraining:
    """A `Pretraining` from TOML bytes, which have no sections; `source` is the file's name in messages.

    Raises:
        InputError: as `load_pretraining`.
    """
    config: Pretraining = override(Pretraining(), read_toml(data, source), source)
    return config


def to_toml(config: Pretraining) -> str:
    """`config` as TOML that `parse_pretraining` reads back to an equal one.

    If it continues from a model, the fields without effect are left out: the defaults of a new model's shape would look
    like the shape of that model.
    """
    idle = set() if config.model is None else config._without_effect() - set(config.unused())
    return fields.to_toml(config, without=idle)
