"""What ships loads where we are not: in sentence-transformers and in transformers, with the same embeddings."""

import doctest
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from diffcse.encoder import save as module
from diffcse.encoder.encode import Encoder
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.errors import InputError
from diffcse.training.collate import Collate
from tests.models import FAMILIES, SENTENCES, save_tiny, save_with_pooler, tiny_model

LONG = " ".join(SENTENCES)[:2000].rsplit(" ", 1)[0]  # far more than 200 tokens
TEXTS = [*SENTENCES[:12], "", "Unknown \u00e9 words!", " ".join(LONG.split()[:198]), LONG]
FILES = [
    "1_Pooling/config.json",
    "README.md",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
]
CASES = {
    **{f"{family} {pooling}": (family, pooling, False) for family in FAMILIES for pooling in ("cls", "mean")},
    "bert normalised": ("bert", "mean", True),
}
LAYERED = {
    **{
        f"{family} {pooling}": (family, pooling, False)
        for family in ("bert", "roberta", "distilbert", "mpnet", "electra", "deberta-v2", "modernbert")
        for pooling in ("first_last", "top2")
    },
    **{f"{family} pooler": (family, "pooler", False) for family in ("bert", "roberta")},
    "bert top2 normalised": ("bert", "top2", True),
    "bert pooler normalised": ("bert", "pooler", True),
}
"""Poolings that take more modules than one."""


def make(folder, family="bert", pooling="cls", normalised=False):
    """An encoder as training leaves it: its tokenizer was last asked to cut at 32 tokens and to pad."""
    saved = save_with_pooler(folder, family) if pooling == "pooler" else save_tiny(folder, family, layers=3)
    encoder = replace(load(saved, pooling=pooling), normalised=normalised)
    Collate(encoder.tokenizer, 32)(SENTENCES[:4])
    encoder.model.train()
    return encoder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """name -> (folder written by us, its embeddings computed before it was written)."""
    root, result = tmp_path_factory.mktemp("saved"), {}
    for name, case in CASES.items():
        encoder = make(root / "start" / name, *case)
        embeddings = encoder(TEXTS)
        Collate(encoder.tokenizer, 32)(SENTENCES[:4])
        save(encoder, root / name, "# A card\n")
        result[name] = (root / name, embeddings)
    (root / "bert normalised" / "2_Normalize").rmdir()  # as git and the hub do with empty folders
    return result


ELSEWHERE = """
import json, sys
sys.modules["diffcse"] = None  # any import of it fails
import numpy as np, torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

root, texts = sys.argv[1], json.load(sys.stdin)
found = {}
for name in json.loads(sys.argv[2]):
    folder = f"{root}/{name}"
    model = SentenceTransformer(folder, device="cpu")
    found[f"{name}/st"] = model.encode(texts)
    found[f"{name}/limit"] = model.max_seq_length
    found[f"{name}/similarity"] = model.similarity_fn_name
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        with torch.no_grad():
            hidden = model(**tokenizer(text, truncation=True, return_tensors="pt")).last_hidden_state[0]
        rows.append(hidden[0] if name.endswith("cls") else hidden.mean(0))
    found[f"{name}/auto"] = torch.stack(rows).numpy()
    found[f"{name}/tokens"] = len(tokenizer(texts[-2])["input_ids"])
np.savez(sys.argv[3], **found)
"""


@pytest.fixture(scope="module")
def elsewhere(saved, tmp_path_factory):
    """What an interpreter without our package makes of the folders."""
    root, out = next(iter(saved.values()))[0].parent, tmp_path_factory.mktemp("out") / "found.npz"
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, root, json.dumps(list(saved)), out],
        input=json.dumps(TEXTS),
        text=True,
        capture_output=True,
        timeout=240,
        cwd=out.parent,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return np.load(out)


@pytest.mark.parametrize("name", CASES)
def test_sentence_transformers_gives_the_same_embeddings(saved, elsewhere, name):
    np.testing.assert_allclose(elsewhere[f"{name}/st"], saved[name][1], atol=5e-6)
    cosines = (elsewhere[f"{name}/st"] * saved[name][1]).sum(1) / np.linalg.norm(saved[name][1], axis=1) ** 2
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    assert elsewhere[f"{name}/similarity"] == "cosine"


@pytest.mark.parametrize("name", CASES)
def test_transformers_gives_the_same_embeddings(saved, elsewhere, name):
    expected, found = saved[name][1], elsewhere[f"{name}/auto"]
    if name == "bert normalised":
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=5e-6)


@pytest.mark.parametrize("name", CASES)
def test_our_own_loader_gives_the_same_embeddings(saved, name):
    folder, expected = saved[name]
    encoder = load(folder)
    np.testing.assert_allclose(encoder(TEXTS), expected, atol=5e-6)
    assert encoder.pooling == CASES[name][1]
    assert encoder.normalised == CASES[name][2]
    assert encoder.max_tokens == 256


@pytest.mark.parametrize("name", CASES)
def test_200_tokens_are_read_though_training_cut_at_32(saved, elsewhere, name):
    folder, embeddings = saved[name]
    assert elsewhere[f"{name}/tokens"] == 200
    assert elsewhere[f"{name}/limit"] == 256
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert (tokenizer["truncation"], tokenizer["padding"]) == (None, None)
    assert np.abs(embeddings[-1] - embeddings[-2]).max() > 1e-3  # the 256th token still counts


@pytest.mark.parametrize("name", CASES)
def test_the_tokenizer_is_one_that_transformers_4_knows(saved, name):
    folder = saved[name][0]
    values = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert values["tokenizer_class"] == "PreTrainedTokenizerFast"  # release 5 calls it TokenizersBackend
    assert not {"backend", "is_local", "local_files_only"} & set(values)
    assert type(AutoTokenizer.from_pretrained(folder)) is PreTrainedTokenizerFast


def test_additional_special_tokens_stand_under_the_name_that_both_releases_read(tmp_path):
    tokenizer = load("mini").tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["[X]", "[Y]"]})
    module.save_tokenizer(tokenizer, tmp_path)
    values = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert values["additional_special_tokens"] == ["[X]", "[Y]"]
    assert "extra_special_tokens" not in values
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert {"[X]", "[Y]"} <= set(again.all_special_tokens)
    assert again("a [X] b")["input_ids"] == tokenizer("a [X] b")["input_ids"]


def test_a_tokenizer_of_a_models_own_keeps_its_class(tmp_path):
    module.save_tokenizer(BertTokenizer(vocab={"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "a": 4}), tmp_path)
    values = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert values["tokenizer_class"] == "BertTokenizer"
    assert AutoTokenizer.from_pretrained(tmp_path)("a a")["input_ids"] == [1, 4, 4, 2]


@pytest.mark.parametrize("name", CASES)
def test_only_the_encoder_is_in_the_folder(saved, name):
    folder, _ = saved[name]
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == FILES
    assert [path.name for path in folder.rglob("*") if path.is_dir()] == ["1_Pooling"]
    weights = load_file(folder / "model.safetensors")
    assert not [key for key in weights if any(part in key for part in ("pooler", "lm_head", "cls.", "predictions"))]
    assert all(value.dtype == torch.float32 for value in weights.values())
    encoder = load(folder)
    assert set(weights) == set(dict(encoder.model.named_parameters()))
    assert all(torch.equal(weights[key], value) for key, value in encoder.model.named_parameters())


@pytest.mark.parametrize("name", CASES)
def test_nothing_tells_of_this_machine(saved, name):
    folder, _ = saved[name]
    for file in FILES:
        assert str(folder.parent).encode() not in (folder / file).read_bytes(), file


def test_the_classic_layout(tmp_path):
    save(make(tmp_path / "start", pooling="mean", normalised=True), tmp_path / "out", "# Card: \u00e9\n")
    out = tmp_path / "out"
    assert [(module["path"], module["type"]) for module in json.loads((out / "modules.json").read_text())] == [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Pooling", "sentence_transformers.models.Pooling"),
        ("2_Normalize", "sentence_transformers.models.Normalize"),
    ]
    assert json.loads((out / "1_Pooling" / "config.json").read_text()) == {
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    assert json.loads((out / "sentence_bert_config.json").read_text())["max_seq_length"] == 256
    assert json.loads((out / "config.json").read_text())["architectures"] == ["BertModel"]
    assert (out / "README.md").read_text(encoding="utf-8") == "# Card: \u00e9\n"
    assert (out / "2_Normalize").is_dir()


def test_saving_twice_gives_the_same_bytes(tmp_path):
    encoder = make(tmp_path / "start")
    save(encoder, tmp_path / "one", "")
    before = encoder(TEXTS)
    save(encoder, tmp_path / "two", "")
    for file in FILES:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    np.testing.assert_array_equal(encoder(TEXTS), before)
    assert encoder.model.training


def test_an_older_folder_is_replaced_as_a_whole(tmp_path):
    save(make(tmp_path / "start", pooling="mean", normalised=True), tmp_path / "out", "old")
    (tmp_path / "out" / "stray.bin").touch()
    encoder = make(tmp_path / "other", "roberta")
    save(encoder, tmp_path / "out", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out", "start"]
    assert not (tmp_path / "out" / "stray.bin").exists()
    assert not (tmp_path / "out" / "2_Normalize").exists()
    np.testing.assert_allclose(load(tmp_path / "out")(TEXTS), encoder(TEXTS), atol=5e-6)


def test_a_full_disk_leaves_the_older_folder(tmp_path, monkeypatch):
    encoder = make(tmp_path / "start")
    save(encoder, tmp_path / "out", "old")

    def full(*args, **kwargs):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(type(encoder.model), "save_pretrained", full)
    with pytest.raises(InputError, match="/out: no space left on the device"):
        save(encoder, tmp_path / "out", "new")
    assert (tmp_path / "out" / "README.md").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "start"]


def test_a_shorter_limit_is_kept(tmp_path):
    encoder = make(tmp_path / "start")
    short = Encoder(encoder.model, encoder.tokenizer, "cls", 16)
    save(short, tmp_path / "out", "")
    assert load(tmp_path / "out").max_tokens == 16
    np.testing.assert_allclose(load(tmp_path / "out")(TEXTS), short(TEXTS), atol=5e-6)


# Poolings of more than one layer, and the checkpoint's own head


@pytest.mark.parametrize("name", LAYERED)
def test_every_pooling_loads_in_stock_sentence_transformers(tmp_path, name):
    family, pooling, normalised = LAYERED[name]
    encoder = make(tmp_path / "start", family, pooling, normalised)
    expected = encoder(TEXTS)
    save(encoder, tmp_path / "out", "")
    assert not encoder.model.config.output_hidden_states
    stock = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(stock.encode(TEXTS), expected, atol=1e-5)
    ours = load(tmp_path / "out")
    np.testing.assert_allclose(ours(TEXTS), expected, atol=1e-5)
    assert (ours.pooling, ours.normalised, ours.max_tokens) == (pooling, normalised, 256)
    assert not ours.model.config.output_hidden_states  # other callers do not pay for what only this pooling reads

    stock.save(str(tmp_path / "again"))  # in that library's newer layout
    again = load(tmp_path / "again")
    np.testing.assert_allclose(again(TEXTS), expected, atol=1e-5)
    assert (again.pooling, again.normalised) == (pooling, normalised)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("pooling", ["first_last", "top2"])
def test_encoders_of_few_layers(tmp_path, layers, pooling):
    encoder = load(save_tiny(tmp_path / "start", "bert", layers=layers), pooling=pooling)
    save(encoder, tmp_path / "out", "")
    stock = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(stock.encode(TEXTS), encoder(TEXTS), atol=5e-6)
    assert load(tmp_path / "out").pooling == pooling
    np.testing.assert_array_equal(load(tmp_path / "out")(TEXTS), encoder(TEXTS))


def test_the_head_ships_only_where_it_is_the_pooling(tmp_path):
    encoder = make(tmp_path / "start", pooling="pooler")
    save(encoder, tmp_path / "with", "")
    save(load(tmp_path / "with", pooling="cls"), tmp_path / "without", "")
    assert "pooler.dense.weight" in load_file(tmp_path / "with" / "model.safetensors")
    assert "pooler.dense.weight" not in load_file(tmp_path / "without" / "model.safetensors")
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "with").eval(), encoder.tokenizer
    with torch.no_grad():
        found = model(**tokenizer(TEXTS[0], return_tensors="pt")).pooler_output[0]
    np.testing.assert_allclose(found, encoder(TEXTS[:1])[0], atol=5e-6)


def test_doctest():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_every_file_has_the_mode_of_the_umask(tmp_path, umask):
    encoder = Encoder(*tiny_model("bert", masked_lm=False), "first_last", 64)
    before = os.umask(umask)
    try:
        save(encoder, tmp_path / "model", "")
    finally:
        os.umask(before)
    files = [file for file in (tmp_path / "model").rglob("*") if file.is_file()]
    assert "model.safetensors" in {file.name for file in files}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o666 & ~umask}
