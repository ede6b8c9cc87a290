"""One training step of DiffCSE: ours, and a plain step written from the paper.

    python -m benchmarks.speed.step [sentences.txt] [--shape base mini] [--batch 64] [--device cpu]

Ours is an update of `diffcse train`, in bf16 autocast and in fp32. The plain step (plain.py) runs with eager attention
and with SDPA, in fp32 and in bf16 autocast. All start from the same weights and read the same sentences of real
lengths; tokenising is part of the time. Before the timing, both must give the same loss and gradient norm on one batch
without dropout and with the same edits. On a GPU only bf16 is timed.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertForMaskedLM

from benchmarks.speed import measure
from benchmarks.speed.measure import Group, Sample, Stopwatch
from benchmarks.speed.plain import Plain
from benchmarks.speed.work import DTYPES, gemm_peaks, said, step_flops
from diffcse.config import Method, Training, load_recipe
from diffcse.encoder.encode import use_bf16
from diffcse.method.build import build
from diffcse.method.draws import row_numbers
from diffcse.method.loading import MINI, load_encoder, load_masked_lm, load_tokenizer
from diffcse.method.paper import DiffCSE
from diffcse.training.collate import Batches, Collate
from diffcse.training.task import DiffCSETask

PAPER_SENTENCES = 31_250 * 64
"""Two passes over a million sentences (Chuang et al., 2022, section 4.1)."""
_TOLERANCE = 1e-4


def networks(shape: str, vocabulary: int) -> tuple[Any, Any, Method]:
    """Encoder, generator and method: "base" and "tiny" with random weights, "mini" with the bundled ones."""
    if shape == "mini":
        return load_encoder(MINI), load_masked_lm(MINI, "generator"), load_recipe("mini_cpu").method
    if shape == "base":
        return BertModel(BertConfig(), add_pooling_layer=False), DistilBertForMaskedLM(DistilBertConfig()), Method()
    small = BertConfig(
        vocab_size=vocabulary, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    smaller = DistilBertConfig(vocab_size=vocabulary, n_layers=1, n_heads=4, dim=64, hidden_dim=128)
    return BertModel(small, add_pooling_layer=False), DistilBertForMaskedLM(smaller), Method()


# ---- ours ------------------------------------------------------------------------------------------------------------


class Ours:
    """Updates as `diffcse train` makes them; its loop adds only the schedule and the log.

    Args:
        optimizer: of another task on the same weights, to share its state; None for an own one.
    """

    def __init__(self, module: DiffCSE, collate: Collate, batch: int, *, bf16: bool, optimizer: Any = None) -> None:
        training = Training(batch_size=batch)
        batches = Batches(["nothing"] * batch, collate, batch_size=batch, accumulation=1, seed=training.seed)
        self.task = DiffCSETask(module, training, batches, steps=10**6, bf16=bf16)
        self.task.optimizer = optimizer or self.task.optimizer
        self.limit, self.step = training.max_grad_norm, 0

    def __call__(self, sentences: Sequence[str], watch: Stopwatch) -> None:
        """One update."""
        task = self.task
        with measure.tuned():
            with watch("data"):
                batch = task.batches.collate(sentences)
            with watch("step"):
                task.model.train()
                task.run_pass(batch, self.step, self.step)
            with watch("clip"):
                nn.utils.clip_grad_norm_(task.model.parameters(), self.limit)
            with watch("optimiser"):
                task.optimizer.step()
                task.optimizer.zero_grad()
            self.step += 1


# ---- both ------------------------------------------------------------------------------------------------------------


def check(module: DiffCSE, plain: Plain, batch: dict[str, Tensor]) -> dict[str, float]:
    """Loss, and length of its gradient, of one batch in fp32, without dropout, with our edits; λ = τ = 1 for once.

    (Without dropout both views are equal, and at τ = 0.05 the contrastive loss would be near 0 whatever one did.)

    Raises:
        RuntimeError: they differ by more than 1e-4, so what follows would compare two different things.
    """
    x_RT, attention_RT = (batch[name].repeat(2, 1) for name in ("input_ids", "attention_mask"))
    size, device = len(batch["input_ids"]), x_RT.device
    rows_R = torch.cat([row_numbers(0, size, view, device) for view in (0, 1)])
    module.train(), plain.train()
    found: dict[str, float] = {}
    method = plain.method
    module.choices = plain.method = replace(method, temperature=1.0, rtd_weight=1.0)
    with _no_dropout(module, plain):
        edited_RT = module.edit(x_RT, attention_RT, step=0, rows_R=rows_R).ids
        losses = {"ours": module(batch, step=0).total, "plain": plain(x_RT, attention_RT, edited_RT)}
    module.choices = plain.method = method
    for name, model in (("ours", module), ("plain", plain)):
        losses[name].backward()
        found[f"loss, {name}"] = losses[name].item()
        found[f"length of its gradient, {name}"] = float(nn.utils.clip_grad_norm_(model.parameters(), math.inf))
        model.zero_grad()
    for one, other in (
        (found[f"{what}, ours"], found[f"{what}, plain"]) for what in ("loss", "length of its gradient")
    ):
        if not math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
            raise RuntimeError(f"not the same loss, so no fair comparison: {found}")
    return found


@contextmanager
def _no_dropout(*modules: nn.Module) -> Iterator[None]:
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Dropout)]
    before = [layer.p for layer in layers]
    for layer in layers:
        layer.p = 0.0
    yield
    for layer, p in zip(layers, before, strict=True):
        layer.p = p


@contextmanager
def _precisions(*encoders: nn.Module) -> Iterator[set[torch.dtype]]:
    """Collects in what the encoders' linear layers give their results, as far as they are called."""
    seen: set[torch.dtype] = set()
    layers = [layer for encoder in encoders for layer in encoder.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(lambda _, __, output: seen.add(output.dtype)) for layer in layers]
    yield seen
    for hook in hooks:
        hook.remove()


def parts(counted: dict[str, float]) -> dict[str, float]:
    """Seconds by part that add up: what was nested is taken out of what it is nested in."""
    inside = {name: counted.get(name, 0.0) for name in ("encoder", "projector", "generator", "discriminator")}
    return {
        "data": counted["data"],
        **inside,
        "rest of forward": counted["forward"] - sum(inside.values()),
        "backward": counted["step"] - counted["forward"],
        "clip": counted["clip"],
        "optimiser": counted["optimiser"],
    }


def group(shape: str, batch: int, options: Any, pool: Sequence[str], device: torch.device) -> Group:
    """All contestants at one shape and batch size."""
    torch.manual_seed(options.seed)
    tokenizer = load_tokenizer(MINI)
    encoder, generator, method = networks(shape, len(tokenizer))
    f, d, g = (copy.deepcopy(part) for part in (encoder, encoder, generator))
    module, _ = build(method, seed=options.seed, encoder=encoder, generator=generator, tokenizer=tokenizer)
    module.to(device)
    small = copy.deepcopy((module.projector, module.head))
    plain = Plain(f, g, d, *small, tokenizer, method).to(device)
    config, masked_lm = copy.copy(f.config), g.config

    collate = Collate(tokenizer, Training().max_tokens)
    cuda = device.type == "cuda"
    synchronise: Callable[[], None] = torch.cuda.synchronize if cuda else lambda: None
    watch = Stopwatch(synchronise)
    for part in ("encoder", "projector", "generator", "discriminator"):
        for model in (module, plain):
            watch.follow(getattr(model, part), part)
    watch.follow(module, "forward")

    given = [measure.draw(pool, batch, options.seed, number) for number in range(options.rounds + 1)]
    lengths = [collate(sentences)["attention_mask"].sum(1).tolist() for sentences in given]
    work = [
        step_flops(config, masked_lm, own, 2 * method.mask_ratio * sum(length - 2 for length in own)) for own in lengths
    ]

    # The two of ours share weights and optimiser state, as those of the plain step do: six would not fit in memory.
    exact = Ours(module, collate, batch, bf16=False)
    fast = Ours(module, collate, batch, bf16=True, optimizer=exact.task.optimizer)
    size = min(batch, 8)
    agreed = check(module, plain, {k: v.to(device) for k, v in collate(given[-1][:size]).items()})

    def update(attention: str, bf16: bool) -> Callable[[Sequence[str]], None]:
        return lambda s: plain.update(s, watch, max_tokens=collate.max_tokens, attention=attention, bf16=bf16)

    contestants: dict[str, Callable[[Sequence[str]], None]] = {
        "ours, bf16": lambda s: fast(s, watch),
        "ours, fp32": lambda s: exact(s, watch),
        **{
            f"plain, {attention}, {dtype}": update(attention, dtype == "bf16")
            for dtype in ("fp32", "bf16")
            for attention in ("eager", "sdpa")
        },
    }
    references = ["plain, sdpa, bf16"] if cuda else ["plain, eager, fp32", "plain, eager, bf16", "plain, sdpa, bf16"]
    if cuda:
        contestants = {name: contestants[name] for name in ("ours, bf16", "plain, sdpa, bf16")}
    missing: dict[str, str] = {}
    if not use_bf16("auto"):
        missing = {n: "the hardware does not multiply in bf16" for n in contestants if n.endswith("bf16")}
        contestants = {name: run for name, run in contestants.items() if name not in missing}

    tokens = sum(lengths[0]) * 2
    find_peaks = partial(gemm_peaks, contestants, config, tokens, device, 1 if options.quick else 4)
    peaks = find_peaks()
    for name, run in contestants.items():  # first calls prepare and allocate
        with _precisions(module.encoder, plain.encoder) as seen:
            run(given[-1] if cuda else given[-1][: max(4, batch // 4)])
        if seen - {DTYPES[name[-4:]]}:
            raise RuntimeError(f"{name}: multiplies in {seen}")
    watch.running = not cuda  # to wait for a GPU at every part would slow it: parts get a round of their own
    turns = {name: lambda number, run=run: run(given[number]) for name, run in contestants.items()}
    print(f"{shape}, batch {batch}", flush=True)
    samples = measure.interleave(
        turns, rounds=options.rounds, seconds=options.seconds, synchronise=synchronise, watch=watch
    )
    peaks = find_peaks(before=peaks)
    if cuda:
        watch.running = True
        counted = measure.interleave(turns, rounds=1, seconds=options.seconds, synchronise=synchronise, watch=watch)
    for name, own in samples.items():
        for sample in own:
            sample["parts"] = parts(counted[name][0]["parts"] if cuda else sample["parts"])

    def figures(name: str, own: list[Sample]) -> dict[str, float]:
        wall = statistics.median(sample["wall"] for sample in own)
        rate = statistics.median(flops / sample["wall"] for flops, sample in zip(work, own, strict=False))
        return {
            "sentences/s": batch / wall,
            "GFLOP/s on real tokens": rate / 1e9,
            "% of GEMM peak": 100 * rate / peaks[name[-4:]]["flops_per_s"],
            "hours for the paper's 2M sentences": wall * PAPER_SENTENCES / batch / 3600,
        }

    facts = {
        "sentences in a step": f"{batch} x 2 views, at most {collate.max_tokens} tokens",
        "real tokens a step (median)": statistics.median(2 * sum(own) for own in lengths),
        "share of padding in the plain step": 1 - statistics.median(sum(x) / (len(x) * max(x)) for x in lengths),
        "GFLOP a step on real tokens (median)": statistics.median(work) / 1e9,
        **{f"the same batch of {size} without dropout, λ = τ = 1: {what}": value for what, value in agreed.items()},
        "networks of ours that run padded": ", ".join(module.padded()) or "none",
        **said(peaks),
    }
    made = Group(f"Training step, {shape} shape, batch {batch}", references, facts, missing=missing)
    made.add(samples, figures)
    return made


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure all shapes and batch sizes, and write the result."""
    parser = measure.parser(__doc__, rounds=5)
    parser.add_argument("--shape", nargs="+", choices=["base", "mini", "tiny"], help="default: base mini")
    parser.add_argument("--batch", nargs="+", type=int, default=None, help="default: 64; on a GPU 64 and 512")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args(argv)
    result = measure.start("step" if options.device == "cpu" else f"step-{options.device}", argv)
    device = measure.use_device(options.device)
    shapes = options.shape or (["tiny"] if options.quick else ["base", "mini"])
    batches = options.batch or ([4] if options.quick else [64, 512] if options.device == "cuda" else [64])
    pool = measure.read_text(options.text)
    groups = [group(shape, batch, options, pool, device) for shape in shapes for batch in batches]
    return measure.finish(result, options.seed, groups, options.results)


if __name__ == "__main__":
    main()
