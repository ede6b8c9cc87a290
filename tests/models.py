"""Tiny models, tokenizers and sentences that every test may use: made in memory, in milliseconds, from nothing.

Import with `from tests.models import SENTENCES, save_tiny, tiny_tokenizer`. (pytest's importlib mode names modules by
their path from the repository root, so this works from any directory and needs no `__init__.py`.)
"""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers import decoders as token_decoders
from tokenizers.models import WordPiece
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

logging.disable_progress_bar()  # bars of loaded and written weights are no news in a test

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""What two correct computations of a tiny model may differ by, relative to the largest value.

Processors multiply in blocks of their own, so sums round differently: a float16 value by several steps of 5e-4."""


def assert_close(found, expected, *, slack: float = 1.0) -> None:
    """Equal within the tolerance of the coarser dtype of the two tensors, times `slack`."""
    tolerance = slack * max(TOLERANCES[x.dtype] for x in (found, expected))
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=tolerance * scale)


SENTENCES = [
    "the cat sat on the mat",
    "a dog ran over the hill",
    "birds sing",
    "rain fell on the old town all night",
    "she read a long book by the river",
    "he saw the moon",
    "the children play in the garden after school",
    "my sister made bread for the family",
    "a red car is at the door",
    "we walk home",
    "the small boat came back to the shore before dark",
    "old men talk about the sea",
    "no one knew the name of the tall man",
    "water is cold in winter",
    "the sun is warm in summer",
    "they found a key under the stone",
    "i like apples",
    "the teacher told us a story about a king and a horse",
    "a young woman sang a song at the window",
    "my father works in a shop in town",
    "the train was late",
    "snow lay white on the road and on the trees",
    "the cat and the dog sleep by the fire",
    "she gave him a green apple",
    "the river runs to the sea",
    "we saw a bird in the tall tree",
    "the king had a horse",
    "night came",
    "there is bread and milk on the table",
    "two boys ran down the road to the shop",
    "the old house has a blue door and small windows",
    "he wrote a letter to his mother last night",
    "fish swim in the cold river",
    "the moon is over the hill",
    "a child found a white stone by the sea",
    "i read the letter",
    "the school is near the river and the garden is near the school",
    "her brother made a boat of wood",
    "the wind took the leaves from the trees",
    "good food makes people happy",
    "the man with the dog is my father",
    "it is dark in the house",
    "the horse ran fast over the field",
    "a song about summer",
    "they sat under the tree and ate apples and bread",
    "the shop is old",
    "my mother told me the name of the bird",
    "the boys swim",
    "in winter the children play in the snow until it is dark",
    "the fire is warm",
    "we came home late last night after the long walk",
    "a cat is on the table",
    "the woman at the window saw the train",
    "stars",
    "the people of the town talk about the cold winter",
    "he took the key and went to the door",
    "leaves fall",
    "the fast train came to the town before night",
    "milk is good for children",
    "a letter lay on the table by the window all day",
    "the dog knew the way home",
    "she likes the blue boat and he likes the red car",
    "the wind is cold",
    "books tell us about people and about the past",
    "my brother works at the school",
    "the white horse of the king",
    "the garden has apples",
    "an old man sat by the fire and told his long story to the children",
    "the day is long in summer",
    "two fish",
    "the sea was green and the sky was blue",
    "go home before dark",
    "a small bird sat on the stone and sang",
    "the mother gave milk to the cat",
    "the road over the hill is white with snow",
    "men from the sea came to the shore and found wood for a fire",
    "she went to school",
    "the sky is dark and the rain is near",
    "the story has no king",
    "under the old tree there is a stone with a name on it",
]
"""Eighty distinct sentences of unequal length."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()} - set(_LETTERS))

_BERT = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]", "unk_token": "[UNK]"}
_ROBERTA = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>", "unk_token": "<unk>"}

FAMILIES = ("bert", "roberta", "distilbert", "mpnet", "electra", "xlm-roberta", "minilm")
"""Those that DiffCSE trains. "minilm" is a BERT without a masked-language-model head."""

_CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "distilbert": "DistilBert",
    "mpnet": "MPNet",
    "electra": "Electra",
    "xlm-roberta": "XLMRoberta",
    "albert": "Albert",
    "deberta-v2": "DebertaV2",
    "modernbert": "ModernBert",
    "gpt2": "GPT2",
    "bert-decoder": "Bert",
}
CAUSAL = ("gpt2", "bert-decoder")
"""Causal language models, which generate and are not trained."""

_ROBERTA_STYLE = ("roberta", "mpnet", "xlm-roberta", "gpt2")


def tiny_tokenizer(kind: str = "bert", *, max_length: int = 256) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer that knows each of `WORDS` and spells everything else in letters.

    `kind` "bert": [PAD] is 0, then [UNK] [CLS] [SEP] [MASK]. "roberta": <s> 0, <pad> 1, </s> 2, <unk> 3, and <mask>
    last, with bos and eos, as RoBERTa, MPNet and XLM-R have them.
    """
    special = _BERT if kind == "bert" else _ROBERTA
    tokens = [*WORDS, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    if kind == "bert":
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *tokens]
    else:
        tokens = ["<s>", "<pad>", "</s>", "<unk>", *tokens, "<mask>"]
    ids = {token: index for index, token in enumerate(tokens)}
    core = Tokenizer(WordPiece(ids, unk_token=special["unk_token"]))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = token_decoders.WordPiece()
    start, end = special["cls_token"], special["sep_token"]
    core.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B:1 {end}:1",
        special_tokens=[(start, ids[start]), (end, ids[end])],
    )
    ends = {} if kind == "bert" else {"bos_token": start, "eos_token": end}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=max_length, **special, **ends)


def tiny_model(
    family: str,
    *,
    masked_lm: bool = True,
    seed: int = 0,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 2,
    dropout: float = 0.1,
    positions: int = 256,
    tokens: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A random model of `family` in eval mode and its tokenizer; `seed` alone decides the weights.

    Weights are spread wider than usual, so that different sentences get clearly different embeddings. `positions` is
    the longest input in tokens, whatever the family's way of counting. `tokens` is the kind of `tiny_tokenizer` where
    it shall not be the family's own: a causal model shares its encoder's vocabulary. `masked_lm` is for the families
    in `CAUSAL` their language-model head.
    """
    if family == "minilm":
        family, masked_lm = "bert", False
    roberta_style = family in _ROBERTA_STYLE
    tokenizer = tiny_tokenizer(tokens or ("roberta" if roberta_style else "bert"), max_length=positions)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "max_position_embeddings": positions + (2 if roberta_style else 0),
        "initializer_range": 0.2,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    special = {
        "distilbert": {"hidden_dim": 4 * hidden, "dropout": dropout, "attention_dropout": dropout},
        "electra": {"embedding_size": hidden // 2},
        "albert": {"embedding_size": hidden // 2},
        "roberta": {"type_vocab_size": 1},
        "xlm-roberta": {"type_vocab_size": 1},
        "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
        "modernbert": {
            "embedding_dropout": dropout,
            "mlp_dropout": dropout,
            "attention_dropout": dropout,
            "cls_token_id": tokenizer.cls_token_id,
            "sep_token_id": tokenizer.sep_token_id,
        },
        "gpt2": {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout, "n_inner": 4 * hidden},
        "bert-decoder": {"is_decoder": True},
    }
    head = ("LMHeadModel" if family in CAUSAL else "ForMaskedLM") if masked_lm else "Model"
    config = getattr(transformers, f"{_CLASSES[family]}Config")(**(sizes | special.get(family, {})))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{_CLASSES[family]}{head}")(config)
    return model.eval(), tokenizer


def save_tiny(folder: Path, family: str, *, masked_lm: bool = True, seed: int = 0, **sizes: float | str) -> Path:
    """Write a `tiny_model` with its tokenizer as a Hugging Face checkpoint (safetensors) to `folder`.

    `sizes` are those of `tiny_model`: hidden, layers, heads, dropout, positions, and tokens.
    """
    model, tokenizer = tiny_model(family, masked_lm=masked_lm, seed=seed, **sizes)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_with_pooler(folder: Path, family: str, *, seed: int = 0, **sizes: float) -> Path:
    """`save_tiny` of a bare encoder that has a trained pooler head, as published BERT-like checkpoints have."""
    plain, tokenizer = tiny_model(family, masked_lm=False, seed=seed, **sizes)
    assert plain.pooler.dense.bias is not None
    with torch.no_grad():
        plain.pooler.dense.bias.normal_(generator=torch.Generator().manual_seed(seed))
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
