"""DiffCSE as a loss for sentence-transformers' own trainer.

The loss holds the module that `diffcse train` trains, built around the encoder of the `SentenceTransformer`. Weights
are shared, so what that library saves is the trained encoder.

That trainer assumes losses without weights. Release 6.2 (`base/trainer.py`) gives the loss's parameters to the
optimizer, but it

- clips the gradients of the model alone: those of projector, discriminator and head are neither clipped nor part of
  the norm;
- saves and restores the model alone: a resumed run starts projector, discriminator and head afresh, beside old moments
  of the optimizer, and draws masks from the first step on;
- synchronises the model alone between processes, which is why several processes are refused here;
- sets the mode (`train()`, `eval()`) of the model alone, which this loss copies to its other parts.

`diffcse train` does all four for every trained weight. Prefer it unless you need that trainer's other features.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import PreTrainedModel

from diffcse.config import Config, Method, Pooling
from diffcse.errors import InputError
from diffcse.machine import one_process
from diffcse.method.build import build
from diffcse.method.loading import check_same_vocabulary, load_tokenizer
from diffcse.method.tasks import rtd_weight

_POOLINGS = ("cls", "mean")
_EVALUATION = 1 << 40  # first step number of evaluation's draws, far above any in training


class DiffCSELoss(nn.Module):
    """DiffCSE's two losses on a single column of sentences, as `SentenceTransformerTrainer` expects a loss.

    Args:
        model: a Transformer with one Pooling, by cls or mean (and perhaps Normalize). Its encoder is trained in place
            in float32, and an unused pooler head is removed.
        method: the choices, with the model's pooling; its `model` is ignored. By default `Method()` with that pooling.
        generator: the frozen masked language model G: a folder, a hub id or a module. By default `method.generator`,
            else the checkpoint that `model` was loaded from, if it has a trained masked-language-model head.
        seed: decides the random start of projector and head, and every mask and sample.
        steps: forward passes of the whole run; only a `method.rtd_schedule` needs it.

    Raises:
        InputError: the model is made of other modules, or a part is missing or does not fit.

    >>> from sentence_transformers import SentenceTransformerTrainer  # doctest: +SKIP
    >>> SentenceTransformerTrainer(model, train_dataset=sentences, loss=DiffCSELoss(model)).train()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: SentenceTransformer,
        method: Method | None = None,
        *,
        generator: str | Path | PreTrainedModel | None = None,
        seed: int = 42,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        pooling = _pooling_of(model)
        method = method or Method()
        _check(method, pooling, steps)
        method = replace(method, pooling=pooling)
        encoder, tokenizer = cast(PreTrainedModel, model[0].auto_model), model.tokenizer
        if tokenizer.padding_side != "right":
            raise InputError(f"the tokenizer pads on the {tokenizer.padding_side}. Set its padding_side to 'right'")
        unused = Config(method=method).unused()
        if unused:
            warnings.warn(f"set, but without effect beside the other choices: {', '.join(unused)}", stacklevel=2)
        if generator is None and method.needs("masked"):
            generator = method.generator or encoder.config.name_or_path or None
        if isinstance(generator, str | Path):
            other = load_tokenizer(generator)
            check_same_vocabulary(tokenizer, other, "of the SentenceTransformer", f"generator {generator}")
        self.diffcse, _ = build(
            replace(method, model="(a SentenceTransformer)", generator=None),
            seed=seed,
            encoder=encoder.float(),  # that library keeps a half-precision checkpoint, which would train badly
            generator=generator,
            tokenizer=tokenizer,
        )
        self.steps = steps
        self.step = 0
        """Forward passes in training so far, which is the next one's number in the keyed draws."""
        self._evaluated = 0
        self._metrics: dict[str, Tensor] = {}
        """Per metric: its sum over batches, and the number of batches in which it is not NaN: (2,)."""

    def forward(
        self, sentence_features: Iterable[Mapping[str, Any]], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"contrastive": L_contrast, "rtd": λ · L_rtd} (or another difference), those that the method has.

        The trainer adds them.

        Args:
            sentence_features: one column's `input_ids` and `attention_mask`, (B, T).
            labels: must be None.

        Raises:
            InputError: several columns, or labels.
        """
        columns = list(sentence_features)
        if len(columns) != 1 or labels is not None:
            what = "a label column" if labels is not None else f"{len(columns)} columns"
            raise InputError(f"the data set has {what}. DiffCSELoss takes one column of sentences and no labels")
        batch = {name: columns[0][name] for name in ("input_ids", "attention_mask")}
        training = self.diffcse.encoder.training
        self.diffcse.train(training)
        if training:
            step, self.step, self._evaluated = self.step, self.step + 1, 0
        else:  # every evaluation draws the same masks
            step, self._evaluated = _EVALUATION + self._evaluated, self._evaluated + 1
        progress = min(1.0, step / max(self.steps - 1, 1)) if self.steps and training else 1.0
        terms = self.diffcse(batch, step=step, progress=progress)
        if training:
            for name, value in terms.metrics.items():
                counted = torch.stack([value.double().nan_to_num(0.0), (~value.double().isnan()).double()])
                self._metrics[name] = self._metrics[name] + counted if name in self._metrics else counted
        losses = {}
        if terms.contrastive is not None:
            losses["contrastive"] = terms.contrastive
        if terms.difference is not None:
            losses[self.diffcse.choices.difference] = rtd_weight(self.diffcse.choices, progress) * terms.difference
        return losses

    def pop_metrics(self) -> dict[str, float]:
        """Means of the metrics over the training batches since the last call; NaNs are left out."""
        sums, self._metrics = self._metrics, {}
        return {name: (total / count).item() for name, (total, count) in sums.items()}


def _pooling_of(model: SentenceTransformer) -> Pooling:
    """The pooling of a Transformer with one Pooling by cls or mean, and perhaps Normalize (a cosine ignores it)."""
    kinds = [type(module).__name__ for module in model]
    how = getattr(model[1], "pooling_mode", None) if len(kinds) > 1 else None
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or how not in _POOLINGS:
        raise InputError(
            f"the SentenceTransformer is made of {', '.join(kinds)}{f' by {how}' if how else ''}. DiffCSELoss trains a "
            f"Transformer with one Pooling, by {' or '.join(_POOLINGS)}"
        )
    return cast(Pooling, how)


def _check(method: Method, pooling: Pooling, steps: int | None) -> None:
    """Refuse what this trainer cannot serve."""
    if method.pooling not in (None, pooling):
        raise InputError(
            f'method.pooling = "{method.pooling}": the SentenceTransformer pools by "{pooling}". '
            f'Give Method(pooling="{pooling}"), or another Pooling module'
        )
    for key, plain in (("pairing", "same"), ("positives", "dropout")):
        if getattr(method, key) != plain:
            raise InputError(
                f'method.{key} = "{getattr(method, key)}" needs following sentences, which no batch here has. '
                "Train with diffcse.train"
            )
    if method.lora_rank is not None:
        raise InputError(
            f"method.lora_rank = {method.lora_rank}: SentenceTransformer.save would write layers that nothing loads. "
            "Train with diffcse.train, which saves a plain encoder"
        )
    if method.rtd_schedule != "constant" and not steps:
        raise InputError(f'method.rtd_schedule = "{method.rtd_schedule}" needs steps=, the run\'s forward passes')
    one_process(
        "DiffCSELoss",
        "SentenceTransformerTrainer does not synchronise the loss's own weights between processes. torchrun "
        "--nproc-per-node N --no-python diffcse train ... does",
    )
