"""In sentence-transformers' own trainer the same losses, on the encoder that stands in the SentenceTransformer."""

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

from diffcse.config import Method
from diffcse.encoder.load import load
from diffcse.errors import InputError
from diffcse.integrations.sentence_transformers import DiffCSELoss
from diffcse.method.build import build
from diffcse.method.loading import load_encoder, load_tokenizer
from tests.models import SENTENCES, save_tiny

EXAMPLE = Path(__file__).parents[2] / "examples" / "sentence_transformers_trainer.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"), "bert")


def stock(folder, pooling="cls", *more):
    return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(32, pooling), *more], device="cpu")


def features(model, sentences=SENTENCES[:6]):
    return [model.preprocess(sentences)]


def trainer(model, loss, tmp_path, steps=3, **options):
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=steps,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **({"save_strategy": "no", "logging_steps": 1} | options),
    )
    return SentenceTransformerTrainer(model, arguments, Dataset.from_dict({"text": SENTENCES}), loss=loss)


@pytest.mark.parametrize(
    "choices",
    [{}, {"pooling": "mean", "rtd_weight": 0.7}, {"difference": "none"}, {"contrast": False, "rtd_weight": 0.5}],
)
def test_a_step_is_diffcses_own(folder, choices):
    method = Method(**choices)
    model = stock(folder, method.pooling or "cls")
    loss = DiffCSELoss(model, method, generator=folder, seed=7)
    own, tokenizer = build(
        method, seed=7, encoder=load_encoder(folder), generator=folder, tokenizer=load_tokenizer(folder)
    )
    batch = dict(tokenizer(SENTENCES[:6], padding=True, return_tensors="pt"))
    for step in range(3):
        torch.manual_seed(step)  # dropout
        found = loss(features(model.train()), None)
        torch.manual_seed(step)
        terms = own.train()(batch, step=step)
        assert sum(found.values()).item() == terms.total.item()
        assert set(found) == {
            *(["contrastive"] if method.contrast else []),
            *(["rtd"] if method.difference == "rtd" else []),
        }
        if method.contrast:
            assert found["contrastive"].item() == terms.contrastive.item()
        sum(found.values()).backward()
        terms.total.backward()
    for (name, ours), (_, theirs) in zip(loss.diffcse.named_parameters(), own.named_parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            assert torch.equal(ours.grad, theirs.grad), name


@pytest.mark.parametrize("method", [None, Method(rtd_weight=0.1)])
def test_the_pooling_is_that_of_the_sentence_transformer(folder, method):
    assert DiffCSELoss(stock(folder, "mean"), method).diffcse.choices.pooling == "mean"


def test_the_trainer_trains_what_the_sentence_transformer_ships(folder, tmp_path):
    model = stock(folder, "mean")
    loss = DiffCSELoss(model, Method(pooling="mean", rtd_weight=0.1))
    assert loss.diffcse.encoder is model[0].auto_model
    before = {name: value.clone() for name, value in loss.diffcse.named_parameters()}
    run = trainer(model, loss, tmp_path)
    run.train()
    changed = {name.split(".")[0] for name, value in loss.diffcse.named_parameters() if not value.equal(before[name])}
    assert changed == {"encoder", "projector", "discriminator", "head"}  # and the generator stays frozen
    logged = run.state.log_history[0]
    assert logged["loss"] == pytest.approx(logged["contrastive"] + logged["rtd"], abs=2e-4)
    assert loss.step == 3
    metrics = loss.pop_metrics()
    assert {"positive_cosine", "rtd_accuracy", "rtd_tokens"} <= set(metrics)
    assert 0 < metrics["rtd_accuracy"] < 1
    assert loss.pop_metrics() == {}

    model.save(str(tmp_path / "saved"))
    encoder = load(tmp_path / "saved")
    assert encoder.pooling == "mean"
    np.testing.assert_allclose(encoder(SENTENCES[:9]), model.encode(SENTENCES[:9]), atol=1e-5)
    assert not np.allclose(encoder(SENTENCES[:9]), load(folder, pooling="mean")(SENTENCES[:9]), atol=1e-3)


def test_what_that_trainer_does_not_do_for_a_losss_own_weights(folder, tmp_path):
    """The docstring's claims, so that a release that changes them is noticed."""
    model = stock(folder)
    loss = DiffCSELoss(model)
    run = trainer(model, loss, tmp_path, steps=1, save_strategy="steps", save_steps=1, max_grad_norm=1e-9)
    norms = {}
    clip = run._clip_grad_norm

    def watch(model_):
        result = clip(model_)
        for name, part in (("encoder", loss.diffcse.encoder), ("discriminator", loss.diffcse.discriminator)):
            norms[name] = torch.stack([p.grad.norm() for p in part.parameters() if p.grad is not None]).norm().item()
        return result

    run._clip_grad_norm = watch
    run.train()
    optimized = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    trained = [p for p in loss.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == optimized
    assert norms["encoder"] < 1e-8 < norms["discriminator"]  # clipped, and not
    files = [path.name for path in (tmp_path / "run" / "checkpoint-1").rglob("*.safetensors")]
    assert files == ["model.safetensors"]
    weights = SentenceTransformer(str(tmp_path / "run" / "checkpoint-1"), device="cpu")[0].auto_model
    assert sum(p.numel() for p in weights.parameters()) <= 1.2 * sum(
        p.numel() for p in loss.diffcse.encoder.parameters()
    )


def test_the_mode_follows_the_model_and_evaluations_repeat(folder):
    model = stock(folder)
    loss = DiffCSELoss(model, Method(rtd_weight=0.5, projector="none"))  # without BatchNorm's running means
    loss(features(model.train()))
    assert loss.diffcse.discriminator.training
    assert not loss.diffcse.generator.training
    model.eval()
    first = [loss(features(model))["rtd"].item() for _ in range(2)]
    assert not loss.diffcse.discriminator.training
    assert first[0] != first[1]  # other batches of one evaluation have masks of their own
    loss(features(model.train()))
    model.eval()
    assert [loss(features(model))["rtd"].item() for _ in range(2)] == first
    assert loss.step == 2


def test_a_schedule_needs_the_number_of_steps(folder):
    method = Method(rtd_weight=0.5, rtd_schedule="linear")
    with pytest.raises(InputError, match='rtd_schedule = "linear" needs steps='):
        DiffCSELoss(stock(folder), method)
    model = stock(folder).train()
    loss, plain = DiffCSELoss(model, method, steps=3), DiffCSELoss(stock(folder).train(), Method(rtd_weight=0.5))
    shares = []
    for step in range(3):
        torch.manual_seed(step)
        ramped = loss(features(model))["rtd"].item()
        torch.manual_seed(step)
        shares.append(ramped / plain(features(model))["rtd"].item())
    assert shares == pytest.approx([0, 0.5, 1], rel=1e-5)


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ([Pooling(32, "max")], "Transformer, Pooling by max"),
        ([Pooling(32, ("cls", "mean"))], "Transformer, Pooling by"),
        ([Pooling(32, "cls"), Dense(32, 8)], "Transformer, Pooling, Dense by cls"),
        ([], "made of Transformer"),
    ],
)
def test_other_modules(folder, modules, says):
    with pytest.raises(InputError, match=says):
        DiffCSELoss(SentenceTransformer(modules=[Transformer(str(folder)), *modules], device="cpu"))


def test_normalise_changes_nothing(folder):
    found = []
    for more in ([], [Normalize()]):
        model = stock(folder, "cls", *more).train()
        loss = DiffCSELoss(model)
        torch.manual_seed(0)
        found.append({name: value.item() for name, value in loss(features(model)).items()})
    assert found[0] == found[1]


def test_a_checkpoint_in_half_precision_is_trained_in_float32(folder):
    model = stock(folder).half().train()
    loss = DiffCSELoss(model)
    assert {value.dtype for value in loss.parameters()} == {torch.float32}
    assert math.isfinite(loss(features(model))["contrastive"].item())


def test_mistakes_are_named(folder, tmp_path, monkeypatch):
    model = stock(folder, "mean")
    with pytest.raises(InputError, match=r'method.pooling = "cls"'):
        DiffCSELoss(model, Method(pooling="cls"))
    loss = DiffCSELoss(model)
    with pytest.raises(InputError, match="the data set has 2 columns"):
        loss(features(model) * 2)
    with pytest.raises(InputError, match="the data set has a label column"):
        loss(features(model), torch.zeros(6))
    with pytest.raises(InputError, match="needs following sentences"):
        DiffCSELoss(model, Method(pooling="mean", pairing="next"))
    bare = save_tiny(tmp_path / "bare", "minilm")
    with pytest.raises(InputError, match="has no trained masked-language-model head"):
        DiffCSELoss(stock(bare))
    assert math.isfinite(DiffCSELoss(stock(bare), Method(difference="none"))(features(model))["contrastive"].item())
    roberta = save_tiny(tmp_path / "roberta", "roberta")
    with pytest.raises(InputError, match="do not share a vocabulary") as caught:
        DiffCSELoss(stock(folder), generator=roberta)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"^DiffCSELoss: .*WORLD_SIZE"):
        DiffCSELoss(stock(folder))


def test_the_example_runs(folder, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES))
    runpy.run_path(str(EXAMPLE))["main"](str(folder), str(tmp_path / "text.txt"), str(tmp_path / "out"), 2)
    assert "positive_cosine" in capsys.readouterr().out
    encoder = load(tmp_path / "out")
    assert (encoder.pooling, encoder.max_tokens) == ("cls", 256)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"lora_rank": 2}, "method.lora_rank = 2"),
        ({"positives": "next"}, "needs following sentences"),
    ],
)
def test_choices_that_this_trainer_cannot_serve_are_refused(folder, choices, says):
    with pytest.raises(InputError, match=says):
        DiffCSELoss(stock(folder), Method(**choices))


def test_idle_choices_are_told(folder):
    with pytest.warns(UserWarning, match="without effect beside the other choices: method.sampling"):
        DiffCSELoss(stock(folder), Method(edits=("replace",), sampling="argmax"))


def test_an_extra_view_takes_the_named_generator(folder):
    method = Method(difference="none", edit_role="positive", generator=str(folder))
    assert DiffCSELoss(stock(folder), method).diffcse.generator is not None
