"""What ships: the model folder with its card, written once and opened again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from diffcse.encoder.encode import Encoder, position_limit
from diffcse.encoder.save import save_tokenizer, write_layout
from diffcse.errors import InputError
from diffcse.files import staged_folder, write_text
from diffcse.method.loading import load_tokenizer, quiet
from diffcse.pretraining.config import Pretraining, to_toml
from diffcse.record import Record
from diffcse.text.corpus import Corpus
from diffcse.training.card import public_name
from diffcse.training.folder import MODEL

_DROPOUT = 0.1
"""BERT's. It is saved whatever the recipe's dropout was, because contrastive training needs two different views."""


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Pretraining, folder: Path, card: str
) -> None:
    """Write weights, tokenizer and card; for a masked model also the layout of sentence-transformers."""
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(model.config, name):
            setattr(model.config, name, _DROPOUT)
    if config.model is None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, config.positions)
    if config.store == "fp16":
        model.half()
    try:
        with staged_folder(folder) as staging, quiet():
            model.save_pretrained(staging)
            save_tokenizer(tokenizer, staging)
            if config.objective == "mlm":
                base, limit = cast(PreTrainedModel, model.base_model), position_limit(model, tokenizer)
                write_layout(Encoder(base, tokenizer, config.pooling, limit), staging)
            write_text(staging / "README.md", card)
    finally:
        model.float()


def reopen(config: Pretraining, output: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a complete run, in eval mode, and its tokenizer.

    Raises:
        InputError: the model folder was removed.
    """
    folder = output / MODEL
    if not folder.is_dir():
        raise InputError(f"{output}: the run is complete, but {MODEL}/ was removed. Give a new --output")
    kind = AutoModelForCausalLM if config.objective == "causal" else AutoModelForMaskedLM
    with quiet():
        model = kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return model.eval(), load_tokenizer(folder)


def card(config: Pretraining, corpus: Corpus, record: Record, license_note: str) -> str:
    """The README of the model folder, in Markdown. A local folder appears by its name alone, without its path."""
    config = dataclasses.replace(config, model=public_name(config.model), tokenizer=public_name(config.tokenizer))
    masked, scores = config.objective == "mlm", record.scores
    given = f", with the tokenizer of {config.tokenizer}" if config.tokenizer else ""
    start = f"from `{config.model}`" if config.model else "from scratch"
    inherited = f"; that of the text of `{config.model}` is in its own card" if config.model else ""
    more = "".join(f"\n- {line}" for line in _more_lessons(config))
    return f"""# {config.name}: a small {"masked" if masked else "causal"} language model

Pretrained {start} by `diffcse pretrain` on {scores["tokens_seen"]:,} tokens of plain text{given}.

- Text: {len(corpus):,} distinct sentences, SHA-256 `{corpus.sha256}`
- Licence of the text: {license_note or "not stated"}{inherited}
- Held out: {config.held_out:,} sentences that this run never trained on; loss {scores["held_out_loss"]:.3f} nats
  for {"a masked token" if masked else "a token"} (by token frequency alone {scores["unigram_loss"]:.3f}), accuracy
  {scores["held_out_accuracy"]:.1%}{more}

Its sentence embeddings are only a start: train them with `diffcse train`.

```toml
{to_toml(config)}```
"""


def _more_lessons(config: Pretraining) -> list[str]:
    """What the model learned from beside predicted tokens, a line each."""
    lines = []
    uses = []
    if config.start_embeddings == "next_sentences" and not config.model:
        uses.append("by its token vectors before the first step")
    if config.next_weight:
        uses.append(f"beside the masked tokens (weight {config.next_weight:g})")
    if uses:
        lines.append(f"Next sentences were learned from too: {', and '.join(uses)}")
    if config.next_weight:
        pooling = "[CLS]" if config.pooling == "cls" else "the mean of all tokens"
        lines.append(f"Embedding: {pooling} of the last layer; sentence-transformers takes it from this folder")
    if config.sums_weight:
        lines.append(
            f"The embedding was trained to point to the sum of its words' vectors (weight {config.sums_weight:g})"
        )
    if config.start_share:
        lines.append(f"Averaged at the end with the start weights, which have a share of {config.start_share:g}")
    return lines
