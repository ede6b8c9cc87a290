"""f, g, G and D as one module: how each is run, and which weights are trained.

Everything trained is a submodule, so a stock trainer clips, synchronises, saves and restores all of it. Only the
encoder f ships.

Shape suffixes: R rows (sentences), T token positions, W those of the edited copy, H hidden size, M chosen positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from diffcse.config import GeneratorKind, Method
from diffcse.errors import InputError
from diffcse.method import draws, heads
from diffcse.method.conditioning import first_layer, sentence_at_position_0
from diffcse.method.edits import Draw, Edited, Tools, Vocabulary, edit, widened
from diffcse.method.fast import ability, checkpoint_layers, in_chunks, make_cheap, vectors_at
from diffcse.method.gather import ALONE, Ranks
from diffcse.method.heads import at_least_float
from diffcse.method.tail import out_width

FROZEN = ("generator.", "causal_generator.", "tail.")
"""Prefixes of the names of weights that training never changes."""


class Networks(nn.Module):
    """Encoder f, projector g, frozen generator G, discriminator D and its token head.

    Args:
        encoder: any Hugging Face encoder without a pooler head; output (R, T, H).
        vocabulary: the token ids shared by encoder, generator and discriminator.
        config: the choices.
        generator: a masked language model over the same vocabulary. Frozen here. Needed where `config.needs` says so.
        causal_generator: a causal language model over it, likewise.
        discriminator: D's encoder, with the encoder's hidden size. For the differences "mlm" and "corrective_lm" it
            has a vocabulary head. Needed unless `config.difference` is "none".
        seed: decides the random start of projector and head, and every mask and sample.
        packed: run encoder, generators and discriminator without padding, where their architecture can.
        mini_batch_size: rows that go through a network at once, see `fast.memory`; None: all.
        tail: layers that follow the pooling in the encoder that ships, see `tail`. They are frozen.

    Raises:
        InputError: a part is missing, does not fit, or shares weights with one that is trained.
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
        tail: nn.Module | None = None,
    ) -> None:
        super().__init__()
        # Not named `config`: transformers' Trainer takes that for a model configuration, and writes to it.
        self.choices = config
        self.vocabulary = vocabulary
        self.seed = seed
        self.packed = packed
        self.mini_batch_size = mini_batch_size
        self.ranks: Ranks = ALONE
        """Processes that share each batch; the trainer sets it."""
        width = encoder.config.hidden_size
        self.encoder = encoder
        self.tail = nn.Sequential() if tail is None else tail.requires_grad_(False)
        embedding_width = out_width(self.tail, width)
        self.projector = heads.fresh(lambda: heads.projector(config.projector, embedding_width), draws.key(seed, 1))
        self.generator = generator if config.needs("masked") else None
        self.causal_generator = causal_generator if config.needs("causal") else None
        self.discriminator: Any = discriminator if config.difference != "none" else None
        self.head: Any = None
        if config.difference == "rtd":
            self.head = heads.fresh(lambda: heads.token_head(width), draws.key(seed, 2))
        self._check()
        for part in self._generators():
            part.requires_grad_(False)
        for network in (encoder, discriminator):
            if network is not None:
                make_cheap(network)
        self.train(self.training)

    def _generators(self) -> list[PreTrainedModel]:
        return [part for part in (self.generator, self.causal_generator) if part is not None]

    def _check(self) -> None:
        """Refuse networks that do not fit together."""
        config, d = self.choices, self.discriminator
        parts: dict[GeneratorKind, nn.Module | None] = {"masked": self.generator, "causal": self.causal_generator}
        for kind, part in parts.items():
            if config.needs(kind) and part is None:
                raise InputError(f"method.edits = {list(config.edits)} need a frozen {kind} language model: give one")
        if config.difference != "none" and d is None:
            raise InputError(
                f'method.difference = "{config.difference}" needs a discriminator. Give one, or set difference = "none"'
            )
        if d is not None and d.config.hidden_size != self.encoder.config.hidden_size:
            raise InputError(
                f"discriminator: its hidden size {d.config.hidden_size} is not the encoder's "
                f"{self.encoder.config.hidden_size}. Start both from the same checkpoint"
            )
        told = out_width(self.tail, self.encoder.config.hidden_size)
        if d is not None and config.condition != "none" and told != d.config.hidden_size:
            raise InputError(
                f"method.model: its Dense layers make embeddings of {told} numbers, and a discriminator of "
                f'{d.config.hidden_size} cannot read them. Set method.difference = "none", or condition = "none"'
            )
        if d is not None and config.condition != "none":
            first_layer(d)  # refuses an architecture that cannot be conditioned
        trained = {id(p) for part in (self.encoder, d) if part is not None for p in part.parameters()}
        if any(id(p) in trained for part in self._generators() for p in part.parameters()):
            raise InputError(
                "encoder, generator and discriminator share weights, so freezing G would freeze them all. Give copies"
            )
        if self.encoder is d:
            raise InputError("encoder and discriminator are one module. Give copies")

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, except that G runs without dropout unless `generator_dropout` is on."""
        super().train(mode)
        for part in self._generators():
            part.train(mode and self.choices.generator_dropout)
        return self

    # ---- running ------------------------------------------------------------------------------------------------

    def embed(self, x_RT: Tensor, attention_RT: Tensor) -> Tensor:
        """h = f(x), pooled and through the tail: (R, H)."""

        def run(x_RT: Tensor, attention_RT: Tensor) -> Tensor:
            pooling = self.choices.pooling or "cls"
            return self.tail(heads.pooled(self.encoder, x_RT, attention_RT, pooling, packed=self.packed))

        return in_chunks(run, self.mini_batch_size, x_RT, attention_RT)

    def edit(self, x_RT: Tensor, attention_RT: Tensor, *, step: int, rows_R: Tensor) -> Edited:
        """x″ = G(m · x), or the copy of another editor, and r.

        Args:
            step: the batch's number in the run.
            rows_R: the rows' numbers in the global batch, from `draws.row_numbers`.
        """
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
        copy = edit(x_RT, attention_RT, choices.edits, tools, Draw((self.seed, step), rows_R))
        if choices.rtd_padding == "ignore":
            return copy
        return widened(copy, self.ranks.largest(copy.ids.shape[1]), self.vocabulary)  # padding counts

    def condition(self, h_RH: Tensor, z_RH: Tensor) -> Tensor | None:
        """What D is given of the sentence: (R, H), or None for plain ELECTRA."""
        return {"projected": z_RH, "pooled": h_RH, "none": None}[self.choices.condition]

    def counted(self, attention_RW: Tensor) -> Tensor:
        """The positions that D judges: the real ones, or all if `rtd_padding` is "include"."""
        return attention_RW.bool() | (self.choices.rtd_padding == "include")

    def discriminate(self, edited_RW: Tensor, attention_RW: Tensor, condition_RH: Tensor | None) -> Tensor:
        """D(x″, z): (R, W, 2) logits, index 1 = edited; 0 at positions that do not count."""

        def run(edited_RW: Tensor, attention_RW: Tensor, condition_RH: Tensor | None) -> Tensor:
            counted_RW = self.counted(attention_RW)
            packed = self.packed and self.choices.rtd_padding == "ignore"
            with self.conditioned(edited_RW, attention_RW, condition_RH) as (ids_RW, mask_RW):
                where_RW = F.pad(counted_RW, (ids_RW.shape[1] - counted_RW.shape[1], 0))
                hidden_MH = vectors_at(self.discriminator, ids_RW, mask_RW, where_RW, packed=packed)
            logits_M2 = at_least_float(self.head(hidden_MH))
            return logits_M2.new_zeros(*counted_RW.shape, 2).masked_scatter(counted_RW[:, :, None], logits_M2)

        if not len(edited_RW):  # encoders fail on zero rows
            width = self.discriminator.config.hidden_size
            logits_RW2 = self.head(self.head.weight.new_zeros(*edited_RW.shape, width))
            # A gradient of 0 for z: the other processes wait for its backward pass.
            return logits_RW2 if condition_RH is None else logits_RW2 + 0 * condition_RH.sum()
        return in_chunks(run, self.mini_batch_size, edited_RW, attention_RW, condition_RH)

    @contextmanager
    def conditioned(
        self, ids_RW: Tensor, attention_RW: Tensor, condition_RH: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Within the block D's one forward pass is conditioned on the sentences; yields (ids, attention) for it."""
        if condition_RH is None:
            yield ids_RW, attention_RW
            return
        if self.packed:
            ability(self.discriminator.base_model)  # tested before the hook is there
        if self.choices.inject == "prepend":
            # A second start token makes room: z replaces it, and nothing is judged there.
            ids_RW, attention_RW = (torch.cat([x[:, :1], x], 1) for x in (ids_RW, attention_RW))
        with sentence_at_position_0(self.discriminator, condition_RH):
            yield ids_RW, attention_RW

    def padded(self) -> dict[str, str]:
        """The networks that run padded although `packed` is on, each with the reason."""
        parts = ("encoder", "generator", "causal_generator", "discriminator")
        networks = {name: getattr(self, name) for name in parts if self.packed and getattr(self, name) is not None}
        abilities = {name: ability(network.base_model) for name, network in networks.items()}
        return {name: can.reason for name, can in abilities.items() if not can.packs}

    def checkpoint_layers(self) -> None:
        """Let encoder and discriminator recompute their layers in the backward pass.

        Raises:
            InputError: transformers cannot do this with their architecture.
        """
        for part in (self.encoder, self.discriminator):
            if part is not None:
                checkpoint_layers(part)

    # ---- weights ------------------------------------------------------------------------------------------------

    def discriminator_parameters(self) -> list[nn.Parameter]:
        """The weights that only the difference term trains: those of D and its head that the encoder does not share."""
        shared = {id(p) for p in self.encoder.parameters()}
        parts = [part for part in (self.discriminator, self.head) if part is not None]
        return [p for part in parts for p in part.parameters() if p.requires_grad and id(p) not in shared]

    def trained_state(self) -> dict[str, Tensor]:
        """Every weight and buffer that training changes, tied ones once; the frozen generators are left out."""
        state: dict[str, Tensor] = {}
        seen: set[tuple[int, torch.Size]] = set()
        for name, value in self.state_dict().items():
            place = value.data_ptr(), value.shape
            if not name.startswith(FROZEN) and not (value.numel() > 1 and place in seen):
                seen.add(place)
                state[name] = value
        return state
