"""What one of several processes does in tests/training/test_ranks.py: every configuration inside one group."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import TrainerCallback

from diffcse.config import Config, Method, Training
from diffcse.errors import InputError
from diffcse.method.adapters import add_lora
from diffcse.method.gather import ALONE
from diffcse.pretraining.run import pretrain
from diffcse.text.corpus import Corpus
from diffcse.training import selection
from diffcse.training.meter import means
from diffcse.training.ranks import average_gradients, merged, open_ranks
from diffcse.training.run import run
from diffcse.training.task import DiffCSETask
from tests.method.test_paper import CASES
from tests.method.tiny import NEXT, PLAIN, make
from tests.models import SENTENCES
from tests.pretraining.texts import CORPUS, TINY
from tests.pretraining.texts import DOCUMENTS as LINES

ROWS = 8
KEYS = {"anchor_key": torch.tensor([3, 1, 3, 2]), "next_key": torch.tensor([9, 1, 8, 9])}
MORE = {
    # name: (data, choices, settings of the task)
    "next positives": (NEXT | KEYS, {"positives": "next", "difference": "none"}, {}),
    "next positives with a task": (NEXT | KEYS, {"positives": "both"}, {}),
    "next rows alone": (NEXT, {"pairing": "next", "contrast": False}, {}),
    "next rows alone, restored": (NEXT, {"pairing": "next", "contrast": False, "difference": "mlm"}, {}),
    "parts": (PLAIN, {"difference": "mlm"}, {"mini_batch": 3}),
    "parts, padding counts": (PLAIN, {"edits": ["insert", "delete"], "rtd_padding": "include"}, {"mini_batch": 3}),
    "accumulation": (PLAIN, {}, {"passes": 3}),
    "accumulation of next rows": (NEXT, {"pairing": "next"}, {"passes": 2, "mini_batch": 1}),
    "lora": (PLAIN, {}, {"lora": 2}),
    "a ramp": (PLAIN, {"rtd_schedule": "linear"}, {"passes": 2}),
}
ALL = {name: (*case, {}) for name, case in CASES.items()} | MORE


def rows_of(data, first, end):
    """Rows `first` to `end` of the batch of `ROWS` rows that repeats `data`, as wide as their longest."""
    size = len(data["input_ids"])
    part = {name: value[[row % size for row in range(first, end)]] for name, value in data.items()}
    if "has_next" in part:  # of four processes, the second has no next sentence
        part["has_next"] = torch.tensor([True, True, False, False, True, False, True, True])[first:end]
    for name in [name for name in part if name.endswith("attention_mask")]:
        ids = name.replace("attention_mask", "input_ids")
        width = int(part[name].sum(1).max())
        part[name], part[ids] = part[name][:, :width], part[ids][:, :width]
    return part | {"truncated": torch.tensor(end - first)}


def task_of(case, ranks, dtype):
    data, choices, settings = ALL[case]
    choices = {"mask_ratio": 0.5, "temperature": 0.5, "rtd_weight": 0.7} | choices
    model = make(dropout=0.0, dtype=dtype, **choices)
    if "lora" in settings:
        model.encoder = add_lora(model.encoder, settings["lora"], 5)
    model.mini_batch_size = settings.get("mini_batch")
    share = ROWS // ranks.count
    first, end = ranks.rank * share, (ranks.rank + 1) * share
    batches = SimpleNamespace(passes=settings.get("passes", 1))

    class Batches:
        def __getitem__(self, update):
            return [(10 * update + n, rows_of(data, first, end)) for n in range(batches.passes)]

    return DiffCSETask(model, Training(), Batches(), steps=5, bf16=False, ranks=ranks)


def outcome(task, ranks):
    """Log values, gradients and buffers after one update."""
    task.model.train()
    values = merged(ranks, task.backward(2), task.of_the_batch)
    average_gradients(ranks, task.model)
    entry = means({name: float(value) for name, value in values.items()}, 1.0)
    gradients = {name: weight.grad for name, weight in task.model.named_parameters()}
    return entry, gradients, dict(task.model.projector.named_buffers())


def gap(ours, plain):
    """Largest difference of two dictionaries of tensors, relative to their largest value or to 1."""
    assert {name for name, value in ours.items() if value is None} == {n for n, value in plain.items() if value is None}
    pairs = [(ours[name].double(), value.double()) for name, value in plain.items() if value is not None]
    largest = max([1.0, *(float(value.abs().max()) for _, value in pairs)])
    return max([0.0, *(float((one - other).abs().max()) for one, other in pairs)]) / largest


def logged(entry):
    """Values of a log entry; a share of no tokens is NaN on both sides."""
    return {name: torch.tensor(value, dtype=torch.float64).nan_to_num(7) for name, value in entry.items()}


def compare(case, ranks, dtype):
    """The gaps to one process with the whole batch."""
    ours, plain = outcome(task_of(case, ranks, dtype), ranks), outcome(task_of(case, ALONE, dtype), ALONE)
    assert ours[0].keys() == plain[0].keys()
    return [gap(logged(ours[0]), logged(plain[0])), gap(ours[1], plain[1]), gap(ours[2], plain[2])]


DOCUMENTS = Corpus.from_sentences(
    [line for i, sentence in enumerate(SENTENCES) for line in (sentence, *[""] * (i % 5 == 4))], documents=True
)


def settings(tiny, *, method=(), **training):
    chosen = {"batch_size": 8, "max_steps": 12, "learning_rate": 1e-3, "precision": "fp32", "log_every": 2, **training}
    return Config(method=Method(model=str(tiny), **dict(method)), training=Training(**chosen))


def label_free(tiny):
    """A run without dropout that draws, judges and accumulates."""
    method = {"positives": "next", "dropout": 0.0, "rtd_weight": 0.5}
    return settings(tiny, method=method, accumulation=2, max_steps=5, eval_every=2, log_every=1, select="label_free")


def resumable(tiny, dev):
    """A run with dropout, whose best step ships."""
    return settings(tiny, dev=str(dev), eval_every=4, checkpoint_every=3, max_steps=24, keep_training_parts=True)


class EndsAt4(TrainerCallback):
    def on_step_end(self, args, state, control, **facts):
        control.should_training_stop = state.global_step == 4


PRETRAINED = {
    "masked": (replace(TINY, batch_tokens=4096, max_steps=4, log_every=1, dropout=0.0, store="fp32"), CORPUS),
    "next": (
        replace(TINY, batch_tokens=4096, max_steps=4, log_every=1, dropout=0.0, store="fp32", next_weight=0.1,
                next_reads="cls", start_embeddings="next_sentences", sums_weight=5.0),
        LINES,
    ),
}  # fmt: skip


def few_are_enough():
    """Hold out from a text of eighty sentences."""
    selection.SHARE, selection.FEWEST = 0.2, 5


def refused(function, *arguments):
    try:
        function(*arguments)
    except InputError as error:
        return str(error)
    return "not refused"


def refusals(folder, tiny, ranks):
    """The messages of runs that several processes cannot make, or that are not the same on each."""
    other = Corpus.from_sentences([*SENTENCES, *["one more sentence"] * ranks.rank])
    tasks = {
        "batch": (run, settings(tiny, batch_size=9), other),
        "text": (run, settings(tiny), other),
        "option": (run, settings(tiny, log_every=2 + ranks.rank), other),
        "map": (run, replace(settings(tiny), method=Method(model=str(tiny), learn="map")), other),
        "groups": (pretrain, replace(TINY, batch_tokens=2048), CORPUS),
        "pretraining text": (pretrain, PRETRAINED["masked"][0], other),
    }
    return {name: refused(*task, folder / f"refused-{name}") for name, task in tasks.items()}


def main(root):
    torch.set_num_threads(1)
    root = Path(root)
    tiny = root / "tiny"
    with open_ranks() as ranks:
        result = {"float64": {case: compare(case, ranks, torch.float64) for case in ALL}}
        if ranks.count == 2:
            result["float32"] = {case: compare(case, ranks, torch.float32) for case in ALL}
            run(resumable(tiny, root / "dev.tsv"), Corpus.from_sentences(SENTENCES), root / "whole")
            few_are_enough()
            made = run(label_free(tiny), DOCUMENTS, root / "label_free", callbacks=[EndsAt4()])
            result["log"], result["scores"] = made.record.log, made.record.scores
            for name, (recipe, text) in PRETRAINED.items():
                pretrain(recipe, text, root / f"pretrained-{name}")
            result["refusals"] = refusals(root, tiny, ranks)
    (root / f"{ranks.count}-{ranks.rank}.json").write_text(json.dumps(result))
