"""Parts -> one module: every trainable family trains, and parts that do not fit are refused."""

import json

import pytest
import torch

from diffcse.config import REFERENCE, Method
from diffcse.errors import InputError
from diffcse.method.build import build
from diffcse.method.loading import (
    load_encoder,
    load_generator,
    load_tokenizer,
    read_vocabulary,
)
from diffcse.method.paper import DiffCSE
from tests.models import CAUSAL, FAMILIES, SENTENCES, save_tiny, tiny_model

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


def test_parts_as_modules(tmp_path):
    save_tiny(tmp_path, "bert")
    f, g, tokenizer = load_encoder(tmp_path), load_generator(tmp_path), load_tokenizer(tmp_path)
    with pytest.raises(InputError, match="needs its tokenizer"):
        build(Method(), encoder=f)
    with pytest.raises(InputError, match="generator="):
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
    with pytest.raises(InputError, match=r"method\.dropout = 0\.1"):
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


def test_bundled_mini_model_trains():
    model, tokenizer = build(Method())
    terms = model.train()(tokenizer(SENTENCES[:4], padding=True, return_tensors="pt"), step=0)
    assert terms.total.isfinite()


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
