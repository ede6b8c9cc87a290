"""Several processes are one: the same losses, gradients and buffers, the same run, and one clear end."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from diffcse.config import to_toml
from diffcse.pretraining.run import pretrain
from diffcse.record import read_record
from diffcse.training import selection
from diffcse.training.run import run
from tests.models import SENTENCES, save_tiny
from tests.training.rank_cases import DOCUMENTS, PRETRAINED, EndsAt4, label_free, resumable

ROOT = Path(__file__).parents[2]
MAIN = "import sys; from tests.training.rank_cases import main; main(sys.argv[1])"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    save_tiny(folder / "tiny", "bert")
    rows = [f"{i % 5}\t{SENTENCES[i]}\t{SENTENCES[(i * 7 + 3) % 80]}" for i in range(20)]
    (folder / "dev.tsv").write_text("\n".join(rows))
    (folder / "text.txt").write_text("\n".join(SENTENCES) + "\n")
    (folder / "recipe.toml").write_text(to_toml(resumable(folder / "tiny", folder / "dev.tsv")))
    return folder


def environment(bench, **more):
    ours = {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(bench / "cache"), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    return {**os.environ, **ours, **more}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def spawn(bench, count):
    """What each of `count` processes reports."""
    place = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MAIN, str(bench)],
            env=environment(bench, RANK=str(rank), LOCAL_RANK=str(rank), **place),
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(count)
    ]
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0] * count, errors
    return [json.loads((bench / f"{count}-{rank}.json").read_text()) for rank in range(count)]


@pytest.fixture(scope="module")
def two(bench):
    return spawn(bench, 2)


@pytest.fixture(scope="module")
def four(bench):
    return spawn(bench, 4)


@pytest.mark.parametrize(
    ("count", "kind", "tolerance"), [("two", "float64", 1e-9), ("two", "float32", 1e-5), ("four", "float64", 1e-9)]
)
def test_losses_gradients_and_buffers_are_those_of_one(count, kind, tolerance, request):
    """In float64 nearly to the bit; in float32 up to rounding."""
    for result in request.getfixturevalue(count):
        assert len(result[kind]) > 50
        for case, gaps in result[kind].items():
            losses, gradients, buffers = gaps
            assert losses < max(tolerance, 1e-7), (case, gaps)  # shares of tokens are float32
            assert max(gradients, buffers) < tolerance, (case, gaps)


def close(entries, plain, tolerance):
    assert len(entries) == len(plain)
    for entry, expected in zip(entries, plain, strict=True):
        for name in entry.keys() - {"seconds", "sentences_per_second", "tokens_per_second"}:
            assert entry[name] == pytest.approx(expected[name], rel=tolerance, abs=tolerance), (entry["step"], name)


def test_a_run_that_judges_itself(bench, two, monkeypatch):
    monkeypatch.setattr(selection, "SHARE", 0.2)
    monkeypatch.setattr(selection, "FEWEST", 5)
    alone = run(label_free(bench / "tiny"), DOCUMENTS, bench / "alone", callbacks=[EndsAt4()]).record
    together = read_record(bench / "label_free" / "run.json")
    assert together.scores["steps"] == 4
    assert "label_free" in together.scores
    close(together.log, alone.log, 1e-3)
    for result in two:
        close(result["log"], together.log, 0)
    assert [result["scores"] for result in two] == [together.scores] * 2


@pytest.mark.parametrize("name", PRETRAINED)
def test_pretraining(bench, two, name):
    recipe, text = PRETRAINED[name]
    alone = pretrain(recipe, text, bench / f"alone-{name}").record
    together = read_record(bench / f"pretrained-{name}" / "run.json")
    close(together.log, alone.log, 1e-3)
    assert together.scores["held_out_loss"] == pytest.approx(alone.scores["held_out_loss"], rel=1e-3)
    weights = load_file(bench / f"pretrained-{name}" / "model" / "model.safetensors")
    for key, value in load_file(bench / f"alone-{name}" / "model" / "model.safetensors").items():
        assert (weights[key] - value).abs().mean() < 1e-5, key


def test_what_cannot_be_shared_is_refused_on_every_process(bench, two):
    first, second = (result["refusals"] for result in two)
    assert first == second
    begins = {
        "batch": "training.batch_size = 9: ",
        "text": "the text: process 1 ",
        "option": "training.log_every: process 1 ",
        "map": 'method.learn = "map": ',
        "groups": "batch_tokens = 2048: ",
        "pretraining text": "the text: process 1 ",
    }
    for name, begin in begins.items():
        assert first[name].startswith(begin), first[name]
        assert not (bench / f"refused-{name}").exists()


# Launched by torchrun


def launch(bench, *options, place=("--nproc-per-node", "2")):
    """`diffcse train` under torchrun."""
    ours = ["--master-port", free_port()] if "--master-port" not in place else []
    command = ["train", str(bench / "text.txt"), "--recipe", str(bench / "recipe.toml"), "--output", str(bench / "run")]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *place, *ours, "-m", "diffcse", *command, *options],
        env=environment(bench),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def two_machines():
    """The options of torchrun on each of two machines, as docs/scaling.md has them; both are this one."""
    address = ["--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", free_port()]
    return [["--nnodes", "2", "--node-rank", rank, *address] for rank in "01"]


def steps(bench):
    log = bench / "run" / "log.jsonl"
    return [json.loads(line)["step"] for line in log.read_text().splitlines()][-1:] if log.exists() else []


def until(bench, step, process):
    while steps(bench) < [step]:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def workers(process):
    """The process ids by rank."""
    ids = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            values = dict(item.split("=", 1) for item in (entry / "environ").read_text().split("\0") if "=" in item)
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if parent == str(process.pid) and "RANK" in values:
            ids[int(values["RANK"])] = int(entry.name)
    return ids


def shipped(folder):
    names = ("model/model.safetensors", "last/model.safetensors", "training_parts.safetensors")
    log = [
        {k: v for k, v in entry.items() if k != "sentences_per_second"}
        for entry in read_record(folder / "run.json").log
    ]
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names], log


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the processes in /proc")
def test_killed_stopped_and_resumed_is_the_whole_run(bench, two):
    """A process dies; the run is resumed and stopped by SIGTERM; on two "machines" it ends with the same bits."""
    process = launch(bench)
    until(bench, 6, process)
    os.kill(workers(process)[1], signal.SIGKILL)
    killed = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert process.returncode != 0
    assert len([line for line in errors.splitlines() if line.startswith("error:")]) == 1, errors
    assert read_record(bench / "run" / "run.json").status == "running"

    process = launch(bench, "--resume")
    until(bench, 14, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert read_record(bench / "run" / "run.json").status == "stopped"
    assert errors.count("stopping after this step") == errors.count("stopped after step") == 1
    shutil.copytree(bench / "run", bench / "continued by one")

    machines = [launch(bench, "--resume", place=place) for place in two_machines()]
    (output, errors), (silent, _) = (machine.communicate(timeout=120) for machine in machines)
    assert [machine.returncode for machine in machines] == [0, 0], errors
    assert output.count("by 2 processes") == 1
    assert not silent
    assert shipped(bench / "run") == shipped(bench / "whole")

    settings = resumable(bench / "tiny", bench / "dev.tsv")
    alone = run(settings, [bench / "text.txt"], bench / "continued by one", resume=True).record
    assert [line for line in alone.warnings if line.startswith("processes: 2 ")]
    assert alone.scores["steps"] == 24
