"""Tiny random models with batches of every kind, for tests of the whole method."""

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    BertModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

from diffcse.config import Method
from diffcse.method.draws import row_numbers
from diffcse.method.edits import Vocabulary
from diffcse.method.paper import DiffCSE

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}


FAMILIES = {
    # special ids as these families have them: padding, unknown, start, end, mask
    "bert": (
        BertConfig,
        BertModel,
        BertForMaskedLM,
        {"pad_token_id": 0},
        Vocabulary(40, 4, (0, 1, 2, 3, 4)),
        (2, 3),
    ),
    "roberta": (
        RobertaConfig,
        RobertaModel,
        RobertaForMaskedLM,
        {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1},
        Vocabulary(40, 39, (0, 1, 2, 3, 39), pad=1),
        (0, 2),
    ),
}


def make(family="bert", *, dropout=0.1, seed=0, dtype=torch.float32, scale=0.4, **choices):
    """A tiny random DiffCSE; `scale` widens the random weights so that every path matters."""
    config_class, model_class, lm_class, ids, vocabulary, _ = FAMILIES[family]
    torch.manual_seed(seed)
    config = config_class(
        **SIZES, **ids, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, initializer_range=scale
    )
    if "causal_lm" in choices.get("edits", ()):
        choices = {"causal_generator": "given as a module", **choices}
    method = Method(**choices)
    encoder, generator = model_class(config, add_pooling_layer=False), lm_class(config)
    discriminator = causal = None
    if method.difference == "rtd":
        discriminator = model_class(config, add_pooling_layer=False)
    elif method.difference != "none":
        discriminator = lm_class(config)
    if method.needs("causal"):
        torch.manual_seed(seed + 1)
        causal = BertLMHeadModel(BertConfig(**SIZES, **ids, initializer_range=scale, is_decoder=True))
    model = DiffCSE(
        encoder,
        vocabulary,
        method,
        generator=generator,
        causal_generator=causal,
        discriminator=discriminator,
        seed=seed,
    )
    return model.to(dtype).train()


def batch(family="bert", lengths=(9, 4, 12, 7), seed=1):
    *_, (start, end) = FAMILIES[family]
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), max(lengths)), FAMILIES[family][3]["pad_token_id"])
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = torch.randint(5, 39, (length,), generator=generator)
        row[0], row[length - 1] = start, end
    return {"input_ids": ids, "attention_mask": (ids != FAMILIES[family][3]["pad_token_id"]).long()}


def both_views(size):
    """Row numbers of both views of the sentences of a batch."""
    return torch.cat([row_numbers(0, size, view, torch.device("cpu")) for view in (0, 1)])


def following(family="bert", has_next=(True, False, True, True)):
    """The next sentences of those of `batch`."""
    after = batch(family, (5, 2, 14, 6), seed=2)
    return {**{f"next_{name}": value for name, value in after.items()}, "has_next": torch.tensor(has_next)}


def triplets(columns=3):
    """Pairs or triplets among which some sentences return in other rows, in every way in which they can."""
    sentence = {
        name: row[: sum(real)].tolist()
        for name, row, real in zip(
            "abcpqrstn",
            *batch(lengths=(9, 4, 12, 7, 3, 6, 10, 5, 8), seed=3).values(),
            strict=True,
        )
    }
    rows = ["apn", "bqs", "ars", "cbp", "bqt"]  # anchors a twice; b, q twice; b as positive of c; p as negative of c
    rows.append("scs")  # s is its own hard negative, and that of others; its positive is c
    data = {}
    for column, place in zip(("", "positive_", "hard_negative_")[:columns], (0, 1, 2), strict=False):
        chosen = [sentence[row[place]] for row in rows]
        width = max(map(len, chosen))
        data[f"{column}input_ids"] = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in chosen])
        data[f"{column}attention_mask"] = (data[f"{column}input_ids"] != 0).long()
        data[f"{column or 'anchor_'}key"] = torch.tensor([ord(row[place]) for row in rows])
    return data


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


BASE = {"mask_ratio": 0.5, "rtd_weight": 0.1, "temperature": 0.5}


PLAIN = batch(lengths=(9, 4, 12, 2, 3))


NEXT = batch() | following()


MIXED = ("mlm", "causal_lm", "replace", "insert", "delete", "insert_random")


COLUMNS = ("anchor", "positive", "hard_negative")


TASKS = {
    "rtd": {},
    "rtd, all editors": {"edits": MIXED},
    "mlm": {"difference": "mlm"},
    "corrective_lm": {"difference": "corrective_lm", "edits": ["mlm", "causal_lm"]},
}
