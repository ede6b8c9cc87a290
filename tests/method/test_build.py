"""Checkpoints -> parts: every trainable family trains, what does not fit is refused with a reason."""

import json

import pytest
import torch

from diffcse.config import REFERENCE, Method
from diffcse.errors import InputError
from diffcse.method.build import (
    build,
    check_same_vocabulary,
    load_causal_generator,
    load_encoder,
    load_generator,
    load_tokenizer,
    read_vocabulary,
)
from diffcse.method.paper import DiffCSE
from tests.models import CAUSAL, FAMILIES, SENTENCES, save_tiny, tiny_model, tiny_tokenizer

MASKED = [family for family in FAMILIES if family != "minilm"]


def batch(tokenizer):
    return tokenizer(SENTENCES[:6], padding=True, return_tensors="pt")


def loss_falls(model, tokenizer, steps=12):
    """Whether every trained weight moves and the loss of one repeated batch falls."""
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(steps):
        torch.manual_seed(0)
        total = model(batch(tokenizer), step=0).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    moved = {name.split(".")[0] for name, p in model.named_parameters() if name in before and not p.equal(before[name])}
    return losses[-1] < losses[0], moved


@pytest.mark.parametrize("choices", [{}, REFERENCE, {"difference": "none"}], ids=["default", "reference", "simcse"])
@pytest.mark.parametrize("family", MASKED)
def test_family_trains(tmp_path, family, choices):
    save_tiny(tmp_path, family)
    model, tokenizer = build(Method(model=str(tmp_path), **{"rtd_weight": 1.0, "temperature": 0.5, **choices}))
    falls, moved = loss_falls(model.train(), tokenizer)
    assert falls
    parts = {"encoder", "projector"} | (set() if choices.get("difference") == "none" else {"discriminator", "head"})
    assert moved == parts


def test_encoder_without_masked_lm_head_takes_a_generator(tmp_path):
    """MiniLM-style: the encoder cannot be its own generator, but any masked language model of its vocabulary can."""
    save_tiny(tmp_path / "f", "minilm")
    save_tiny(tmp_path / "g", "bert", layers=1, hidden=16)
    with pytest.raises(InputError, match="no trained masked-language-model head"):
        build(Method(model=str(tmp_path / "f")))
    model, tokenizer = build(Method(model=str(tmp_path / "f"), generator=str(tmp_path / "g"), temperature=0.5))
    falls, _ = loss_falls(model.train(), tokenizer)
    assert falls
    model, _ = build(Method(model=str(tmp_path / "f"), difference="none"))
    assert model.generator is None


@pytest.mark.parametrize("family", ["deberta-v2", "modernbert"])
def test_other_encoders_train_or_say_why_not(tmp_path, family):
    save_tiny(tmp_path, family)
    model, tokenizer = build(Method(model=str(tmp_path), rtd_weight=1.0, temperature=0.5))
    falls, _ = loss_falls(model.train(), tokenizer)
    assert falls


def test_albert_is_refused_for_the_difference_term_only(tmp_path):
    save_tiny(tmp_path, "albert")
    with pytest.raises(InputError, match="share one layer"):
        build(Method(model=str(tmp_path)))
    model, tokenizer = build(Method(model=str(tmp_path), difference="none", temperature=0.5))
    assert model.train()(batch(tokenizer), step=0).total.isfinite()


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


def test_parts_as_modules(tmp_path):
    save_tiny(tmp_path, "bert")
    f, g, tokenizer = load_encoder(tmp_path), load_generator(tmp_path), load_tokenizer(tmp_path)
    with pytest.raises(InputError, match="needs its tokenizer"):
        build(Method(), encoder=f)
    with pytest.raises(InputError, match="pass generator="):
        build(Method(), encoder=f, tokenizer=tokenizer)
    model, _ = build(Method(), encoder=f, generator=g, tokenizer=tokenizer)
    assert model.encoder is f
    assert model.discriminator is not f, "D starts as a copy of f, it is not f"
    for one, other in zip(f.parameters(), model.discriminator.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()
        assert other.requires_grad


def test_a_generator_that_holds_the_encoder_does_not_freeze_it(tmp_path):
    save_tiny(tmp_path, "bert")
    whole, tokenizer = load_generator(tmp_path), load_tokenizer(tmp_path)
    model, _ = build(Method(), encoder=whole.base_model, generator=whole, tokenizer=tokenizer)
    assert all(p.requires_grad for p in model.encoder.parameters())
    assert not any(p.requires_grad for p in model.generator.parameters())
    with pytest.raises(InputError, match="share weights"):
        DiffCSE(
            whole.base_model,
            read_vocabulary(tokenizer),
            Method(),
            generator=whole,
            discriminator=load_encoder(tmp_path),
        )


def test_an_encoder_without_dropout_has_no_two_views(tmp_path):
    save_tiny(tmp_path, "bert", dropout=0.0)
    with pytest.raises(InputError, match=r"set method\.dropout = 0\.1"):
        build(Method(model=str(tmp_path)))
    model, tokenizer = build(Method(model=str(tmp_path), dropout=0.1))
    assert model(batch(tokenizer), step=0).metrics["positive_cosine"] < 0.9999
    build(Method(model=str(tmp_path), contrast=False))  # nothing needs two views


@pytest.mark.parametrize("choices", [{}, {"difference": "none"}])
def test_a_built_model_is_ready_to_train(tmp_path, choices):
    save_tiny(tmp_path, "bert")
    model, tokenizer = build(Method(model=str(tmp_path), **choices))
    assert model.training
    assert model.encoder.training
    assert model(batch(tokenizer), step=0).metrics["positive_cosine"] < 0.9999


def test_a_generator_with_spare_rows_samples_real_tokens_only(tmp_path):
    save_tiny(tmp_path / "f", "bert")
    save_tiny(tmp_path / "g", "bert")
    g = load_generator(tmp_path / "g")
    tokenizer = load_tokenizer(tmp_path / "f")
    g.resize_token_embeddings(len(tokenizer) + 64)
    with torch.no_grad():
        g.get_output_embeddings().bias[len(tokenizer) :] = 1e4  # sure of what does not exist
    model, _ = build(Method(model=str(tmp_path / "f")), generator=g)
    assert model(batch(tokenizer), step=0).total.isfinite()


def test_a_folder_named_mini_is_not_the_bundled_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "mini", "bert", hidden=16)
    with pytest.raises(InputError, match=r"write \./mini"):
        build(Method())
    model, _ = build(Method(model="./mini"))
    assert model.encoder.config.hidden_size == 16


def test_the_papers_generator_is_used_where_it_can_be_had(monkeypatch):
    import diffcse.method.build as parts

    assert parts.default_generator("some/model") == "some/model"
    assert parts.default_generator("bert-base-uncased") == "bert-base-uncased", "no hub here"
    monkeypatch.setattr(parts, "_load", lambda *a, **k: None)
    monkeypatch.setattr(parts, "load_generator", lambda source: None)
    assert parts.default_generator("bert-base-uncased") == "distilbert/distilbert-base-uncased"


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


def test_bundled_mini_model_trains():
    model, tokenizer = build(Method())
    terms = model.train()(tokenizer(SENTENCES[:4], padding=True, return_tensors="pt"), step=0)
    assert terms.total.isfinite()


# Causal generators, and discriminators that say tokens


def causal_choices(folder, **choices):
    return Method(
        model=str(folder / "f"), causal_generator=str(folder / "c"), edits=("causal_lm",), temperature=0.5, **choices
    )


@pytest.mark.parametrize("family", CAUSAL)
def test_a_causal_generator_of_the_same_vocabulary(tmp_path, family):
    save_tiny(tmp_path / "f", "bert")
    save_tiny(tmp_path / "c", family, tokens="bert", hidden=16, layers=1)
    model, tokenizer = build(causal_choices(tmp_path, rtd_weight=1.0))
    assert model.generator is None, "no masked language model is needed"
    assert not any(p.requires_grad for p in model.causal_generator.parameters())
    assert not model.causal_generator.training
    falls, moved = loss_falls(model.train(), tokenizer)
    assert falls
    assert moved == {"encoder", "projector", "discriminator", "head"}


@pytest.mark.parametrize("family", CAUSAL)
def test_a_causal_model_is_loaded_as_it_is(tmp_path, family):
    stock, _ = tiny_model(family, tokens="bert", hidden=16)
    save_tiny(tmp_path, family, tokens="bert", hidden=16)
    loaded = load_causal_generator(tmp_path)
    ids = batch(tiny_tokenizer())["input_ids"]
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


def test_a_causal_generator_of_another_vocabulary(tmp_path):
    save_tiny(tmp_path / "f", "bert")
    save_tiny(tmp_path / "c", "gpt2")
    with pytest.raises(InputError, match=r"causal_generator .* do not share a vocabulary: token id 0"):
        build(causal_choices(tmp_path))
    small, _ = tiny_model("gpt2", tokens="bert")
    small.resize_token_embeddings(50)
    with pytest.raises(InputError, match="causal_generator: embeds 50 tokens"):
        build(causal_choices(tmp_path), causal_generator=small)


@pytest.mark.parametrize("difference", ["mlm", "corrective_lm"])
@pytest.mark.parametrize("family", MASKED)
def test_conditional_language_models_of_every_family_train(tmp_path, family, difference):
    save_tiny(tmp_path, family)
    model, tokenizer = build(
        Method(model=str(tmp_path), difference=difference, rtd_weight=1.0, temperature=0.5, projector="tanh")
    )
    assert (model.generator is None) == (difference == "mlm")
    falls, moved = loss_falls(model.train(), tokenizer)
    assert falls
    assert moved == {"encoder", "projector", "discriminator"}


def test_a_discriminator_that_says_tokens_needs_a_vocabulary_head(tmp_path):
    save_tiny(tmp_path / "f", "minilm")
    save_tiny(tmp_path / "d", "bert")
    with pytest.raises(InputError, match=r"cannot be the discriminator\. Name one .* method\.discriminator"):
        build(Method(model=str(tmp_path / "f"), difference="mlm"))
    model, tokenizer = build(
        Method(model=str(tmp_path / "f"), difference="mlm", discriminator=str(tmp_path / "d"), temperature=0.5)
    )
    assert model(batch(tokenizer), step=0).total.isfinite()
    f, tokenizer = load_encoder(tmp_path / "f"), load_tokenizer(tmp_path / "f")
    with pytest.raises(InputError, match="needs a discriminator with a vocabulary head, and BertModel has none"):
        build(Method(difference="mlm"), encoder=f, tokenizer=tokenizer)
    d = load_generator(tmp_path / "d")
    model, _ = build(Method(difference="mlm"), encoder=f, discriminator=d, tokenizer=tokenizer)
    assert model.discriminator is not d, "a copy of what was given is trained"


def test_edits_without_a_generator_need_none(tmp_path):
    """An encoder without a vocabulary head and a tokenizer without a mask token will do."""
    save_tiny(tmp_path, "minilm")
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "mask_token"}))
    choices = {"model": str(tmp_path), "rtd_weight": 1.0, "temperature": 0.5}
    model, tokenizer = build(Method(**choices, edits=("replace", "delete", "insert_random")))
    assert tokenizer.mask_token is None
    falls, _ = loss_falls(model.train(), tokenizer)
    assert falls
    with pytest.raises(InputError, match="has no mask_token"):
        build(Method(**choices))


def test_pairs_need_no_dropout(tmp_path):
    save_tiny(tmp_path, "bert", dropout=0.0)
    model, _ = build(Method(model=str(tmp_path)), pairs=True)
    assert model.training
