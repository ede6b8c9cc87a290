"""Checkpoints -> parts: what does not fit is refused with a reason."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import diffcse.method.loading as loading
from diffcse.config import Method
from diffcse.errors import InputError
from diffcse.method.build import build
from diffcse.method.loading import (
    check_same_vocabulary,
    load_causal_generator,
    load_encoder,
    load_generator,
    load_tokenizer,
    read_vocabulary,
)
from tests.models import CAUSAL, SENTENCES, save_tiny, tiny_model, tiny_tokenizer


def test_decoder_is_refused(tmp_path):
    save_tiny(tmp_path, "gpt2")
    with pytest.raises(InputError, match="a causal model"):
        load_encoder(tmp_path)


def test_electra_discriminator_is_no_generator(tmp_path):
    from transformers import ElectraForMaskedLM, ElectraForPreTraining

    save_tiny(tmp_path, "electra")
    ElectraForPreTraining(ElectraForMaskedLM.from_pretrained(tmp_path).config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no trained masked-language-model head"):
        load_generator(tmp_path)


def test_a_folder_named_mini_is_not_the_bundled_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "mini", "bert", hidden=16)
    with pytest.raises(InputError, match=r"write \./mini"):
        build(Method())
    model, _ = build(Method(model="./mini"))
    assert model.encoder.config.hidden_size == 16


def test_the_papers_generator_is_used_where_it_can_be_had(monkeypatch):
    assert loading.default_generator("some/model") == "some/model"
    assert loading.default_generator("bert-base-uncased") == "bert-base-uncased", "no hub here"
    monkeypatch.setattr(loading, "_load", lambda *a, **k: None)
    monkeypatch.setattr(loading, "load_generator", lambda source: None)
    assert loading.default_generator("bert-base-uncased") == "distilbert/distilbert-base-uncased"


def test_no_pooler_head_is_kept(tmp_path):
    save_tiny(tmp_path, "bert", masked_lm=False)
    encoder = load_encoder(tmp_path)
    assert not any("pooler" in name for name, _ in encoder.named_parameters())


def test_weights_are_float32_whatever_the_file_holds(tmp_path):
    from transformers import AutoModelForMaskedLM

    save_tiny(tmp_path, "bert")
    AutoModelForMaskedLM.from_pretrained(tmp_path).half().save_pretrained(tmp_path)
    assert load_encoder(tmp_path).dtype == torch.float32
    assert load_generator(tmp_path).dtype == torch.float32


def test_vocabularies_are_compared_token_by_token(tmp_path):
    bert, other = tiny_tokenizer("bert"), tiny_tokenizer("roberta")
    check_same_vocabulary(bert, tiny_tokenizer("bert"), "one", "two")
    with pytest.raises(InputError, match=r"token id 0 is '<s>' there and '\[PAD\]' here"):
        check_same_vocabulary(bert, other, "one", "two")
    extended = tiny_tokenizer("bert")
    extended.add_tokens(["extra"])
    with pytest.raises(InputError, match=rf"token id {len(bert)} is 'extra' there and None here"):
        check_same_vocabulary(bert, extended, "one", "two")
    save_tiny(tmp_path / "f", "bert")
    save_tiny(tmp_path / "g", "roberta")
    with pytest.raises(InputError, match="do not share a vocabulary: token id 0"):
        build(Method(model=str(tmp_path / "f"), generator=str(tmp_path / "g")))


def test_left_padding_is_refused(tmp_path):
    save_tiny(tmp_path, "bert")
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "padding_side": "left"}))
    with pytest.raises(InputError, match="pads on the left"):
        load_tokenizer(tmp_path)


def test_vocabulary_is_read_from_the_tokenizer():
    for kind in ("bert", "roberta"):
        tokenizer = tiny_tokenizer(kind)
        vocabulary = read_vocabulary(tokenizer)
        assert vocabulary.size == len(tokenizer)
        assert vocabulary.mask == tokenizer.mask_token_id
        assert set(vocabulary.special) == set(tokenizer.all_special_ids)


def test_what_cannot_be_loaded_says_so(tmp_path):
    with pytest.raises(InputError, match="no model folder"):
        build(Method(model=str(tmp_path)))
    save_tiny(tmp_path / "run" / "model", "bert")
    with pytest.raises(InputError, match=r"run: no model folder: it has no config.json: give .*run/model"):
        build(Method(model=str(tmp_path / "run")))
    with pytest.raises(InputError, match=r"no such folder here, and as a hub id"):
        build(Method(model="nobody/nothing"))
    save_tiny(tmp_path, "bert")
    weights = tmp_path / "model.safetensors"
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"safetensors only, and pytorch_model\.bin is a pickle"):
        build(Method(model=str(tmp_path)))
    weights.write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot be loaded as encoder"):
        build(Method(model=str(tmp_path)))


@pytest.mark.parametrize("family", CAUSAL)
def test_a_causal_model_is_loaded_as_it_is(tmp_path, family):
    stock, _ = tiny_model(family, tokens="bert", hidden=16)
    save_tiny(tmp_path, family, tokens="bert", hidden=16)
    loaded = load_causal_generator(tmp_path)
    ids = tiny_tokenizer()(SENTENCES[:6], padding=True, return_tensors="pt")["input_ids"]
    assert torch.equal(loaded(input_ids=ids).logits, stock(input_ids=ids).logits)
    assert load_causal_generator(stock) is stock


@pytest.mark.parametrize(
    "source",
    ["./nosuch", "../nosuch", "a/b/c", "~/model", "{here}/nosuch", "-x", "my model", "x" * 300, "owner/" + "x" * 300],
)
def test_what_cannot_be_a_hub_id_is_not_asked_of_the_hub(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", None)  # calling it would be a TypeError
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", None)
    with pytest.raises(
        InputError, match=r"there is no such folder here, and as a hub id it would be NAME or OWNER/NAME"
    ):
        build(Method(model=source.format(here=tmp_path)))


@pytest.mark.parametrize("source", ["owner/name", "name-1.0_b"])
def test_a_hub_id_is_asked_of_the_hub_even_beside_a_folder_of_its_owner(tmp_path, monkeypatch, source):
    (tmp_path / "owner").mkdir()
    monkeypatch.chdir(tmp_path)
    asked = []

    def hub(name, **options):
        asked.append(name)
        raise OSError("no such repository")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", hub)
    with pytest.raises(InputError, match="and as a hub id: no such repository"):
        build(Method(model=source))
    assert asked == [source]


def test_what_is_no_causal_generator(tmp_path):
    save_tiny(tmp_path / "both-ways", "bert")
    with pytest.raises(InputError, match=r"both-ways: not a causal language model: .* depends on the tokens after it"):
        load_causal_generator(tmp_path / "both-ways")
    save_tiny(tmp_path / "headless", "bert-decoder", masked_lm=False)
    with pytest.raises(InputError, match="no trained language-model head"):
        load_causal_generator(tmp_path / "headless")
    with pytest.raises(InputError, match="no such folder here"):
        load_causal_generator("nobody/nothing")


def changed_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_integer_weights_are_called_that(tmp_path):
    folder = save_tiny(tmp_path / "integers", "bert")
    weights = {name: weight.to(torch.int64) for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"integers/model\.safetensors: .*holds integers \(I64\)"):
        load_encoder(folder)


def test_weights_of_another_shape_are_named_with_both_shapes(tmp_path):
    folder = save_tiny(tmp_path / "shapes", "bert")
    width = json.loads((folder / "config.json").read_text())["intermediate_size"]
    changed_config(folder, intermediate_size=width + 8)
    for read in (load_encoder, load_generator):
        with pytest.raises(InputError, match=rf"shapes: .*intermediate\.dense\.bias .*\({width},\).*\({width + 8},\)"):
            read(folder)


@pytest.mark.parametrize("damage", [{"hidden_size": "x"}, {"model_type": "nonesuch"}, None])
def test_a_broken_config_is_not_blamed_on_the_tokenizer(tmp_path, damage):
    folder = save_tiny(tmp_path / "broken", "bert")
    if damage:
        changed_config(folder, **damage)
    else:
        (folder / "config.json").write_text('{"model_type": ')
    read = load_encoder if damage == {"model_type": "nonesuch"} else load_tokenizer
    with pytest.raises(InputError, match=r"broken: its config\.json cannot be used: ") as refused:
        read(folder)
    assert "tokenizer" not in str(refused.value)
