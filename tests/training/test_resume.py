"""Killed at any moment and resumed: the same weights as an uninterrupted run, bit for bit."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from diffcse.config import Config, Method, Training
from diffcse.record import read_record
from diffcse.stops import stop_between_steps
from diffcse.text.corpus import Corpus
from diffcse.training.run import run
from tests.models import SENTENCES, save_tiny

# A run of 24 updates: 80 sentences in batches of 8 are 10 batches; two of them make an update, so an epoch has 5.
# The child sends itself `signals`, as `kill -9` or Ctrl-C would, when `point` has been passed `count` times.
CHILD = """
import os, signal, sys
from pathlib import Path

import torch

from diffcse.training import checkpoints, folder, loop, task
from diffcse.training import run as train

torch.set_num_threads(int(sys.argv[6]))  # the order of sums, and so the last bits, depend on it
bench, root, point, count, precision = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]
signals = [getattr(signal, name) for name in sys.argv[7].split()]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is born deaf to it
passed = 0


def pass_(name):
    global passed
    if name == point:
        passed += 1
        if passed == count:
            for each in signals:
                os.kill(os.getpid(), each)


def after(owner, attribute, name):
    original = getattr(owner, attribute)

    def wrapped(*args, **kwargs):
        pass_(f"before {name}")
        result = original(*args, **kwargs)
        pass_(f"after {name}")
        return result

    setattr(owner, attribute, wrapped)


after(task.DiffCSETask, "run_pass", "pass")
after(loop.Loop, "_save", "checkpoint")
after(loop.Loop, "_evaluate", "evaluation")
after(checkpoints, "write_manifest", "manifest")
after(checkpoints, "save_weights", "weights")
after(checkpoints, "prune", "pruning")
after(train, "save", "saving the model")
after(train.Record, "write", "record")
after(folder, "clean_up", "cleaning")

from tests.training.test_resume import run_whole

try:
    run_whole(Path(bench), root, precision)
except KeyboardInterrupt:  # Ray, where it is installed, would turn this end into exit code 1
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
"""


def run_whole(bench, root, precision):
    """The run under test; goes on from what it finds."""
    settings = Config(
        method=Method(model=str(bench / "tiny"), sampling="sample", temperature=0.2),
        training=Training(
            batch_size=8,
            accumulation=2,
            max_steps=24,
            learning_rate=1e-3,
            discriminator_learning_rate=3e-3 if precision == "bf16" else None,
            checkpoint_every=3,
            log_every=4,
            eval_every=4,
            dev=str(bench / "dev.tsv"),
            precision=precision,
            keep_training_parts=True,
        ),
    )
    run(settings, Corpus.from_sentences(SENTENCES), root, resume=True)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    save_tiny(folder / "tiny", "bert")
    rows = [f"{i % 5}\t{SENTENCES[i]}\t{SENTENCES[(i * 7 + 3) % 80]}" for i in range(20)]
    (folder / "dev.tsv").write_text("\n".join(rows))
    return folder


def start(bench, root, point="never", count=0, precision="fp32", signals="SIGKILL"):
    arguments = [bench, root, point, count, precision, torch.get_num_threads(), signals]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def finish(bench, root, precision="fp32"):
    run_whole(bench, root, precision)
    return outcome(root)


def outcome(root):
    """All that must not depend on a kill: weights, those that were for training too, log, scores, files."""
    files = ("model/model.safetensors", "last/model.safetensors", "training_parts.safetensors")
    record = read_record(root / "run.json")
    log = [{k: v for k, v in entry.items() if k != "sentences_per_second"} for entry in record.log]
    written = [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]
    assert written == record.log
    return {
        **{name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in files},
        "log": log,
        "scores": record.scores,
        "files": sorted(path.name for path in root.iterdir()),
    }


@pytest.fixture(scope="module")
def uninterrupted(bench, tmp_path_factory):
    return {p: finish(bench, tmp_path_factory.mktemp(p), p) for p in ("fp32", "bf16")}


@pytest.mark.parametrize(
    ("point", "count"),
    [
        ("after pass", 1),  # before any checkpoint
        ("after pass", 15),  # between two passes of one accumulated update, inside epoch 1
        ("before pass", 27),  # inside epoch 2, just before an update begins
        ("after pass", 40),  # at the end of epoch 4
        ("after weights", 5),  # while a checkpoint is written
        ("before manifest", 2),
        ("before pruning", 4),  # complete, older ones not yet removed
        ("after checkpoint", 8),  # the last step's checkpoint is there, the model is not
        ("after saving the model", 2),  # while best models are saved
        ("before record", 2),  # everything is written but the word "complete"
        ("before cleaning", 1),  # that too, but checkpoints are still there
    ],
)
def test_killed_once(bench, uninterrupted, tmp_path, point, count):
    process = start(bench, tmp_path / "run", point, count)
    process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL, "the kill point must have been reached"
    assert finish(bench, tmp_path / "run") == uninterrupted["fp32"]


def test_killed_again_and_again_in_bf16(bench, uninterrupted, tmp_path):
    for count in (9, 17, 11, 5):
        process = start(bench, tmp_path / "run", "after pass", count, "bf16")
        process.communicate(timeout=200)
        assert process.returncode == -signal.SIGKILL
    assert finish(bench, tmp_path / "run", "bf16") == uninterrupted["bf16"]


def test_killed_from_outside(bench, uninterrupted, tmp_path):
    root = tmp_path / "run"
    process = start(bench, root)
    deadline = time.monotonic() + 120
    while not list(root.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert finish(bench, root) == uninterrupted["fp32"]


@pytest.mark.parametrize(
    ("signals", "point", "count", "left"),
    [
        ("SIGINT", "before pass", 15, 8),  # between the two passes of the eighth update: it ends first, and is scored
        ("SIGINT SIGINT", "before pass", 15, 6),  # twice: at once, as a kill
        ("SIGINT", "before evaluation", 3, 8),  # of the eighth step
        ("SIGINT", "before manifest", 2, 7),  # while the sixth step's is written: both are whole
    ],
)
def test_ctrl_c_leaves_a_checkpoint_of_the_step_at_hand(bench, uninterrupted, tmp_path, signals, point, count, left):
    root = tmp_path / "run"
    process = start(bench, root, point, count, signals=signals)
    _, err = process.communicate(timeout=200)
    assert process.returncode == -signal.SIGINT
    assert "stopping after this step; Ctrl-C once more stops at once" in err
    assert max(root.glob("checkpoints/step-*")).name == f"step-{left:08d}"
    assert read_record(root / "run.json").status == ("stopped" if signals == "SIGINT" else "running")
    assert finish(bench, root) == uninterrupted["fp32"]


def test_ctrl_c_where_whoever_reads_is_gone(bench, uninterrupted, tmp_path):
    root = tmp_path / "run"
    process = start(bench, root, "before pass", 15, signals="SIGINT")
    process.stderr.close()
    assert process.wait(timeout=200) == -signal.SIGINT
    assert max(root.glob("checkpoints/step-*")).name == "step-00000008"
    assert finish(bench, root) == uninterrupted["fp32"]


def train_by_command(bench, tmp_path, stderr, steps=100_000):
    """`diffcse train`, by default of more steps than anyone waits for, after its first one; it hears Ctrl-C."""
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES))
    recipe = ("--recipe", "mini_cpu", "--model", bench / "tiny", "--batch-size", "8", "--log-every", "1")
    words = ("train", "text.txt", "--output", "out", *recipe)
    process = subprocess.Popen(
        [sys.executable, "-m", "diffcse", *map(str, words), "--max-steps", str(steps)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    next(line for line in process.stdout if line.startswith("step "))
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_on_the_command_line(number, bench, tmp_path):
    process = train_by_command(bench, tmp_path, subprocess.PIPE)
    process.send_signal(number)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 128 + number
    [left] = (tmp_path / "out").glob("checkpoints/step-*")
    step = int(left.name.removeprefix("step-"))
    assert f"stopped after step {step:,} of 100,000, with a checkpoint of it. The same command with --resume" in err


def test_a_run_goes_on_without_its_reader(bench, tmp_path):
    process = train_by_command(bench, tmp_path, subprocess.PIPE, steps=20)
    process.stdout.close()
    assert process.wait(timeout=200) == 141
    assert read_record(tmp_path / "out" / "run.json").status == "complete"


def test_ctrl_c_on_the_command_line_piped_to_what_it_ends_too(bench, tmp_path):
    process = train_by_command(bench, tmp_path, subprocess.STDOUT)
    process.send_signal(signal.SIGSTOP)  # so that nothing is said between the two
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=200) == 130
    assert len(list((tmp_path / "out").glob("checkpoints/step-*"))) == 1


@pytest.fixture
def _hears_ctrl_c():
    """As a process in the foreground does; a background job is born deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_hears_ctrl_c")
def test_ctrl_c_has_its_own_meaning_again_afterwards():
    with stop_between_steps():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(ValueError, match="x"), stop_between_steps():
        raise ValueError("x")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def others(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGINT, others)
    try:
        with stop_between_steps():
            assert signal.getsignal(signal.SIGINT) is others
    finally:
        signal.signal(signal.SIGINT, before)
    with ThreadPoolExecutor(1) as threads, stop_between_steps() as outer:
        heard = signal.getsignal(signal.SIGINT)
        threads.submit(lambda: stop_between_steps().__enter__()).result()
        assert signal.getsignal(signal.SIGINT) is heard
        assert not outer.asked


def test_a_complete_run_is_opened_and_says_so(bench, tmp_path):
    events = []
    config = Config(
        method=Method(model=str(bench / "tiny"), difference="none"), training=Training(batch_size=8, max_steps=1)
    )
    for _ in range(2):
        run(
            config,
            Corpus.from_sentences(SENTENCES),
            tmp_path / "run",
            resume=True,
            report=lambda event, facts: events.append((event, facts)),
        )
    assert [event for event, _ in events if event != "step"] == ["corpus", "start", "log", "done", "corpus", "finished"]
    assert events[-1][1]["created"] == read_record(tmp_path / "run" / "run.json").created


def test_torn_checkpoint_is_skipped_for_the_newest_whole_one(bench, uninterrupted, tmp_path):
    root = tmp_path / "run"
    start(bench, root, "after checkpoint", 4).communicate(timeout=200)
    newest, older = sorted(root.glob("checkpoints/step-*"), reverse=True)
    torn = newest / "optimizer.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    assert finish(bench, root) == uninterrupted["fp32"]
    assert read_record(root / "run.json").warnings == [f"{newest.name}: incomplete or damaged, skipped"]
    assert older.name < newest.name


def test_precisions_differ(uninterrupted):
    assert uninterrupted["fp32"] != uninterrupted["bf16"]


def test_the_log_is_whole(uninterrupted):
    logged = [entry for entry in uninterrupted["fp32"]["log"] if "loss" in entry]
    assert [entry["step"] for entry in logged] == [4, 8, 12, 16, 20, 24]
    assert uninterrupted["fp32"]["scores"]["sentences_seen"] == 24 * 2 * 8
