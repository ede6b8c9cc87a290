"""The paper: DiffCSE's two losses, and the one module that is trained.

    L_contrast = mean_i −log( exp(cos(z_i, z_i⁺)/τ) / Σ_j exp(cos(z_i, z_j⁺)/τ) )         (equation 1, SimCSE's)
    L_rtd      = cross-entropy of D's two logits for each token against r = 1[x″ ≠ x]      (equations 2 and 3)
    L          = L_contrast + λ · L_rtd                                                    (equation 4)

With pairs, z_i⁺ is the other sentence's embedding instead of the second view's; hard negatives join the sum over j
(Gao et al., SimCSE, EMNLP 2021, equation 5).

(Chuang et al., DiffCSE: Difference-based Contrastive Learning for Sentence Embeddings, NAACL 2022, section 3.)

Everything trained is a submodule of `DiffCSE`, so a stock trainer clips, synchronises, saves and restores all of it
without knowing what it is. Only the encoder ships.

Shape suffixes: B sentences, R rows (view 1 of every sentence, then view 2, or anchors, positives, hard negatives),
N rows that D judges, T token positions, W those of the edited copy, H hidden size, V vocabulary, M chosen positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from diffcse.config import GeneratorKind, Method
from diffcse.errors import InputError
from diffcse.method import draws, heads
from diffcse.method.conditioning import first_layer, sentence_at_position_0
from diffcse.method.edits import Draw, Edited, Tools, Vocabulary, edit, mask_tokens
from diffcse.method.fast import ability, checkpoint_layers, in_chunks, logits_at, make_cheap, vectors_at
from diffcse.method.heads import at_least_float

# Row numbers of each further view of a sentence start here, far above any batch: every view gets edits of its own.
_VIEW = 1 << 40


@dataclass(frozen=True)
class Terms:
    """One batch's losses, unscaled (λ is only in `total`), with what is worth watching beside them."""

    total: Tensor
    """L, a scalar with gradient."""
    contrastive: Tensor | None
    """L_contrast in nats; None when `contrast` is off."""
    difference: Tensor | None
    """L_rtd, or the cross-entropy of the conditional language model, in nats a token; None when `difference` is
    "none"."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars: see `DiffCSE.forward`."""


def contrastive_loss(
    first_BH: Tensor,
    second_BH: Tensor,
    temperature: float,
    *,
    negative_BH: Tensor | None = None,
    negative_weight: float = 0.0,
    left_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """L_contrast, equation 1, in one direction: first view against all second views of the batch.

    Args:
        first_BH: z_i, or the anchors'.
        second_BH: z_i⁺, or the positives'.
        temperature: τ.
        negative_BH: hard negatives; each anchor meets all of them.
        negative_weight: added to the logit of an anchor's own hard negative.
        left_out: (B, B), or (B, 2B) with hard negatives: who does not count among an anchor's negatives.

    Returns:
        (loss in nats, cosines (B, B) or (B, 2B)); the diagonal holds the positives.

    >>> z = torch.eye(2)
    >>> loss, cosines = contrastive_loss(z, z, temperature=1.0)
    >>> cosines.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    >>> round(loss.item(), 4)  # -log(e / (e + 1))
    0.3133
    """
    others_CH = second_BH if negative_BH is None else torch.cat([second_BH, negative_BH])
    first_BH, others_CH = at_least_float(first_BH), at_least_float(others_CH)
    cosines_BC = F.normalize(first_BH, dim=-1) @ F.normalize(others_CH, dim=-1).T
    logits_BC = cosines_BC / temperature
    own_B = torch.arange(len(first_BH), device=first_BH.device)
    if negative_BH is not None and negative_weight:
        heavier_BC = torch.zeros_like(logits_BC)
        heavier_BC[own_B, len(own_B) + own_B] = negative_weight
        logits_BC = logits_BC + heavier_BC
    if left_out is not None:
        logits_BC = logits_BC.masked_fill(left_out, -torch.inf)
    return F.cross_entropy(logits_BC, own_B), cosines_BC


def symmetric_contrastive_loss(
    first_BH: Tensor, second_BH: Tensor, temperature: float, left_out_BB: Tensor | None = None
) -> Tensor:
    """Mean of L_contrast in both directions, for pairs of which neither side is the anchor; nats.

    Args:
        left_out_BB: which seconds are no negatives of which firsts, and so the other way round.
    """
    one_way, _ = contrastive_loss(first_BH, second_BH, temperature, left_out=left_out_BB)
    other_way, _ = contrastive_loss(
        second_BH, first_BH, temperature, left_out=None if left_out_BB is None else left_out_BB.T
    )
    return (one_way + other_way) / 2


def same_meaning(anchor_B: Tensor, positive_B: Tensor, negative_B: Tensor | None = None) -> Tensor:
    """Which "negatives" of a batch of pairs are none: (B, B), or (B, 2B) with hard negatives, bool.

    Of anchor i, another row's positive is left out if that row has the same anchor (so it is a positive of i as
    well), or if it is, as text, i's positive or i itself; a hard negative if it is i's positive or i itself.

    Args:
        anchor_B: int64 keys, equal where the sentences are.

    >>> same_meaning(torch.tensor([1, 2, 1]), torch.tensor([5, 6, 7])).int().tolist()
    [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    """

    def equals(these_B: Tensor, those_B: Tensor) -> Tensor:
        return these_B[:, None] == those_B[None, :]

    others_BB = equals(anchor_B, anchor_B) | equals(positive_B, positive_B) | equals(anchor_B, positive_B)
    others_BB &= ~torch.eye(len(anchor_B), dtype=torch.bool, device=anchor_B.device)
    if negative_B is None:
        return others_BB
    return torch.cat([others_BB, equals(positive_B, negative_B) | equals(anchor_B, negative_B)], 1)


def rtd_loss(logits_RT2: Tensor, labels_RT: Tensor, counted_RT: Tensor) -> Tensor:
    """L_rtd, equation 3: mean cross-entropy over the counted positions of all rows together, in nats; 0 over none.

    >>> logits = torch.zeros(1, 3, 2)
    >>> round(rtd_loss(logits, torch.tensor([[0, 1, 0]]), torch.tensor([[True, True, False]])).item(), 4)  # log 2
    0.6931
    """
    logits_M2, labels_M = at_least_float(logits_RT2[counted_RT]), labels_RT[counted_RT]
    return F.cross_entropy(logits_M2, labels_M, reduction="sum") / max(len(labels_M), 1)


def rtd_weight(config: Method, progress: float) -> float:
    """λ when `progress` (0 to 1) of the run is done: constant, or rising to `rtd_weight` in a line or half a cosine.

    >>> config = Method(rtd_weight=0.4, rtd_schedule="linear")
    >>> rtd_weight(config, 0.0), rtd_weight(config, 0.5), rtd_weight(config, 1.0)
    (0.0, 0.2, 0.4)
    """
    ramp = {"constant": 1.0, "linear": progress, "cosine": (1 - math.cos(math.pi * progress)) / 2}
    return config.rtd_weight * ramp[config.rtd_schedule]


class DiffCSE(nn.Module):
    """Encoder, projector, frozen generator, discriminator and token head: all that DiffCSE trains, as one module.

    Args:
        encoder: f, any Hugging Face encoder without a pooler head; output (R, T, H).
        vocabulary: the token ids shared by encoder, generator and discriminator.
        config: the choices.
        generator: G, a masked language model over the same vocabulary. Frozen here. Needed where `config.needs` it.
        causal_generator: a causal language model over it, likewise.
        discriminator: D's encoder, with the encoder's hidden size; with a vocabulary head (a masked language model)
            for the differences "mlm" and "corrective_lm". Needed unless `config.difference` is "none".
        seed: decides the random start of projector and head, and every mask and sample.
        packed: run encoder, generators and discriminator without padding, where their architecture can.
        mini_batch_size: rows that go through a network at once, see `memory`; None: all.

    `parts.build` makes one from checkpoints.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        vocabulary: Vocabulary,
        config: Method,
        *,
        generator: PreTrainedModel | None = None,
        causal_generator: PreTrainedModel | None = None,
        discriminator: PreTrainedModel | None = None,
        seed: int = 42,
        packed: bool = True,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        # Not named `config`: transformers' Trainer takes that for a model configuration, and writes to it.
        self.choices = config
        self.vocabulary = vocabulary
        self.seed = seed
        self.packed = packed
        self.mini_batch_size = mini_batch_size
        width = encoder.config.hidden_size
        self.encoder = encoder
        self.projector = heads.fresh(lambda: heads.projector(config.projector, width), draws.key(seed, 1))
        self.generator = generator if config.needs("masked") else None
        self.causal_generator = causal_generator if config.needs("causal") else None
        self.discriminator = discriminator if config.difference != "none" else None
        self.head = None
        frozen: dict[GeneratorKind, nn.Module | None] = {"masked": self.generator, "causal": self.causal_generator}
        for kind, part in frozen.items():
            if config.needs(kind) and part is None:
                raise InputError(f"method.edits = {list(config.edits)} need a frozen {kind} language model: give one")
        if config.difference != "none":
            if self.discriminator is None:
                raise InputError(
                    f'method.difference = "{config.difference}" needs a discriminator; give one, or set '
                    'difference = "none"'
                )
            if self.discriminator.config.hidden_size != width:
                raise InputError(
                    f"discriminator: its hidden size {self.discriminator.config.hidden_size} is not the encoder's "
                    f"{width}: start both from the same checkpoint"
                )
            if config.condition != "none":
                first_layer(self.discriminator)  # an architecture that cannot be conditioned says so before training
            if config.difference == "rtd":
                self.head = heads.fresh(lambda: heads.token_head(width), draws.key(seed, 2))
        trained = {id(p) for part in (encoder, self.discriminator) if part is not None for p in part.parameters()}
        for part in (self.generator, self.causal_generator):
            if part is not None:
                if any(id(p) in trained for p in part.parameters()):
                    raise InputError(
                        "encoder, generator and discriminator share weights: freezing G would freeze them all. "
                        "Give copies"
                    )
                part.requires_grad_(False)
        if encoder is self.discriminator:
            raise InputError("encoder and discriminator are one module. Give copies")
        for network in (encoder, discriminator):
            if network is not None:
                make_cheap(network)
        self.train(self.training)

    def train(self, mode: bool = True) -> DiffCSE:
        """As `nn.Module.train`, but G keeps out of it: it is frozen, and runs without dropout unless asked to."""
        super().train(mode)
        for part in (self.generator, self.causal_generator):
            if part is not None:
                part.train(mode and self.choices.generator_dropout)
        return self

    def forward(self, batch: Mapping[str, Tensor], *, step: int, first_row: int = 0, progress: float = 1.0) -> Terms:
        """Both losses of one batch.

        Args:
            batch: `input_ids` and `attention_mask`, (B, T), padded on the right. Pairs: the same of the positives as
                `positive_input_ids`, `positive_attention_mask`, of hard negatives (if any) as `hard_negative_...`, and
                `anchor_key`, `positive_key`, `hard_negative_key` (B,) int64, equal where two sentences are. For
                `pairing` and `positives`: `next_input_ids`, `next_attention_mask`, `has_next` (B,) bool, and
                `anchor_key`, `next_key`.
            step: the batch's number in the run; with `seed` and row it decides masks and samples.
            first_row: number of this batch's first sentence in the global batch.
            progress: share of the run that is done, 0 to 1; only `rtd_schedule` looks at it.

        Returns:
            Terms, whose metrics are `positive_cosine` and `negative_cosine` (means over the batch), for pairs
            `false_negatives` (how many were found, masked or not), and over the positions that could have been edited:
            `rtd_accuracy`, on `..._replaced` and on `..._kept` tokens, `rtd_majority` (what always answering the
            commoner label would score), `rtd_log_loss` in nats; and the counts `rtd_tokens` and `rtd_replaced`, by
            which batches are to be weighted. For a conditional language model `lm_accuracy`, `lm_log_loss` and
            `lm_tokens` instead.
        """
        size = len(batch["input_ids"])
        paired = "positive_input_ids" in batch
        columns = [_tokens(batch, ""), _tokens(batch, "positive_" if paired else "")]
        keys = batch if paired else {}
        if self.choices.positives != "dropout":
            next_ = self.next_or_own(batch)
            columns = [columns[0], next_] if self.choices.positives == "next" else [*columns, next_]
            keys = {"anchor_key": batch["anchor_key"], "positive_key": batch["next_key"]}
        elif "hard_negative_input_ids" in batch:
            columns.append(_tokens(batch, "hard_negative_"))
        elif self.choices.edit_role != "difference":
            view = self.edit(*columns[0], step=step, rows_R=self.rows(size, 2, first_row, columns[0][0].device))
            columns.append((view.ids, view.attention))
        x_RT, attention_RT = _together(columns, self.vocabulary.pad)

        # f: one pass over all views; dropout makes those of one sentence differ.
        h_RH = self.embed(x_RT, attention_RT)
        z_RH = self.projector(h_RH)

        total = z_RH.new_zeros(())
        contrastive = difference = None
        metrics: dict[str, Tensor] = {}
        if self.choices.contrast:
            unchanged_B = None if keys or len(columns) < 3 else (view.labels == 0).all(1)
            contrastive, found = self.contrast(z_RH, size, keys, unchanged_B)
            total = total + contrastive
            metrics |= found
        if self.choices.difference != "none":
            condition_RH = self.condition(h_RH, z_RH)
            y_NT, attention_NT, condition_NH, rows_N = self.judged(
                batch, x_RT, attention_RT, condition_RH, size, first_row
            )
            difference, found = self.differ(y_NT, attention_NT, condition_NH, step=step, rows_R=rows_N)
            total = total + rtd_weight(self.choices, progress) * difference
            metrics |= found
        return Terms(total=total, contrastive=contrastive, difference=difference, metrics=metrics)

    # ---- the steps, in the order of the paper --------------------------------------------------------------------

    def embed(self, x_RT: Tensor, attention_RT: Tensor) -> Tensor:
        """h = f(x), pooled: (R, H)."""

        def run(x_RT: Tensor, attention_RT: Tensor) -> Tensor:
            return heads.pooled(self.encoder, x_RT, attention_RT, self.choices.pooling, packed=self.packed)

        return in_chunks(run, self.mini_batch_size, x_RT, attention_RT)

    def contrast(
        self, z_RH: Tensor, size: int, keys: Mapping[str, Tensor], unchanged_B: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_contrast of rows in blocks of `size`: first views (anchors), second views (positives), and perhaps a third:
        hard negatives, next sentences, or edited copies in the role that `edit_role` gives them.

        A further positive (a copy, or the next sentence beside the second view) has a loss of its own, equal in form,
        and L_contrast is the mean of both. As an extra negative a copy is a hard negative to every sentence; one that
        came out unchanged is none to its own.
        """
        first_BH, second_BH, *third = z_RH.split(size)
        third_BH = third[0] if third else None
        config = self.choices
        found: dict[str, Tensor] = {}
        left_out = None
        if keys:
            left_out = same_meaning(keys["anchor_key"], keys["positive_key"], keys.get("hard_negative_key"))
            found["false_negatives"] = left_out.sum()
            if config.false_negatives == "keep":
                left_out = None
        if config.edit_role == "positive" or config.positives == "both":
            assert third_BH is not None
            loss, cosines_BB = contrastive_loss(first_BH, second_BH, config.temperature)
            other, _ = contrastive_loss(first_BH, third_BH, config.temperature, left_out=left_out)
            return (loss + other) / 2, _cosine_metrics(cosines_BB.detach()) | found
        if not keys and third_BH is not None:
            assert unchanged_B is not None
            left_out = torch.cat([torch.zeros_like(torch.diag(unchanged_B)), torch.diag(unchanged_B)], 1)
            found["false_negatives"] = left_out.sum()
        loss, cosines_BC = contrastive_loss(
            first_BH,
            second_BH,
            config.temperature,
            negative_BH=third_BH,
            negative_weight=config.hard_negative_weight,
            left_out=left_out,
        )
        return loss, _cosine_metrics(cosines_BC.detach()[:, :size]) | found

    def next_or_own(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The next sentence of each document, or, where it ends, the sentence itself: (token ids, attention)."""
        (own_BT, own_attention), (next_BT, next_attention) = _tokens(batch, ""), _tokens(batch, "next_")
        ids, attention = _together([(own_BT, own_attention), (next_BT, next_attention)], self.vocabulary.pad)
        known_B1 = batch["has_next"].bool()[:, None]
        return tuple(torch.where(known_B1, *x.chunk(2)[::-1]) for x in (ids, attention))  # type: ignore[return-value]

    def judged(
        self,
        batch: Mapping[str, Tensor],
        x_RT: Tensor,
        attention_RT: Tensor,
        condition_RH: Tensor | None,
        size: int,
        first_row: int,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """What D judges: (token ids, attention, condition, row numbers), N rows.

        Both views of each sentence (of pairs, the `edit_columns`), or both views of the next sentence, conditioned on
        this one's embedding; sentences without a next one are left out there.
        """
        device = x_RT.device
        columns = self.choices.edit_columns if "positive_input_ids" in batch else "both"
        wanted = {"anchor": (0, 1), "positive": (1, 2), "both": (0, 2)}[columns]
        part = slice(*(size * edge for edge in wanted))
        x_NT, attention_NT = x_RT[part], attention_RT[part]
        condition_NH = None if condition_RH is None else condition_RH[part]
        rows_N = torch.cat([self.rows(size, view, first_row, device) for view in range(*wanted)])
        if self.choices.pairing == "same":
            return x_NT, attention_NT, condition_NH, rows_N
        known_N = batch["has_next"].bool().repeat(2)
        next_NT, next_attention = (torch.cat([part] * 2)[known_N] for part in _tokens(batch, "next_"))
        next_condition = None if condition_NH is None else condition_NH[known_N]
        # Views 3 and 4: the same sentence as somebody's next is edited otherwise than as itself.
        next_rows = torch.cat([self.rows(size, view, first_row, device) for view in (3, 4)])[known_N]
        if self.choices.pairing == "next":
            return next_NT, next_attention, next_condition, next_rows
        y_NT, y_attention = _together([(x_NT, attention_NT), (next_NT, next_attention)], self.vocabulary.pad)
        both = None if condition_NH is None else torch.cat([condition_NH, condition_NH[known_N]])
        return y_NT, y_attention, both, torch.cat([rows_N, next_rows])

    def differ(
        self, x_NT: Tensor, attention_NT: Tensor, condition_NH: Tensor | None, *, step: int, rows_R: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The difference loss of some rows, with its metrics."""
        if self.choices.difference == "mlm":
            draw = Draw((self.seed, step), rows_R)
            masked_NT, chosen_NT = mask_tokens(x_NT, attention_NT, self.vocabulary, self.choices.mask_ratio, draw)
            return self.restore(masked_NT, attention_NT, condition_NH, chosen_NT, x_NT)
        edited = self.edit(x_NT, attention_NT, step=step, rows_R=rows_R)
        if self.choices.difference == "corrective_lm":
            return self.restore(edited.ids, edited.attention, condition_NH, edited.editable, edited.original)
        logits_NW2 = self.discriminate(edited.ids, edited.attention, condition_NH)
        counted_NW = torch.ones_like(edited.ids, dtype=torch.bool)
        if self.choices.rtd_padding == "ignore":
            counted_NW = edited.attention.bool()
        loss = rtd_loss(logits_NW2, edited.labels, counted_NW)
        return loss, rtd_metrics(logits_NW2.detach(), edited)

    def rows(self, sentences: int, view: int, first_row: int, device: torch.device) -> Tensor:
        """Numbers of the rows of one view, told apart from the other views': (B,) int64."""
        return torch.arange(first_row, first_row + sentences, device=device) + view * _VIEW

    def edit(self, x_RT: Tensor, attention_RT: Tensor, *, step: int, rows_R: Tensor) -> Edited:
        """x″ = G(m · x), or another editor's, and r."""
        choices = self.choices
        tools = Tools(
            vocabulary=self.vocabulary,
            mask_ratio=choices.mask_ratio,
            sampling=choices.sampling,
            temperature=choices.sampling_temperature,
            scope=choices.edit_scope,
            generator=self.generator,
            causal_generator=self.causal_generator,
            packed=self.packed,
            rows=self.mini_batch_size,
        )
        return edit(x_RT, attention_RT, choices.edits, tools, Draw((self.seed, step), rows_R))

    def condition(self, h_RH: Tensor, z_RH: Tensor) -> Tensor | None:
        """What D is told of the sentence: (R, H), or None for plain ELECTRA."""
        return {"projected": z_RH, "pooled": h_RH, "none": None}[self.choices.condition]

    def discriminate(self, edited_RW: Tensor, attention_RW: Tensor, condition_RH: Tensor | None) -> Tensor:
        """D(x″, z): (R, W, 2) logits, index 1 = edited; 0 at padding, unless `rtd_padding` is "include"."""
        assert self.discriminator is not None
        assert self.head is not None
        if not len(edited_RW):  # no encoder runs on no rows
            width = self.discriminator.config.hidden_size
            return self.head(next(self.head.parameters()).new_zeros(*edited_RW.shape, width))
        return in_chunks(self._discriminate, self.mini_batch_size, edited_RW, attention_RW, condition_RH)

    def _discriminate(self, edited_RW: Tensor, attention_RW: Tensor, condition_RH: Tensor | None) -> Tensor:
        assert self.discriminator is not None
        assert self.head is not None
        # Padding is judged only where it counts as "original"; else D runs for the real tokens alone.
        judged_RW = attention_RW.bool() | (self.choices.rtd_padding == "include")
        packed = self.packed and self.choices.rtd_padding == "ignore"
        with self._told(edited_RW, attention_RW, condition_RH) as (ids_RW, mask_RW):
            where_RW = F.pad(judged_RW, (ids_RW.shape[1] - judged_RW.shape[1], 0))
            hidden_MH = vectors_at(self.discriminator, ids_RW, mask_RW, where_RW, packed=packed)
        logits_M2 = at_least_float(self.head(hidden_MH))
        return logits_M2.new_zeros(*judged_RW.shape, 2).masked_scatter(judged_RW[:, :, None], logits_M2)

    def restore(
        self, ids_RW: Tensor, attention_RW: Tensor, condition_RH: Tensor | None, where_RW: Tensor, tokens_RW: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """D as a conditional language model: its loss where `where_RW` on the tokens to be said there, with metrics.

        The loss is the mean cross-entropy in nats; over no positions 0, with a gradient of 0.
        """
        assert self.discriminator is not None
        if len(ids_RW):
            columns = ids_RW, attention_RW, condition_RH, where_RW, tokens_RW
            sums_2 = in_chunks(self._restore, self.mini_batch_size, *columns).sum(0)
        else:  # no encoder runs on no rows
            weight = cast(nn.Linear, self.discriminator.get_output_embeddings()).weight
            sums_2 = weight.sum() * weight.new_zeros(2)
        count = where_RW.sum()
        loss, right = sums_2[0] / count.clamp(min=1), sums_2[1].detach() / count
        return loss, {"lm_accuracy": right, "lm_log_loss": loss.detach(), "lm_tokens": count}

    def _restore(
        self, ids_RW: Tensor, attention_RW: Tensor, condition_RH: Tensor | None, where_RW: Tensor, tokens_RW: Tensor
    ) -> Tensor:
        """Summed cross-entropy and number of right answers, of some rows together: (1, 2).

        Summed here, because the logits of a whole batch would be the largest thing to keep.
        """
        assert self.discriminator is not None
        with self._told(ids_RW, attention_RW, condition_RH) as (told_RW, mask_RW):
            told_where_RW = F.pad(where_RW, (told_RW.shape[1] - ids_RW.shape[1], 0))
            logits_MV = logits_at(self.discriminator, told_RW, mask_RW, told_where_RW, packed=self.packed)
        logits_MV, tokens_M = at_least_float(logits_MV), tokens_RW[where_RW]
        right = (logits_MV.argmax(-1) == tokens_M).sum()
        return torch.stack([F.cross_entropy(logits_MV, tokens_M, reduction="sum"), right.to(logits_MV.dtype)])[None]

    @contextmanager
    def _told(
        self, ids_RW: Tensor, attention_RW: Tensor, condition_RH: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Within the block D's one forward pass is told of the sentences; gives the tokens to run it on."""
        if condition_RH is None:
            yield ids_RW, attention_RW
            return
        assert self.discriminator is not None
        if self.packed:
            # Found out before: it must not see the sentences.
            ability(cast(PreTrainedModel, self.discriminator.base_model))
        if self.choices.inject == "prepend":
            # The start token once more, to make room; z takes the place of this copy, and its output is not judged.
            ids_RW, attention_RW = (torch.cat([x[:, :1], x], 1) for x in (ids_RW, attention_RW))
        with sentence_at_position_0(self.discriminator, condition_RH):
            yield ids_RW, attention_RW

    def padded(self) -> dict[str, str]:
        """The networks that cannot run without padding, if they were to, and why not."""
        parts = ("encoder", "generator", "causal_generator", "discriminator")
        networks = {name: getattr(self, name) for name in parts if self.packed and getattr(self, name) is not None}
        found = {name: ability(network.base_model) for name, network in networks.items()}
        return {name: can.reason for name, can in found.items() if not can.packs}

    def checkpoint_layers(self) -> None:
        """Encoder and discriminator recompute their layers in the backward pass instead of keeping activations.

        Raises:
            InputError: transformers cannot do this with their architecture.
        """
        for part in (self.encoder, self.discriminator):
            if part is not None:
                checkpoint_layers(part)

    # ---- weights ----------------------------------------------------------------------------------------------------

    def discriminator_parameters(self) -> list[nn.Parameter]:
        """The weights that only the difference term trains: the discriminator's and its token head's, if not shared."""
        parts, ours = (self.discriminator, self.head), {id(p) for p in self.encoder.parameters()}
        found = [p for part in parts if part is not None for p in part.parameters() if p.requires_grad]
        return [p for p in found if id(p) not in ours]

    def trained_state(self) -> dict[str, Tensor]:
        """Every weight and buffer that training changes, i.e. all but the frozen generators'; tied ones once."""
        state: dict[str, Tensor] = {}
        seen: set[tuple[int, torch.Size]] = set()
        for name, value in self.state_dict().items():
            place = value.data_ptr(), value.shape
            if not name.startswith(FROZEN) and not (value.numel() > 1 and place in seen):
                seen.add(place)
                state[name] = value
        return state


FROZEN = ("generator.", "causal_generator.")
"""How names of weights begin that training leaves alone."""


def _tokens(batch: Mapping[str, Tensor], column: str) -> tuple[Tensor, Tensor]:
    return batch[f"{column}input_ids"], batch[f"{column}attention_mask"]


def _together(blocks: Sequence[tuple[Tensor, ...]], pad: int) -> tuple[Tensor, Tensor]:
    """Blocks of rows (ids, attention) under one another, padded to the widest."""
    width = max(ids.shape[1] for ids, _ in blocks)
    ids, attention = (
        torch.cat([F.pad(block[part], (0, width - block[part].shape[1]), value=value) for block in blocks])
        for part, value in ((0, pad), (1, 0))
    )
    return ids, attention


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
