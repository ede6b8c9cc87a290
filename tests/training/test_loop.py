"""The loop is plain AdamW on L, follows its pace, and refuses to keep what diverged."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from diffcse.errors import InputError
from diffcse.method import draws
from diffcse.method.build import build
from diffcse.record import read_record
from diffcse.training.collate import Collate, epoch_order, updates_per_epoch
from diffcse.training.run import run
from tests.training.runs import CORPUS, begin, config, refuse


@pytest.mark.parametrize(("accumulation", "judge_rate", "decay"), [(1, None, 0.0), (2, None, 0.0), (1, 5e-3, 1.0)])
def test_trainer_is_the_plain_loop(tiny, tmp_path, accumulation, judge_rate, decay):
    """Same weights, to the last bits, as AdamW on L, clipped over all trained weights, decayed linearly."""
    # Without BatchNorm, which would make the gradient of a shift of h rounding noise, for Adam to blow up.
    method = {"rtd_weight": 0.5, "projector": "tanh"}
    rates = {"accumulation": accumulation, "discriminator_learning_rate": judge_rate, "weight_decay": decay}
    settings = config(tiny, method=method, max_steps=7, max_grad_norm=0.1, **rates)
    trained = run(settings, CORPUS, tmp_path / "out").model

    model, tokenizer = build(settings.method, seed=42)
    model.train()
    weights = [p for p in model.parameters() if p.requires_grad]
    # Each weight a group of its own: its rate by its part, and no decay of what is a bias or scales a normalisation.
    groups = [
        {
            "params": [p],
            "peak": judge_rate if judge_rate and name.startswith(("discriminator", "head")) else 1e-3,
            "weight_decay": 0.0 if name.endswith("bias") or "LayerNorm" in name else decay,
        }
        for name, p in model.named_parameters()
        if p.requires_grad
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    collate = Collate(tokenizer, 32)
    per_epoch, number, update = len(CORPUS) // 8, 0, 0
    clipped = False
    while update < 7:
        epoch = update // updates_per_epoch(len(CORPUS), 8, accumulation)
        rows = epoch_order(len(CORPUS), 42, epoch).tolist()
        batches = [rows[i * 8 : i * 8 + 8] for i in range(per_epoch)]
        for start in range(0, per_epoch, accumulation):
            group = batches[start : start + accumulation]
            for offset, batch in enumerate(group):
                number = update * accumulation + offset
                torch.manual_seed(draws.key(42, number) >> 1)
                terms = model(collate([CORPUS[i] for i in batch]), step=number)
                (terms.total / len(group)).backward()
            norm = torch.nn.utils.clip_grad_norm_(weights, 0.1)
            clipped |= norm.item() > 0.1
            for group_ in optimizer.param_groups:
                group_["lr"] = group_["peak"] * (7 - update) / 7
            optimizer.step()
            optimizer.zero_grad()
            update += 1
            if update == 7:
                break
    assert clipped
    for (name, ours), (_, plain) in zip(trained.named_parameters(), model.named_parameters(), strict=True):
        # The same holds for the keys' bias: attention does not depend on it.
        if name.endswith("key.bias"):
            continue
        # Adam makes a whole step of a gradient that is rounding noise: one number in thousands may go another way.
        assert ((ours - plain).abs() > 2e-6).float().mean() < 5e-4, name
    assert not torch.equal(
        trained.encoder.get_input_embeddings().weight, build(settings.method)[0].encoder.get_input_embeddings().weight
    )


def test_a_ramp_ends_at_the_full_weight(tiny, tmp_path):
    settings = config(tiny, method={"rtd_schedule": "linear", "rtd_weight": 0.4}, max_steps=5, log_every=1)
    log = run(settings, CORPUS, tmp_path / "out").record.log
    found = [(entry["loss"] - entry["contrastive"]) / entry["difference"] for entry in log]
    assert found == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-5)


@pytest.mark.parametrize("environment", ["bf16", "fp16"])
def test_the_environment_does_not_change_the_precision_asked_for(tiny, tmp_path, monkeypatch, environment):
    run(config(tiny), CORPUS, tmp_path / "plain")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", environment)
    run(config(tiny), CORPUS, tmp_path / "set")
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("plain", "set"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_may_change_on_resume_has_its_effect(tiny, tmp_path):
    out, logged, saved = tmp_path / "out", [], []

    def look(event, facts):
        if event == "log":
            logged.append(facts["step"])
            saved.extend(path.name[-1] for path in (out / "checkpoints").glob("step-*"))

    begin(config(tiny, log_every=3, checkpoint_every=2, max_steps=9), out)
    changed = dataclasses.replace(
        config(tiny, log_every=2, checkpoint_every=5, max_steps=9, gradient_checkpointing=True),
        reproduces="changed: training.gradient_checkpointing",
        hardware="another",
    )
    run(changed, CORPUS, out, resume=True, report=look)
    assert logged == [4, 6, 8, 9]
    assert sorted(set(saved)) == ["2", "5"]


def test_divergence_leaves_the_last_good_checkpoint(tiny, tmp_path):
    settings = config(
        tiny, method={"projector": "none"}, learning_rate=1e30, max_steps=20, checkpoint_every=1, log_every=20
    )
    refuse("--learning-rate", settings, tmp_path / "out")
    for file in (tmp_path / "out").glob("checkpoints/*/trained.safetensors"):
        assert all(value.isfinite().all() for value in load_file(file).values())


@pytest.mark.parametrize(("precision", "advised"), [("fp32", False), ("bf16", True)])
def test_fp32_is_advised_only_where_it_is_a_change(tiny, tmp_path, precision, advised):
    settings = config(
        tiny, method={"projector": "none"}, learning_rate=1e30, max_steps=20, precision=precision, log_every=1
    )
    with pytest.raises(InputError, match="--learning-rate") as error:
        run(settings, CORPUS, tmp_path / "out")
    assert ("--precision fp32" in str(error.value)) == advised


def test_divergence_is_an_error_not_a_model(tiny, tmp_path):
    settings = config(tiny, method={"projector": "none"}, learning_rate=1e30, max_steps=20)
    refuse("--learning-rate", settings, tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()
    assert read_record(tmp_path / "out" / "run.json").status == "running"


def test_a_log_entry_in_which_no_token_was_judged_is_shown(tiny, tmp_path):
    from diffcse.terminal import loss_parts

    lines = []
    settings = config(tiny, method={"difference": "mlm", "mask_ratio": 1e-9}, max_steps=1, log_every=1)
    run(
        settings,
        CORPUS,
        tmp_path / "out",
        report=lambda event, facts: event == "log" and lines.extend(loss_parts(facts)),
    )
    assert any("accuracy –" in line for line in lines)
