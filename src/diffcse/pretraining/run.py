"""pretrain(config) -> a small language model from plain text, from scratch or going on: encoder start and generator.

Not every computer can download a model, and not every encoder comes with a masked-language-model head in its own
vocabulary. Both gaps are filled here, at sizes that one core trains in an hour. So everything is arranged for speed:

- the text is tokenised once (`tokens`), and batches are made of groups of sentences of one length: no padding is
  computed, and attention needs no mask. Where sentences come with the ones that follow them, lengths are mixed, and the
  groups run packed (`method.fast.packing`), which costs hardly more;
- the vocabulary's matrix, most of a small model, is multiplied only where a token is predicted;
- matrices are multiplied in bf16 where the processor can, and the weights are cast once a step for all its groups.

Nothing random depends on the moment: order is a function of (seed, epoch), masks of (seed, step, sentence), dropout of
(seed, step). A run that was killed and resumed ends with the weights of one that was not.

A causal model predicts the token at position t from the hidden state at t - 1: `logits[:, :-1]` belongs to
`ids[:, 1:]`, and position 0, the tokenizer's start token, is given. Padding on the right changes nothing on its left.

Shape suffixes: R sentences of a group, T tokens, M predicted positions, P pairs of sentences, B pairs of a step,
H width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from diffcse.config import PlainText, Text, changed_fields, previous_values, to_dict
from diffcse.encoder.encode import Encoder, position_limit, use_bf16
from diffcse.encoder.save import save_tokenizer, write_layout
from diffcse.errors import InputError
from diffcse.files import (
    clear_partials,
    model_sha256,
    only_one,
    staged_folder,
    write_errors,
    write_json,
    write_manifest,
    write_text,
)
from diffcse.machine import release_memory, tuned
from diffcse.method import draws
from diffcse.method.build import load_masked_lm, load_tokenizer, named, quiet, read_vocabulary
from diffcse.method.edits import Draw, Vocabulary, mask_tokens
from diffcse.method.fast import hidden_states
from diffcse.method.heads import at_least_float, pool
from diffcse.method.paper import same_meaning, symmetric_contrastive_loss
from diffcse.pretraining.config import NextReads, Pretraining, to_toml
from diffcse.pretraining.token_vectors import (
    as_embeddings,
    learn_from_next,
    ppmi_svd,
    sif_weights,
    sums_of,
    with_own_directions,
)
from diffcse.pretraining.tokens import Tokens, occurrences, tokenise, train_wordpiece
from diffcse.record import Record, finite, read_record
from diffcse.text.corpus import Corpus, read_corpus
from diffcse.training.checkpoints import (
    Stop,
    checkpoint_path,
    newest_whole,
    prune,
    save_weights,
    stop_between_steps,
    stopped,
)
from diffcse.training.run import Report, check_output, check_same_documents, check_same_weights, one_process

_ANY_TEXT = Text()
_PLAIN_TEXT = tuple(field.name for field in dataclasses.fields(PlainText))
_GROUP_TOKENS = 2048
"""Tokens that go through the model at once: more fall out of a core's cache, and a step mixes several lengths."""
_HEAD_ROWS = 448
"""Positions for which the vocabulary's logits are held at once."""
_TRAIN, _HELD_OUT = range(2)  # streams of masks
_SOFTER_POSITIONS, _SOFTER_LAYERS = 0.1, 0.5
"""What fresh position vectors and layers' outputs are multiplied by where token vectors already say what sentences
mean: at BERT's sizes their noise would drown it."""
_GATHERED = 4.0
"""What the mean over all tokens is multiplied by where [CLS] takes it up: single tokens' content cancels out in it."""
_MANY_PASSES = 20
_FILLING = 2  # coordinates that `as_embeddings` adds
_SAVED_DROPOUT = 0.1  # BERT's
_INIT_RANGE = 0.02  # standard deviation of fresh weights, BERT's and GPT-2's
_WEIGHTS, _OPTIMIZER, _STATE = "trained.safetensors", "optimizer.safetensors", "state.json"
_WORDS = "word-vectors"


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """What a run leaves in memory."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    record: Record


@tuned()
def pretrain(
    config: Pretraining,
    corpus: Corpus | Sequence[str | Path],
    output: str | Path,
    *,
    text: Text = _ANY_TEXT,
    resume: bool = False,
    license_note: str = "",
    report: Report = lambda event, facts: None,
) -> Pretrained:
    """Make a language model by `config` from `corpus` and leave a complete folder at `output`.

    `output` then holds `model/` (weights, tokenizer, card: what `method.model` and `method.generator` take),
    `run.json`, `log.jsonl` and `recipe.toml`. Until then it holds checkpoints, from which `resume` goes on.

    Args:
        corpus: a corpus, or files and globs to read one from.
        text: what of the files is read.
        license_note: what the card says of the text's licence.
        resume: go on in `output`. A run that is complete is opened, not trained.
        report: told what happens: ("corpus" | "phase" | "start" | "log" | "done", facts); of a run that was complete
            before, ("corpus" | "finished", facts).

    Raises:
        InputError: unusable text, recipe, tokenizer or folder, or a loss that is no longer finite.
        KeyboardInterrupt: Ctrl-C; in the training loop it leaves a checkpoint first, as `training.run.run` does.
    """
    one_process()
    output = Path(output)
    with only_one(output):
        return _pretrain(config, corpus, output, text=text, resume=resume, license_note=license_note, report=report)


def _pretrain(
    config: Pretraining,
    corpus: Corpus | Sequence[str | Path],
    output: Path,
    *,
    text: Text,
    resume: bool,
    license_note: str,
    report: Report,
) -> Pretrained:
    record_file = output / "run.json"
    _clear_stillborn(output)
    check_output(output, resume=resume, begun=record_file.name)
    given = isinstance(corpus, Corpus)
    if not isinstance(corpus, Corpus):
        corpus = read_corpus(corpus, text=text, documents=config.reads_next)
    report("corpus", {"summary": corpus.summary()})
    if config.reads_next and corpus.following is None:
        raise InputError(
            "next sentences are asked for (next_weight, or start_embeddings = next_sentences), but this corpus does "
            "not say which sentence follows which: read it with read_corpus(..., documents=True)"
        )
    if len(corpus) < 2 * config.held_out:
        smaller = " (the vocabulary made of so little text may have to be smaller too: --vocabulary)"
        raise InputError(
            f"the corpus has {len(corpus):,} distinct sentences, of which held_out = {config.held_out:,} would never "
            f"be trained on: give more text, or --held-out {max(1, len(corpus) // 20)}"
            + ("" if config.model or config.tokenizer else smaller)
        )
    data = {
        "sha256": corpus.sha256,
        "sources": [dataclasses.asdict(source) for source in corpus.sources],
        **dataclasses.asdict(corpus.counts),
        **({"following_sha256": corpus.following_sha256} if config.reads_next else {}),
        **({} if given else {"text": {name: getattr(text, name) for name in _PLAIN_TEXT}}),
    }
    begun = _check_same_run(record_file, config, data) if resume and record_file.is_file() else None
    start_sha256 = _start_sha256(config, begun, record_file)
    if start_sha256 is not None:
        data["start_model_sha256"] = start_sha256
    if begun is not None and begun.status == "complete":
        _clean_up(output)
        made = _reopen(config, output, begun)
        report("finished", {"output": str(output), "created": begun.created})
        return made
    record = Record(kind="pretrain", config=to_dict(config), seed=config.seed, data=data)
    record.created = record.created if begun is None else begun.created
    unused = config.unused()
    if unused:
        record.warnings.append(f"set, but without effect beside the other choices: {', '.join(unused)}")
    record.write(record_file)
    write_text(output / "recipe.toml", to_toml(config))
    clear_partials(output)

    held_out, trained_on = split(len(corpus), config.held_out, config.seed)
    pairs_P2 = following_pairs(corpus, trained_on) if config.reads_next else None
    tokenizer = _tokenizer(config, corpus, trained_on, output / "tokenizer", record, report)
    vocabulary = read_vocabulary(tokenizer, masks=config.objective == "mlm")
    with _timed(record, "tokenise_seconds", "tokenising the text", report):
        tokens = tokenise(corpus, tokenizer)
    if config.objective == "causal" and not tokens.prefix:
        raise InputError(
            f"{tokenizer.name_or_path}: puts no start token before a sentence, so a causal model could not predict "
            "its first token: use a tokenizer that does, such as BERT's"
        )
    if len(tokens.prefix) + len(tokens.suffix) >= config.max_tokens:
        raise InputError(f"max_tokens = {config.max_tokens}: leaves no room beside the special tokens")
    lengths = tokens.lengths(config.max_tokens)
    batches: Batches | Pairs
    if config.next_weight and pairs_P2 is not None:
        batches = Pairs(lengths, pairs_P2, config.batch_tokens, config.seed)
    else:
        batches = Batches(lengths, trained_on, config.batch_tokens, config.seed)
    steps = config.max_steps or max(1, round(config.epochs * batches.per_epoch))
    if steps > _MANY_PASSES * batches.per_epoch:
        record.warnings.append(
            f"{steps / batches.per_epoch:,.0f} passes over so little text learn it by heart: give more text, or fewer "
            "steps (--max-steps)"
        )
    data |= {
        "held_out_sentences": len(held_out),
        "tokens": int(lengths[trained_on].sum()),
        "truncated": int(np.count_nonzero(np.diff(tokens.offsets) > lengths - len(tokens.prefix) - len(tokens.suffix))),
    }
    with write_errors(output / "checkpoints"):
        (output / "checkpoints").mkdir(exist_ok=True)
    checkpoint, torn = newest_whole(output / "checkpoints")
    record.warnings += [f"{path.name}: incomplete or damaged, skipped" for path in torn]

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = new_model(config, tokenizer, tokens) if config.model is None else given_model(config, tokenizer)
    start = [p.detach().clone() for p in model.parameters()] if config.start_share else []
    words_VH = None
    fresh = checkpoint is None and config.model is None and config.start_embeddings != "none"
    if fresh or config.sums_weight:
        words_VH = _kept_word_vectors(config, tokens, trained_on, vocabulary, pairs_P2, output / _WORDS, record, report)
    if fresh and words_VH is not None:
        _start_embeddings(model, config, words_VH)
    model.to(device)  # type: ignore[arg-type]
    sums = F.pad(torch.from_numpy(words_VH), (0, _FILLING)) if config.sums_weight and words_VH is not None else None
    run = _Run(model, config, tokens, batches, vocabulary, held_out, steps, output, record, report, sums)
    report(
        "start",
        {
            "steps": steps,
            "passes": steps / batches.per_epoch,
            "bf16": run.bf16,
            "warnings": record.warnings,
            "resumed": checkpoint and checkpoint.name,
            "trained": sum(p.numel() for p in model.parameters()),
            "device": device.type,
        },
    )
    record.write(record_file)
    before = {} if config.model is None else run.measure()
    run.train(checkpoint)

    if config.start_share:
        _average(model, start, config.start_share)
    if config.store == "fp16":
        _round_to_half(model, record)
    record.scores = {"steps": steps, "tokens_seen": run.tokens_seen, **run.measure()}
    record.scores["unigram_loss"] = run.unigram_loss()
    if before:
        record.scores["start_held_out_loss"] = before["held_out_loss"]
    if before and record.scores["held_out_loss"] >= before["held_out_loss"]:
        record.warnings.append(
            "it predicts masked words no better than the model it began from: give more steps (--max-steps), or more "
            "text"
        )
    if record.scores["held_out_loss"] >= record.scores["unigram_loss"]:
        use = "a generator" if config.objective == "mlm" else "a source of edits"
        less = ", or a smaller start_share" if config.start_share else ""
        record.warnings.append(
            f"it predicts words no better than their frequencies do: as {use} it is of no use yet; give more steps "
            f"(--max-steps), or more text{less}"
        )
    record.log = run.log
    record.timing |= {"seconds": run.seconds(), "tokens_per_second": run.tokens_seen / max(run.training_seconds, 1e-9)}
    _save(model, tokenizer, config, output / "model", _card(config, corpus, record, license_note))
    record.status = "complete"
    record.write(record_file)
    _clean_up(output)
    report("done", {"output": str(output), **record.scores, "truncated": data["truncated"], "sentences": len(corpus)})
    return Pretrained(model.eval(), tokenizer, record)


def split(sentences: int, held_out: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(sentences held out, sentences trained on), both sorted; (seed, number of sentences) alone decides."""
    chosen = np.zeros(sentences, dtype=bool)
    chosen[np.random.default_rng([seed, 0]).choice(sentences, held_out, replace=False)] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


class Batches:
    """Groups of sentences of one length, in an order that (seed, epoch) alone decides; several make a step.

    A group has at most `_GROUP_TOKENS` tokens. Every sentence comes once an epoch, the last of each length in a group
    that is not full.
    """

    def __init__(
        self, lengths: npt.NDArray[np.int64], sentences: npt.NDArray[np.int64], batch_tokens: int, seed: int
    ) -> None:
        self.lengths, self.sentences, self.seed = lengths, sentences, seed
        group_tokens = min(_GROUP_TOKENS, batch_tokens)
        self._groups_a_step = max(1, batch_tokens // group_tokens)
        ends = [0]
        for length, count in zip(*np.unique(lengths[sentences], return_counts=True), strict=True):
            rows = max(1, group_tokens // int(length))
            first = ends[-1]
            ends += [*range(first + rows, first + int(count), rows), first + int(count)]
        self._starts, self._ends = np.array(ends[:-1]), np.array(ends[1:])
        self.per_epoch = math.ceil(len(self._starts) / self._groups_a_step)
        self._epoch = -1

    def __getitem__(self, step: int) -> list[npt.NDArray[np.int64]]:
        """The groups of update `step` (counted from 0), each the numbers of its sentences."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            random = np.random.default_rng([self.seed, 2, epoch])
            shuffled = random.permutation(self.sentences)
            self._sentences = shuffled[np.argsort(self.lengths[shuffled], kind="stable")]
            self._order, self._epoch = random.permutation(len(self._starts)), epoch
        first = index * self._groups_a_step
        chosen = self._order[first : first + self._groups_a_step]
        return [self._sentences[self._starts[group] : self._ends[group]] for group in chosen]


def following_pairs(corpus: Corpus, trained_on: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The sentences of `trained_on` that are followed by another one of it, and which: (P, 2).

    Raises:
        InputError: fewer than two.
    """
    assert corpus.following is not None
    follower = np.asarray(corpus.following)[trained_on]
    known = np.zeros(len(corpus) + 1, dtype=bool)  # one more for those that nothing follows, -1
    known[trained_on] = True
    kept = known[follower]
    if np.count_nonzero(kept) < 2:
        raise InputError(
            "fewer than two sentences of this text have a next one to learn from (does every document hold a single "
            "one, or an empty line stand between any two?): give running text, or --recipe masked"
        )
    return np.stack([trained_on[kept], follower[kept]], axis=1)


class Pairs:
    """Sentences and the ones that follow them, in an order that (seed, epoch) alone decides; several pairs make a step.

    As many as make `batch_tokens` on the average. Every pair comes once an epoch, but for the last ones that do not
    make a step; so most sentences come twice, as what follows and as what is followed. One that stands alone in its
    document never comes.
    """

    def __init__(
        self, lengths: npt.NDArray[np.int64], pairs_P2: npt.NDArray[np.int64], batch_tokens: int, seed: int
    ) -> None:
        self.lengths, self.seed = lengths, seed
        self._pairs_P2 = pairs_P2
        wanted = round(batch_tokens / float(lengths[pairs_P2].sum(axis=1).mean()))
        self._pairs_a_step = min(max(2, wanted), len(pairs_P2))
        self.per_epoch = len(pairs_P2) // self._pairs_a_step
        self._epoch = -1

    def __getitem__(self, step: int) -> npt.NDArray[np.int64]:
        """The pairs of update `step` (counted from 0): (B, 2) numbers of sentences."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, 4, epoch]).permutation(len(self._pairs_P2))
            self._epoch = epoch
        return self._pairs_P2[self._order[index * self._pairs_a_step : (index + 1) * self._pairs_a_step]]

    def groups(self, numbers_R: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Which of `numbers_R` run together: about `_GROUP_TOKENS` of similar length; positions in `numbers_R`."""
        order = np.argsort(self.lengths[numbers_R], kind="stable")
        group = (np.cumsum(self.lengths[numbers_R[order]]) - 1) // _GROUP_TOKENS
        return np.split(order, np.flatnonzero(np.diff(group)) + 1)


@dataclasses.dataclass(frozen=True)
class Group:
    """Sentences that run together and what is to be predicted of them."""

    inputs: Tensor
    """(R, T) token ids the model reads."""
    where: Tensor
    """(R, T) bool: positions whose hidden state predicts a token."""
    targets: Tensor
    """(M,) the tokens."""
    attention: Tensor | None = None
    """(R, T), 1 at tokens and 0 at padding on the right; None where all are of one length."""


def mlm_group(
    ids_RT: Tensor,
    vocabulary: Vocabulary,
    ratio: float,
    address: tuple[int, ...],
    rows_R: Tensor,
    attention_RT: Tensor | None = None,
) -> Group:
    """Masked copies; the chosen positions predict what stood there."""
    real_RT = torch.ones_like(ids_RT) if attention_RT is None else attention_RT
    masked_RT, chosen_RT = mask_tokens(ids_RT, real_RT, vocabulary, ratio, Draw(address, rows_R))
    return Group(masked_RT, chosen_RT, ids_RT[chosen_RT], attention_RT)


def causal_group(ids_RT: Tensor) -> Group:
    """Every position but the last predicts the token after it."""
    where_RT = torch.ones_like(ids_RT, dtype=torch.bool)
    where_RT[:, -1] = False
    return Group(ids_RT, where_RT, ids_RT[:, 1:].flatten())


def hidden_at(model: PreTrainedModel, group: Group) -> Tensor:
    """The last hidden states where something is predicted: (M, H)."""
    return model.base_model(input_ids=group.inputs, use_cache=False).last_hidden_state[group.where]


def head_of(model: PreTrainedModel) -> nn.Module:
    """What makes logits of hidden states."""
    return cast(nn.Module, model.cls if hasattr(model, "cls") else model.lm_head)


def backward(model: PreTrainedModel, group: Group, scale: float) -> Tensor:
    """Add the gradient of `scale` times the summed cross-entropy to the weights' gradients; returns that sum, unscaled.

    The head runs forward and backward on a few positions at a time: logits of all of them at once, with their gradient,
    would be many times larger than everything else and fall out of every cache.
    """
    hidden_MH = hidden_at(model, group)
    gradient_MH, total = _through_head(model, hidden_MH, group.targets, scale)
    _backward([hidden_MH], [gradient_MH])
    return total


def _through_head(model: PreTrainedModel, hidden_MH: Tensor, targets_M: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(gradient of `scale` times the summed cross-entropy by `hidden_MH`, that sum); the head's weights get theirs."""
    cut_MH = hidden_MH.detach().requires_grad_()
    total = torch.zeros((), device=cut_MH.device)
    for part_MH, part_M in zip(cut_MH.split(_HEAD_ROWS), targets_M.split(_HEAD_ROWS), strict=True):
        loss = F.cross_entropy(at_least_float(head_of(model)(part_MH)), part_M, reduction="sum")
        _backward([loss * scale], [None])
        total += loss.detach()
    return torch.zeros_like(cut_MH) if cut_MH.grad is None else cut_MH.grad, total


def backward_with_next(
    model: PreTrainedModel,
    groups: Sequence[tuple[Tensor, Group]],
    temperature: float,
    weight: float,
    reads: NextReads = "all",
    *,
    left_out_BB: Tensor | None = None,
    target_RH: Tensor | None = None,
    target_weight: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Add the gradient of the masked tokens' mean cross-entropy plus `weight` times the contrast of next sentences.

    The contrast is L_contrast both ways, between embeddings h made of the last layer's vectors. All sentences go
    through the model before it can be computed, so their layers' inputs are kept; the vocabulary's logits never are.

    Args:
        groups: which rows of the batch a group holds, and the group. Rows are 0 ... 2B - 1: row i + B follows row i.
        reads: what h is: the mean of all tokens, special ones included; of those that are not predicted ([CLS] and
            [SEP] never are); or [CLS].
        temperature: tau of the contrast.
        left_out_BB: which row i + B is no negative of which row i, nor the other way round.
        target_RH: where the embeddings are to point. The mean of 1 - cosine is added, `target_weight` times.

    Returns:
        (summed cross-entropy in nats, contrastive loss in nats, that mean of 1 - cosine).
    """
    predicted = sum(len(group.targets) for _, group in groups)
    total = torch.zeros((), device=groups[0][1].inputs.device)
    waiting, pooled = [], []  # for the gradient by h, which takes all of them
    for rows, group in groups:
        assert group.attention is not None
        (hidden_RTH,) = hidden_states(cast(PreTrainedModel, model.base_model), group.inputs, group.attention)
        read_RT = group.attention * ~group.where if reads == "unmasked" else group.attention
        pooled_RH = pool((at_least_float(hidden_RTH),), read_RT, "cls" if reads == "cls" else "mean")
        hidden_MH = hidden_RTH[group.where]
        gradient_MH, summed = _through_head(model, hidden_MH, group.targets, 1 / max(predicted, 1))
        total += summed
        waiting.append((rows, hidden_MH, gradient_MH, pooled_RH))
        pooled.append(pooled_RH.detach())
    rows_R = torch.cat([rows for rows, _ in groups])
    h_RH = torch.empty_like(torch.cat(pooled)).index_copy_(0, rows_R, torch.cat(pooled)).requires_grad_()
    with torch.autocast(h_RH.device.type, enabled=False):
        first_BH, second_BH = h_RH.chunk(2)
        contrast = symmetric_contrastive_loss(first_BH, second_BH, temperature, left_out_BB)
        loss, apart = contrast * weight, torch.zeros_like(contrast)
        if target_RH is not None:
            apart = 1 - F.cosine_similarity(h_RH, target_RH, dim=-1).mean()
            loss = loss + apart * target_weight
        loss.backward()
    for rows, hidden_MH, gradient_MH, group_RH in waiting:
        _backward([hidden_MH, group_RH], [gradient_MH, cast(Tensor, h_RH.grad)[rows]])
    return total, contrast.detach(), apart.detach()


def _backward(values: list[Tensor], gradients: list[Tensor | None]) -> None:
    with torch.autocast(values[0].device.type, enabled=False):  # its rules are for forward passes
        torch.autograd.backward(values, gradients)


def cross_entropy(model: PreTrainedModel, group: Group) -> tuple[Tensor, Tensor]:
    """(summed cross-entropy in nats, number of tokens that were the likeliest), without a gradient."""
    loss = right = torch.zeros((), device=group.targets.device)
    hidden_MH = hidden_at(model, group)
    for part_MH, targets_M in zip(hidden_MH.split(_HEAD_ROWS), group.targets.split(_HEAD_ROWS), strict=True):
        logits_MV = head_of(model)(part_MH).float()
        loss = loss + F.cross_entropy(logits_MV, targets_M, reduction="sum")
        right = right + (logits_MV.argmax(-1) == targets_M).sum()
    return loss, right


def new_model(config: Pretraining, tokenizer: PreTrainedTokenizerBase, tokens: Tokens) -> PreTrainedModel:
    """A model of the wanted shape with fresh weights, which the seed decides; output and input vectors are one."""
    act = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}[config.activation]
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokens.prefix[0] if tokens.prefix else None,
        "eos_token_id": tokens.suffix[-1] if tokens.suffix else None,
        # On a CPU the fused kernel's backward pass takes a quarter of the step; plain products hardly any of it.
        "attn_implementation": "sdpa" if torch.cuda.is_available() else "eager",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draws.key(config.seed) >> 1)
        if config.objective == "causal":
            return GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=len(tokenizer),
                    n_positions=config.positions,
                    n_embd=config.width,
                    n_layer=config.layers,
                    n_head=config.heads,
                    n_inner=config.intermediate,
                    activation_function=act,
                    resid_pdrop=config.dropout,
                    embd_pdrop=config.dropout,
                    attn_pdrop=config.dropout,
                    initializer_range=_INIT_RANGE,
                    **ids,
                )
            )
        return BertForMaskedLM(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.intermediate,
                hidden_act=act,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.dropout,
                max_position_embeddings=config.positions,
                initializer_range=_INIT_RANGE,
                **ids,
            )
        )


def given_model(config: Pretraining, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The masked language model to go on from, with the recipe's dropout.

    Raises:
        InputError: it has no trained head, one of an unknown kind, or too few positions.
    """
    assert config.model is not None
    model = load_masked_lm(named(config.model), "model to go on from")
    if not (hasattr(model, "cls") or hasattr(model, "lm_head")):
        raise InputError(
            f"model = {config.model}: {type(model).__name__} has a vocabulary head of an unknown kind; BERT's and "
            "RoBERTa's are known"
        )
    limit = position_limit(model, tokenizer)
    if config.max_tokens > limit:
        raise InputError(f"max_tokens = {config.max_tokens}: {config.model} takes at most {limit} tokens")
    if not torch.cuda.is_available():
        model.set_attn_implementation("eager")  # as in `new_model`
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    return model


class _Run:
    """The loop: its state, what is measured, and checkpoints."""

    def __init__(
        self,
        model: PreTrainedModel,
        config: Pretraining,
        tokens: Tokens,
        batches: Batches | Pairs,
        vocabulary: Vocabulary,
        held_out: npt.NDArray[np.int64],
        steps: int,
        output: Path,
        record: Record,
        report: Report,
        sums: Tensor | None = None,
    ) -> None:
        self.model, self.config, self.tokens, self.batches, self._sums_VH = model, config, tokens, batches, sums
        self.vocabulary, self.held_out, self.steps = vocabulary, held_out, steps
        self.output, self.record, self.report = output, record, report
        self.bf16 = use_bf16(config.precision)
        self._stop = Stop()
        self.log: list[dict[str, Any]] = []
        self.tokens_seen = 0
        self.training_seconds = 0.0
        self._began, self._before = time.perf_counter(), 0.0
        self._totals = dict.fromkeys(
            ("loss", "predicted", "next", "apart", "tokens", "sentences", "seconds", "steps"), 0.0
        )
        matrices = [p for p in model.parameters() if p.ndim >= 2]
        others = [p for p in model.parameters() if p.ndim < 2]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            eps=1e-6,
            fused=True,
        )

    def train(self, checkpoint: Path | None) -> None:
        """From `checkpoint`, or the start, to the last step."""
        done = first = 0 if checkpoint is None else self._restore(checkpoint)
        log = "".join(json.dumps(entry) + "\n" for entry in self.log)
        write_text(self.output / "log.jsonl", log)
        self.model.train()
        config = self.config
        with stop_between_steps() as self._stop:
            for step in range(first, self.steps):
                began = time.perf_counter()
                self._step(step)
                elapsed = time.perf_counter() - began
                self.training_seconds += elapsed
                self._totals["seconds"] += elapsed
                done = step + 1
                if done % config.log_every == 0 or done == self.steps:
                    self._log_training(done)
                if done % config.eval_every == 0 and done < self.steps:
                    self._add({"step": done, **self.measure()})
                if done % config.checkpoint_every == 0 or self._stop.asked:
                    self._checkpoint(done)
                if self._stop.asked:
                    break
        if self._stop.asked:
            self.record.status = "stopped"
            self.record.write(self.output / "run.json")
            raise stopped(done, self.steps)

    def _step(self, step: int) -> None:
        torch.manual_seed(draws.key(self.config.seed, _TRAIN, step) >> 1)
        for part in self._optimizer.param_groups:
            part["lr"] = self.config.learning_rate * rate(step, self.steps, self.config)
        if isinstance(self.batches, Pairs):
            numbers_R = self.batches[step].T.reshape(-1)  # row i + B follows row i
            rows_of = self.batches.groups(numbers_R)
            groups = [self._padded_group(numbers_R[rows], (self.config.seed, _TRAIN, step)) for rows in rows_of]
        else:
            groups = [self._group(numbers, (self.config.seed, _TRAIN, step)) for numbers in self.batches[step]]
        predicted = sum(len(group.targets) for group in groups)
        device = groups[0].inputs.device
        total = contrast = apart = torch.zeros((), device=device)
        # Weights cast to bf16 are kept while the outer block lasts: once a step, not once a group.
        with self._autocast():
            if isinstance(self.batches, Pairs):
                placed = [
                    (torch.from_numpy(rows).to(device), group) for rows, group in zip(rows_of, groups, strict=True)
                ]
                total, contrast, apart = backward_with_next(
                    self.model,
                    placed,
                    self.config.next_temperature,
                    self.config.next_weight,
                    self.config.next_reads,
                    left_out_BB=same_meaning(*torch.from_numpy(numbers_R).to(device).chunk(2)),
                    target_RH=None if self._sums_VH is None else sums_of(_visible(placed), self._sums_VH).to(device),
                    target_weight=self.config.sums_weight,
                )
            else:
                for group in groups:
                    if len(group.targets):
                        total = total + backward(self.model, group, 1 / predicted)
        if predicted or isinstance(self.batches, Pairs):
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        tokens = sum(
            group.inputs.numel() if group.attention is None else int(group.attention.sum()) for group in groups
        )
        self.tokens_seen += tokens
        losses = {"loss": float(total), "next": float(contrast), "apart": float(apart)}
        counted = {"predicted": predicted, "tokens": tokens, "steps": 1}
        counted["sentences"] = sum(len(group.inputs) for group in groups)
        for name, value in {**losses, **counted}.items():
            self._totals[name] += value

    def _group(self, numbers: npt.NDArray[np.int64], address: tuple[int, ...]) -> Group:
        length = int(self.batches.lengths[numbers[0]])
        device = self.model.device
        ids_RT = torch.from_numpy(self.tokens.rows(numbers, length)).to(device)
        if self.config.objective == "causal":
            return causal_group(ids_RT)
        rows_R = torch.from_numpy(np.asarray(numbers, dtype=np.int64)).to(device)
        return mlm_group(ids_RT, self.vocabulary, self.config.mask_ratio, address, rows_R)

    def _padded_group(self, numbers_R: npt.NDArray[np.int64], address: tuple[int, ...]) -> Group:
        """Sentences of several lengths, padded on the right."""
        lengths_R = self.batches.lengths[numbers_R]
        width = int(lengths_R.max())
        ids_RT = np.full((len(numbers_R), width), self.model.config.pad_token_id, dtype=np.int64)
        for length in np.unique(lengths_R):
            chosen = lengths_R == length
            ids_RT[chosen, :length] = self.tokens.rows(numbers_R[chosen], int(length))
        attention_RT = (np.arange(width) < lengths_R[:, None]).astype(np.int64)
        ids, attention, rows = (
            torch.from_numpy(x).to(self.model.device) for x in (ids_RT, attention_RT, np.ascontiguousarray(numbers_R))
        )
        group = mlm_group(ids, self.vocabulary, self.config.mask_ratio, address, rows, attention)
        if self.config.next_reads != "unmasked":
            return group
        return dataclasses.replace(group, inputs=torch.where(group.where, self.vocabulary.mask, ids))

    def _autocast(self) -> Any:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16)

    # ---- measuring -------------------------------------------------------------------------------------------------

    def _held_out_groups(self) -> Iterator[Group]:
        groups = Batches(self.batches.lengths, self.held_out, _GROUP_TOKENS, 0)
        for index in range(groups.per_epoch):
            for numbers in groups[index]:
                yield self._group(numbers, (self.config.seed, _HELD_OUT))

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Loss (nats a predicted token) and accuracy on the sentences held out, always with the same masks."""
        was_training = self.model.training
        self.model.eval()
        loss = right = count = 0.0
        for group in self._held_out_groups():
            with self._autocast():
                summed, hits = cross_entropy(self.model, group)
            loss, right, count = loss + float(summed), right + float(hits), count + len(group.targets)
        self.model.train(was_training)
        return {"held_out_loss": loss / max(count, 1), "held_out_accuracy": right / max(count, 1)}

    def unigram_loss(self) -> float:
        """The loss of one who knows how frequent each token is, and nothing of the sentence: the line to be below."""
        counts_V = occurrences(self.tokens.ids, self.vocabulary.size) + 1.0
        if self.config.objective == "causal":
            counts_V[list(self.tokens.suffix)] += len(self.tokens)
        logs_V = torch.from_numpy(np.log(counts_V / counts_V.sum()))
        targets = torch.cat([group.targets.cpu() for group in self._held_out_groups()])
        return -float(logs_V[targets].mean())

    def seconds(self) -> float:
        """Time since the loop began, that of the processes before a resume included."""
        return self._before + time.perf_counter() - self._began

    def _log_training(self, step: int) -> None:
        totals, self._totals = self._totals, dict.fromkeys(self._totals, 0.0)
        loss = totals["loss"] / max(totals["predicted"], 1)
        if not math.isfinite(loss):
            raise InputError(
                f"the loss is {loss} before step {step}: training diverged. Lower --learning-rate (or use --precision "
                "fp32); checkpoints written before are untouched"
            )
        self._add(
            {
                "step": step,
                "loss": loss,
                **({"next_loss": totals["next"] / max(totals["steps"], 1)} if self.config.next_weight else {}),
                **({"sums_loss": totals["apart"] / max(totals["steps"], 1)} if self.config.sums_weight else {}),
                "learning_rate": self._optimizer.param_groups[0]["lr"],
                "tokens": self.tokens_seen,
                "tokens_per_second": totals["tokens"] / max(totals["seconds"], 1e-9),
                "sentences": totals["sentences"],
            }
        )

    def _add(self, entry: dict[str, Any]) -> None:
        release_memory()  # groups of many shapes leave holes of many sizes, more with every step
        entry = finite(entry)
        self.log.append(entry)
        path = self.output / "log.jsonl"
        with write_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if not self._stop.asked:  # whoever reads the lines may have been ended by the same Ctrl-C
            self.report("log", {**entry, "steps": self.steps})

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def _checkpoint(self, step: int) -> None:
        if not all(p.isfinite().all() for p in self.model.parameters()):
            raise InputError(
                f"a weight is no longer finite after step {step}: training diverged. Lower --learning-rate; "
                "checkpoints written before are untouched"
            )
        folder = self.output / "checkpoints"
        with staged_folder(checkpoint_path(folder, step)) as staging:
            save_weights({name: value.detach() for name, value in self.model.named_parameters()}, staging / _WEIGHTS)
            save_weights(self._moments(), staging / _OPTIMIZER)
            state = {
                "step": step,
                "tokens_seen": self.tokens_seen,
                "training_seconds": self.training_seconds,
                "seconds": self.seconds(),
                "timing": self.record.timing,
                "totals": self._totals,
                "log": self.log,
            }
            write_json(staging / _STATE, finite(state))
            write_manifest(staging)
        prune(folder, step)

    def _moments(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": value
            for name, parameter in self.model.named_parameters()
            for key, value in self._optimizer.state[parameter].items()
        }

    @torch.no_grad()
    def _restore(self, checkpoint: Path) -> int:
        """Take up everything `checkpoint` holds; the number of updates it has behind it."""
        weights, moments = load_file(checkpoint / _WEIGHTS), load_file(checkpoint / _OPTIMIZER)
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])
            keys = ("step", "exp_avg", "exp_avg_sq")  # all on the device: the fused optimizer reads them there
            self._optimizer.state[parameter] = {key: moments[f"{name}.{key}"].to(parameter.device) for key in keys}
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        if "totals" not in state:
            raise InputError(f"{checkpoint}: was written by another version of diffcse: give a new --output")
        self.tokens_seen, self.training_seconds = state["tokens_seen"], state["training_seconds"]
        self._before, self._totals, self.log = state["seconds"], state["totals"], state["log"]
        self.record.timing = {**self.record.timing, **state["timing"]}
        return state["step"]


def rate(step: int, steps: int, config: Pretraining) -> float:
    """The learning rate of update `step` (counted from 0) as a share of its peak: up in the warm-up, then down to 0."""
    warmup = round(config.warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = (steps - step) / max(steps - warmup, 1)
    return left if config.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)


def _tokenizer(
    config: Pretraining,
    corpus: Corpus,
    trained_on: npt.NDArray[np.int64],
    folder: Path,
    record: Record,
    report: Report,
) -> PreTrainedTokenizerBase:
    """The given tokenizer, or one trained on sentences evenly spread; an interrupted run left it in `folder`."""
    if config.model is not None:
        return load_tokenizer(named(config.model))
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer)
    if not folder.is_dir():
        with _timed(record, "tokenizer_seconds", f"training a tokenizer of {config.vocabulary:,} tokens", report):
            tokenizer = train_wordpiece(
                (corpus[int(i)] for i in spread(trained_on, config.tokenizer_sentences)),
                config.vocabulary,
                lowercase=config.lowercase,
                positions=config.positions,
            )
        with staged_folder(folder) as staging:
            save_tokenizer(tokenizer, staging)
    with quiet():
        return PreTrainedTokenizerFast.from_pretrained(folder)


def spread(items: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """At most `count` of `items`, evenly spread."""
    return items if len(items) <= count else items[np.linspace(0, len(items) - 1, count).astype(np.int64)]


@torch.no_grad()
def _start_embeddings(model: PreTrainedModel, config: Pretraining, words_VH: npt.NDArray[np.float32]) -> None:
    """Make a fresh `model` begin with the vectors of `_word_vectors`."""
    if config.start_embeddings == "next_sentences":
        words_VH = as_embeddings(words_VH, length=_start_length(config))
        _soften(model)
        if config.next_weight and config.next_reads == "cls":
            _gather(model)
    weight = cast(Tensor, model.get_input_embeddings().weight)
    weight[: len(words_VH)] = torch.from_numpy(words_VH)


def _start_length(config: Pretraining) -> float:
    """As long as fresh token vectors are."""
    return _INIT_RANGE * config.width**0.5


def _kept_word_vectors(
    config: Pretraining,
    tokens: Tokens,
    trained_on: npt.NDArray[np.int64],
    vocabulary: Vocabulary,
    pairs_P2: npt.NDArray[np.int64] | None,
    folder: Path,
    record: Record,
    report: Report,
) -> npt.NDArray[np.float32]:
    """`_word_vectors`, or what an interrupted run left of them in `folder`: made anew on other hardware they might be
    others, and the sums that the model has come near with them."""
    if not folder.is_dir():
        with _timed(record, "start_embeddings_seconds", "token vectors from the text", report):
            words_VH = _word_vectors(config, tokens, trained_on, vocabulary, pairs_P2)
        with staged_folder(folder) as staging:
            save_weights({"words": torch.from_numpy(words_VH)}, staging / _WEIGHTS)
    return cast("npt.NDArray[np.float32]", load_file(folder / _WEIGHTS)["words"].numpy())


def _word_vectors(
    config: Pretraining,
    tokens: Tokens,
    trained_on: npt.NDArray[np.int64],
    vocabulary: Vocabulary,
    pairs_P2: npt.NDArray[np.int64] | None,
) -> npt.NDArray[np.float32]:
    """The token vectors that `start_embeddings` asks for: (V, width), or, learned ones, (V, width - `_FILLING`)."""
    if config.start_embeddings == "next_sentences" and pairs_P2 is not None:
        return _learned_vectors(config, tokens, trained_on, vocabulary, pairs_P2, config.width - _FILLING)
    return _counted_vectors(config, tokens, trained_on, vocabulary, config.width, _start_length(config))


def _counted_vectors(
    config: Pretraining,
    tokens: Tokens,
    trained_on: npt.NDArray[np.int64],
    vocabulary: Vocabulary,
    width: int,
    length: float,
) -> npt.NDArray[np.float32]:
    """Token vectors of that `length` by counting at most `start_tokens`: (V, width)."""
    sizes = np.diff(tokens.offsets)
    share = config.start_tokens / max(int(sizes[trained_on].sum()), 1)
    counted = spread(trained_on, max(1, int(share * len(trained_on))))
    offsets = np.concatenate([[0], np.cumsum(sizes[counted])])
    ids_N = _ids_of(tokens, counted)
    return ppmi_svd(ids_N, offsets, vocabulary.size, width, length=length, skip=vocabulary.special, seed=config.seed)


def _ids_of(tokens: Tokens, sentences: npt.NDArray[np.int64]) -> npt.NDArray[np.integer]:
    """All token ids of these sentences, which are sorted, in a row."""
    chosen = np.zeros(len(tokens), dtype=bool)
    chosen[sentences] = True
    return tokens.ids[np.repeat(chosen, np.diff(tokens.offsets))]


def _learned_vectors(
    config: Pretraining,
    tokens: Tokens,
    trained_on: npt.NDArray[np.int64],
    vocabulary: Vocabulary,
    pairs_P2: npt.NDArray[np.int64],
    width: int,
) -> npt.NDArray[np.float32]:
    """Token vectors learned from next sentences, times their weights: (V, width)."""
    vectors_VH = _counted_vectors(config, tokens, trained_on, vocabulary, width, 1.0)
    sif_V = sif_weights(_ids_of(tokens, trained_on), len(vectors_VH))
    learned_VH, weight_V = learn_from_next(
        vectors_VH, sif_V, tokens.ids, tokens.offsets, pairs_P2[:, 0], pairs_P2[:, 1], seed=config.seed
    )
    for weights_V in (weight_V, sif_V):
        weights_V[list(vocabulary.special)] = 0  # [CLS] and [SEP] stand in every sentence and mean nothing
    return with_own_directions(learned_VH * weight_V[:, None], sif_V, seed=config.seed)


def _soften(model: Any) -> None:
    """Make a fresh BERT so quiet that its mean-pooled embeddings are nearly the weighted sums of `as_embeddings`."""
    embeddings, layers = model.bert.embeddings, model.bert.encoder.layer
    for table in (embeddings.position_embeddings, embeddings.token_type_embeddings):
        table.weight.mul_(_SOFTER_POSITIONS)
    for layer in layers:
        for part in (layer.attention.output, layer.output):
            part.dense.weight.mul_(_SOFTER_LAYERS)
    layers[-1].output.LayerNorm.weight[-2:] = 0  # the two that only fill every token's vector up to one length


def _gather(model: Any) -> None:
    """Make the last layer's [CLS] point where the weighted sum does, too, in a BERT that `_soften` made quiet.

    Fresh attention looks everywhere alike; with the identity as values, and `_GATHERED` times it to write them, it adds
    the mean of all tokens. The filling coordinates are not passed on: [CLS] itself, of weight 0, begins as those alone.
    """
    attention = model.bert.encoder.layer[-1].attention
    nn.init.eye_(attention.self.value.weight)
    attention.self.value.weight[-_FILLING:] = 0
    nn.init.eye_(attention.output.dense.weight).mul_(_GATHERED)


def _visible(groups: Sequence[tuple[Tensor, Group]]) -> list[npt.NDArray[np.int64]]:
    """Tokens of each row of a batch as the model reads them: [MASK] tells nothing, so it weighs nothing."""
    rows: dict[int, npt.NDArray[np.int64]] = {}
    for numbers_R, group in groups:
        assert group.attention is not None
        lengths = group.attention.sum(1).tolist()
        for number, ids_T, length in zip(numbers_R.tolist(), group.inputs.cpu().numpy(), lengths, strict=True):
            rows[number] = ids_T[:length]
    return [rows[number] for number in range(len(rows))]


@torch.no_grad()
def _average(model: PreTrainedModel, start: Sequence[Tensor], share: float) -> None:
    """Each weight of `model` becomes (1 - share) times itself plus `share` times what it was at the start."""
    for weight, before in zip(model.parameters(), start, strict=True):
        weight.lerp_(before.to(weight), share)


def _round_to_half(model: PreTrainedModel, record: Record) -> None:
    """Give the weights the values they will be stored with, so that what is measured is what ships."""
    with torch.no_grad():
        rounded = [p.half() for p in model.parameters()]
        if not all(value.isfinite().all() for value in rounded):
            raise InputError("a weight is too large for fp16: use --store fp32 with --resume")
        for parameter, value in zip(model.parameters(), rounded, strict=True):
            parameter.copy_(value)


def _save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Pretraining, folder: Path, card: str
) -> None:
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(model.config, name):
            setattr(model.config, name, _SAVED_DROPOUT)
    if config.model is None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, config.positions)
    if config.store == "fp16":
        model.half()
    try:
        with staged_folder(folder) as staging, quiet():
            model.save_pretrained(staging)
            save_tokenizer(tokenizer, staging)
            if config.objective == "mlm":
                limit = position_limit(model, tokenizer)
                write_layout(
                    Encoder(cast(PreTrainedModel, model.base_model), tokenizer, config.pooling, limit), staging
                )
            write_text(staging / "README.md", card)
    finally:
        model.float()


def _card(config: Pretraining, corpus: Corpus, record: Record, license_note: str) -> str:
    kind = "masked" if config.objective == "mlm" else "causal"
    scores = record.scores
    predicted = "a masked token" if config.objective == "mlm" else "a token"
    if config.tokenizer and Path(config.tokenizer).exists():
        # Folders of this machine are nobody's business: the name is enough.
        config = dataclasses.replace(config, tokenizer=Path(config.tokenizer).name)
    if config.model and Path(config.model).exists():
        config = dataclasses.replace(config, model=Path(config.model).name)
    given = f", with the tokenizer of {config.tokenizer}" if config.tokenizer else ""
    begun = f"from `{config.model}`" if config.model else "from scratch"
    inherited = f"; that of the text of `{config.model}` is in its own card" if config.model else ""
    uses = [
        *(
            ["by its token vectors before the first step"]
            if config.start_embeddings == "next_sentences" and not config.model
            else []
        ),
        *([f"beside the masked tokens (weight {config.next_weight:g})"] if config.next_weight else []),
    ]
    more = f"\n- Which sentence follows which was learned from too: {', and '.join(uses)}" if uses else ""
    if config.next_weight:
        pooling = "[CLS]" if config.pooling == "cls" else "the mean of all tokens"
        more += f"\n- Embedding: {pooling} of the last layer, as sentence-transformers will take it from this folder"
    if config.sums_weight:
        more += f"\n- That embedding was drawn to the sum of its words' vectors (weight {config.sums_weight:g})"
    if config.start_share:
        more += f"\n- Averaged at the end with the weights it began with, which have a share of {config.start_share:g}"
    return f"""# {config.name}: a small {kind} language model

Pretrained {begun} by `diffcse pretrain` on {scores["tokens_seen"]:,} tokens of plain text{given}.

- Text: {len(corpus):,} distinct sentences, SHA-256 `{corpus.sha256}`
- Licence of the text: {license_note or "not stated"}{inherited}
- Held out: {config.held_out:,} sentences that this run never trained on; loss {scores["held_out_loss"]:.3f} nats
  for {predicted} (by token frequency alone {scores["unigram_loss"]:.3f}), accuracy
  {scores["held_out_accuracy"]:.1%}{more}

Its sentence embeddings are only a start: train them with `diffcse train`.

```toml
{to_toml(config)}```
"""


def _check_same_run(record_file: Path, config: Pretraining, data: dict[str, Any]) -> Record:
    """The record of the run to go on with.

    Raises:
        InputError: it was begun with another recipe or other text.
    """
    begun = read_record(record_file)
    then, now = begun.config, to_dict(config)
    if "text" in begun.data and "text" in data:  # older records do not say, and a corpus in memory has none
        then, now = {**then, "text": begun.data["text"]}, {**now, "text": data["text"]}
    changed = changed_fields(then, now, Pretraining)
    if begun.kind != "pretrain" or changed:
        before = previous_values(changed, then)
        what = before if begun.kind == "pretrain" else f"as a run of kind {begun.kind!r}"
        raise InputError(f"{record_file}: was begun with other settings ({what}): resume with those, or a new --output")
    if begun.data.get("sha256") != data["sha256"]:
        raise InputError(f"{record_file}: was begun on other text: give the same files, or a new --output")
    check_same_documents(record_file.parent, begun, data)
    return begun


def _start_sha256(config: Pretraining, begun: Record | None, record_file: Path) -> str | None:
    """Hash of the folder to go on from; None from scratch, or from the hub.

    Raises:
        InputError: it is not the one that `begun` began from. A complete run may outlive it.
    """
    complete = begun is not None and begun.status == "complete"
    if config.model is None:
        return None
    try:
        folder = named(config.model)
        found = model_sha256(folder) if folder.is_dir() else None
    except InputError:
        if not complete:
            raise
        found = None
    if begun is not None:
        check_same_weights(record_file, begun, config.model, begun.data.get("start_model_sha256"), found)
    return found


def _reopen(config: Pretraining, output: Path, record: Record) -> Pretrained:
    """The result of a complete run."""
    folder = output / "model"
    if not folder.is_dir():
        raise InputError(f"{output}: its run is complete, but model/ was removed: give a new --output")
    kind = AutoModelForCausalLM if config.objective == "causal" else AutoModelForMaskedLM
    with quiet():
        model = kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return Pretrained(model.eval(), load_tokenizer(folder), record)


def _clear_stillborn(output: Path) -> None:
    """Remove what a run left that was refused before it made anything: its folder is to take the mended one."""
    try:
        record = read_record(output / "run.json")
    except InputError:
        return
    if record.kind != "pretrain" or record.status != "running":
        return  # somebody kept it
    with write_errors(output):
        names = {path.name for path in output.iterdir() if not path.name.startswith(".")}
        checkpoints = output / "checkpoints"
        if (
            checkpoints.is_dir()
            and not any(checkpoints.iterdir())
            and names <= {"run.json", "recipe.toml", "checkpoints"}
        ):
            checkpoints.rmdir()
            names.discard("checkpoints")
        if names <= {"run.json", "recipe.toml"}:
            for name in names:
                (output / name).unlink()


def _clean_up(output: Path) -> None:
    """Remove what only an unfinished run needs; not before run.json says "complete"."""
    for name in ("checkpoints", "tokenizer", _WORDS):
        shutil.rmtree(output / name, ignore_errors=True)


class _timed:
    """Reports a phase that takes a while, and notes its seconds."""

    def __init__(self, record: Record, name: str, label: str, report: Report) -> None:
        self.record, self.name = record, name
        report("phase", {"label": label})

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.record.timing[self.name] = time.perf_counter() - self._began
