"""What a sentence-transformers folder states is read, computed and written again as that library does it."""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.errors import InputError
from tests.models import SENTENCES, save_tiny

TEXTS = [SENTENCES[0], "", *SENTENCES[3:9], SENTENCES[17] * 6]
POOLINGS = ["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
PROMPTS = {"query": "the cat ", "document": "a dog "}


def dense(out, width=16, **kind):
    torch.manual_seed(out)
    return Dense(width, out, **kind)


def layouts(width):
    """name -> (modules after the transformer, settings)."""
    mean = Pooling(width, pooling_mode="mean")
    return {
        **{mode: ([Pooling(width, pooling_mode=mode)], {}) for mode in POOLINGS},
        "normalize": ([mean, Normalize()], {}),
        "dense": ([mean, dense(8, width)], {}),
        "dense without bias": ([mean, dense(width, width, bias=False, activation_function=None)], {}),
        "cls and tanh": ([Pooling(width, pooling_mode="cls"), dense(width, width)], {}),
        "normalize, dense, dense, normalize": (
            [mean, Normalize(), dense(8, width, activation_function=torch.nn.GELU()), dense(4, 8), Normalize()],
            {},
        ),
        "prompts": ([mean], {"prompts": PROMPTS, "default_prompt_name": "document"}),
        "prompts without a default": ([mean], {"prompts": PROMPTS}),
        "truncate": ([mean, Normalize()], {"truncate_dim": 5, "similarity_fn_name": "dot"}),
        "euclidean": ([mean], {"similarity_fn_name": "euclidean"}),
    }


def folder_of(name, root, *, limit=12):
    base = root / "base"
    if not base.is_dir():
        save_tiny(base, "bert")
    transformer = Transformer(str(base), max_seq_length=limit)
    modules, settings = layouts(transformer.get_embedding_dimension())[name]
    SentenceTransformer(modules=[transformer, *modules], device="cpu", **settings).save(str(root / name))
    return root / name


def attributes(model):
    return {
        "prompts": {name: text for name, text in model.prompts.items() if text},
        "default_prompt_name": model.default_prompt_name,
        "truncate_dim": model.truncate_dim,
        "similarity": model.similarity_fn_name,
        "max_seq_length": model.max_seq_length,
    }


@pytest.mark.parametrize("name", list(layouts(16)))
def test_the_folder_is_kept(name, tmp_path):
    folder = folder_of(name, tmp_path)
    library = SentenceTransformer(str(folder), device="cpu")
    encoder = load(folder)
    wanted = library.encode(TEXTS)
    np.testing.assert_allclose(encoder(TEXTS), wanted, atol=1e-5)
    assert encoder.width == wanted.shape[1]
    save(encoder, tmp_path / "again", "")
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), wanted, atol=1e-5)
    assert attributes(again) == attributes(library)
    np.testing.assert_allclose(load(tmp_path / "again")(TEXTS), wanted, atol=1e-5)


def test_what_is_not_supported_is_named(tmp_path):
    base = tmp_path / "base"
    save_tiny(base, "bert")
    transformer = Transformer(str(base))
    width = transformer.get_embedding_dimension()
    refused = {
        "pooling": [Pooling(width, pooling_mode=("cls", "mean"))],
        "include_prompt": [Pooling(width, pooling_mode="mean", include_prompt=False)],
        "use_residual": [Pooling(width, pooling_mode="mean"), Dense(width, width, use_residual=True)],
        "activation_function": [
            Pooling(width, pooling_mode="mean"),
            Dense(width, 4, activation_function=torch.nn.ELU()),
        ],
    }
    for key, modules in refused.items():
        SentenceTransformer(modules=[transformer, *modules], device="cpu").save(str(tmp_path / key))
        with pytest.raises(InputError, match=key):
            load(tmp_path / key)


def test_a_default_prompt_that_is_no_text_is_named(tmp_path):
    folder = folder_of("prompts", tmp_path)
    file = folder / "config_sentence_transformers.json"
    file.write_text(json.dumps({"prompts": {"3": "x"}, "default_prompt_name": 3}))
    with pytest.raises(InputError, match=f"{file}: default_prompt_name"):
        load(folder)
