"""The paper: DiffCSE's two losses, and the one module that is trained.

    L_contrast = mean_i −log( exp(cos(z_i, z_i⁺)/τ) / Σ_j exp(cos(z_i, z_j⁺)/τ) )         (equation 1, SimCSE's)
    L_rtd      = cross-entropy of D's two logits for each token against r = 1[x″ ≠ x]      (equations 2 and 3)
    L          = L_contrast + λ · L_rtd                                                    (equation 4)

(Chuang et al., DiffCSE: Difference-based Contrastive Learning for Sentence Embeddings, NAACL 2022, section 3.)

Everything trained is a submodule of `DiffCSE`, so a stock trainer clips, synchronises, saves and restores all of it
without knowing what it is. Only the encoder ships.

Shape suffixes: B sentences, R = 2B rows (view 1 of every sentence, then view 2), T token positions, H hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from diffcse.config import Method
from diffcse.errors import InputError
from diffcse.method import draws, heads
from diffcse.method.conditioning import first_layer, sentence_at_position_0
from diffcse.method.edits import Edited, Vocabulary, edit

# Row numbers of the second view start here, far above any batch, so that both views get masks of their own.
_SECOND_VIEW = 1 << 40


@dataclass(frozen=True)
class Terms:
    """One batch's losses, unscaled (λ is only in `total`), with what is worth watching beside them."""

    total: Tensor
    """L, a scalar with gradient."""
    contrastive: Tensor | None
    """L_contrast in nats; None when `contrast` is off."""
    rtd: Tensor | None
    """L_rtd in nats a token; None when `difference` is "none"."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars: see `DiffCSE.forward`."""


def contrastive_loss(first_BH: Tensor, second_BH: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """L_contrast, equation 1, in one direction: first view against all second views of the batch.

    Returns:
        (loss in nats, cosines (B, B)); the diagonal holds the positives.

    >>> z = torch.eye(2)
    >>> loss, cosines = contrastive_loss(z, z, temperature=1.0)
    >>> cosines.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    >>> round(loss.item(), 4)  # -log(e / (e + 1))
    0.3133
    """
    first_BH, second_BH = _at_least_float(first_BH), _at_least_float(second_BH)
    cosines_BB = F.normalize(first_BH, dim=-1) @ F.normalize(second_BH, dim=-1).T
    own_B = torch.arange(len(cosines_BB), device=cosines_BB.device)
    return F.cross_entropy(cosines_BB / temperature, own_B), cosines_BB


def rtd_loss(logits_RT2: Tensor, labels_RT: Tensor, counted_RT: Tensor) -> Tensor:
    """L_rtd, equation 3: mean cross-entropy over the counted positions of all rows together, in nats.

    >>> logits = torch.zeros(1, 3, 2)
    >>> round(rtd_loss(logits, torch.tensor([[0, 1, 0]]), torch.tensor([[True, True, False]])).item(), 4)  # log 2
    0.6931
    """
    return F.cross_entropy(_at_least_float(logits_RT2[counted_RT]), labels_RT[counted_RT])


def rtd_weight(config: Method, progress: float) -> float:
    """λ when `progress` (0 to 1) of the run is done: constant, or rising to `rtd_weight` in a line or half a cosine.

    >>> config = Method(rtd_weight=0.4, rtd_schedule="linear")
    >>> rtd_weight(config, 0.0), rtd_weight(config, 0.5), rtd_weight(config, 1.0)
    (0.0, 0.2, 0.4)
    """
    ramp = {"constant": 1.0, "linear": progress, "cosine": (1 - math.cos(math.pi * progress)) / 2}
    return config.rtd_weight * ramp[config.rtd_schedule]


def _at_least_float(x: Tensor) -> Tensor:
    """Losses are computed in float32 or better, also under bf16 autocast."""
    return x if x.dtype == torch.float64 else x.float()


class DiffCSE(nn.Module):
    """Encoder, projector, frozen generator, discriminator and token head: all that DiffCSE trains, as one module.

    Args:
        encoder: f, any Hugging Face encoder without a pooler head; output (R, T, H).
        vocabulary: the token ids shared by encoder, generator and discriminator.
        config: the choices.
        generator: G, a masked language model over the same vocabulary. Frozen here. Needed unless
            `config.difference` is "none".
        discriminator: D's encoder, with the encoder's hidden size. Needed likewise.
        seed: decides the random start of projector and head, and every mask and sample.

    `parts.build` makes one from checkpoints.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        vocabulary: Vocabulary,
        config: Method,
        *,
        generator: PreTrainedModel | None = None,
        discriminator: PreTrainedModel | None = None,
        seed: int = 42,
    ) -> None:
        super().__init__()
        # Not named `config`: transformers' Trainer takes that for a model configuration, and writes to it.
        self.choices = config
        self.vocabulary = vocabulary
        self.seed = seed
        width = encoder.config.hidden_size
        self.encoder = encoder
        self.projector = heads.fresh(lambda: heads.projector(config.projector, width), draws.key(seed, 1))
        self.generator = self.discriminator = self.head = None
        if config.difference == "none":
            self.train(self.training)
            return
        if generator is None or discriminator is None:
            raise InputError(
                f'method.difference = "{config.difference}" needs a generator and a discriminator; '
                'give both, or set difference = "none"'
            )
        if discriminator.config.hidden_size != width:
            raise InputError(
                f"discriminator: its hidden size {discriminator.config.hidden_size} is not the encoder's {width}: "
                "start both from the same checkpoint"
            )
        if config.condition != "none":
            first_layer(discriminator)  # an architecture that cannot be conditioned says so before training
        trained = {id(p) for part in (encoder, discriminator) for p in part.parameters()}
        if any(id(p) in trained for p in generator.parameters()) or encoder is discriminator:
            raise InputError(
                "encoder, generator and discriminator share weights: freezing G would freeze them all. Give copies"
            )
        self.generator = generator.requires_grad_(False)
        self.discriminator = discriminator
        self.head = heads.fresh(lambda: heads.token_head(width), draws.key(seed, 2))
        self.train(self.training)

    def train(self, mode: bool = True) -> DiffCSE:
        """As `nn.Module.train`, but G keeps out of it: it is frozen, and runs without dropout unless asked to."""
        super().train(mode)
        if self.generator is not None:
            self.generator.train(mode and self.choices.generator_dropout)
        return self

    def forward(self, batch: Mapping[str, Tensor], *, step: int, first_row: int = 0, progress: float = 1.0) -> Terms:
        """Both losses of one batch.

        Args:
            batch: `input_ids` and `attention_mask`, (B, T), padded on the right.
            step: the batch's number in the run; with `seed` and row it decides masks and samples.
            first_row: number of this batch's first sentence in the global batch.
            progress: share of the run that is done, 0 to 1; only `rtd_schedule` looks at it.

        Returns:
            Terms, whose metrics are `positive_cosine` and `negative_cosine` (means over the batch), and over the
            positions that could have been replaced: `rtd_accuracy`, on `..._replaced` and on `..._kept` tokens,
            `rtd_majority` (what always answering the commoner label would score), `rtd_log_loss` in nats; and the
            counts `rtd_tokens` and `rtd_replaced`, by which batches are to be weighted.
        """
        x_RT = torch.cat([batch["input_ids"]] * 2)
        attention_RT = torch.cat([batch["attention_mask"]] * 2)
        rows_R = self.rows(len(x_RT) // 2, first_row, x_RT.device)

        # f: one pass over both views; dropout makes them differ.
        h_RH = self.embed(x_RT, attention_RT)
        z_RH = self.projector(h_RH)

        total = z_RH.new_zeros(())
        contrastive = rtd = None
        metrics: dict[str, Tensor] = {}
        if self.choices.contrast:
            first_BH, second_BH = z_RH.chunk(2)
            contrastive, cosines_BB = contrastive_loss(first_BH, second_BH, self.choices.temperature)
            total = total + contrastive
            metrics |= _cosine_metrics(cosines_BB.detach())
        if self.choices.difference == "rtd":
            edited = self.edit(x_RT, attention_RT, step=step, rows_R=rows_R)
            logits_RT2 = self.discriminate(edited.ids, attention_RT, self.condition(h_RH, z_RH))
            counted_RT = torch.ones_like(x_RT, dtype=torch.bool)
            if self.choices.rtd_padding == "ignore":
                counted_RT = attention_RT.bool()
            rtd = rtd_loss(logits_RT2, edited.labels, counted_RT)
            total = total + rtd_weight(self.choices, progress) * rtd
            metrics |= rtd_metrics(logits_RT2.detach(), edited)
        return Terms(total=total, contrastive=contrastive, rtd=rtd, metrics=metrics)

    # ---- the steps, in the order of the paper --------------------------------------------------------------------

    def embed(self, x_RT: Tensor, attention_RT: Tensor) -> Tensor:
        """h = f(x), pooled: (R, H)."""
        how = self.choices.pooling
        output = self.encoder(input_ids=x_RT, attention_mask=attention_RT, **heads.reads(how))
        return heads.pool(heads.layers(output, how), attention_RT, how)

    def rows(self, sentences: int, first_row: int, device: torch.device) -> Tensor:
        """Numbers of the 2B rows, both views told apart: (R,) int64."""
        rows_B = torch.arange(first_row, first_row + sentences, device=device)
        return torch.cat([rows_B, rows_B + _SECOND_VIEW])

    def edit(self, x_RT: Tensor, attention_RT: Tensor, *, step: int, rows_R: Tensor) -> Edited:
        """x″ = G(m · x), and r."""
        assert self.generator is not None
        return edit(
            self.generator,
            x_RT,
            attention_RT,
            self.vocabulary,
            mask_ratio=self.choices.mask_ratio,
            sampling=self.choices.sampling,
            scope=self.choices.edit_scope,
            temperature=self.choices.sampling_temperature,
            address=(self.seed, step),
            rows_R=rows_R,
        )

    def condition(self, h_RH: Tensor, z_RH: Tensor) -> Tensor | None:
        """What D is told of the sentence: (R, H), or None for plain ELECTRA."""
        return {"projected": z_RH, "pooled": h_RH, "none": None}[self.choices.condition]

    def discriminate(self, edited_RT: Tensor, attention_RT: Tensor, condition_RH: Tensor | None) -> Tensor:
        """D(x″, z): (R, T, 2) logits, index 1 = replaced."""
        assert self.discriminator is not None
        assert self.head is not None
        if condition_RH is None:
            hidden_RTH = self.discriminator(input_ids=edited_RT, attention_mask=attention_RT).last_hidden_state
        elif self.choices.inject == "prepend":
            # The start token once more, to make room; z takes the place of this copy, and its output is not judged.
            longer_RT, attention_RT = (torch.cat([x[:, :1], x], 1) for x in (edited_RT, attention_RT))
            with sentence_at_position_0(self.discriminator, condition_RH):
                hidden_RTH = self.discriminator(input_ids=longer_RT, attention_mask=attention_RT).last_hidden_state
            hidden_RTH = hidden_RTH[:, 1:]
        else:
            with sentence_at_position_0(self.discriminator, condition_RH):
                hidden_RTH = self.discriminator(input_ids=edited_RT, attention_mask=attention_RT).last_hidden_state
        return self.head(hidden_RTH)

    # ---- saving ----------------------------------------------------------------------------------------------------

    def trained_state(self) -> dict[str, Tensor]:
        """Every weight and buffer that training changes, i.e. all but the frozen generator's."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("generator.")}


@torch.no_grad()
def _cosine_metrics(cosines_BB: Tensor) -> dict[str, Tensor]:
    size = len(cosines_BB)
    positive = cosines_BB.diagonal().mean()
    negative = (cosines_BB.sum() - cosines_BB.trace()) / max(size * (size - 1), 1)
    return {"positive_cosine": positive, "negative_cosine": negative}


@torch.no_grad()
def rtd_metrics(logits_RT2: Tensor, edited: Edited) -> dict[str, Tensor]:
    """D's accuracy and log-loss over the positions that could have been replaced; scalars, see `DiffCSE.forward`.

    A share over no positions at all (nothing was replaced, say) is NaN, never a made-up number.
    """
    logits_N2, labels_N = logits_RT2[edited.editable].float(), edited.labels[edited.editable]
    right_N = (logits_N2.argmax(-1) == labels_N).float()
    replaced_N = labels_N.bool()
    share = replaced_N.float().mean()
    return {
        "rtd_tokens": replaced_N.new_tensor(len(labels_N), dtype=torch.long),
        "rtd_replaced": replaced_N.sum(),
        "rtd_accuracy": right_N.mean(),
        "rtd_accuracy_replaced": right_N[replaced_N].mean(),
        "rtd_accuracy_kept": right_N[~replaced_N].mean(),
        "rtd_majority": torch.maximum(share, 1 - share),
        "rtd_log_loss": F.cross_entropy(logits_N2, labels_N),
    }
