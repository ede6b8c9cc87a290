"""Ray Data gives the rows of our own loop, each once, also when a worker and the driver were killed."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from pyarrow import parquet

from diffcse.cli import main
from diffcse.encoder.inputs import Sentences
from diffcse.encoder.load import load
from diffcse.errors import InputError
from tests.models import SENTENCES, save_tiny

pytest.importorskip("ray")

DRIVER = """
import sys, time
from diffcse.encoder.inputs import Sentences
from diffcse.integrations import ray_data

call = ray_data._Embedder.__call__
def slowly(self, table):
    time.sleep(6 if table["id"][0].as_py() >= 200 else 1)  # so the first parts are written long before the last
    return call(self, table)
ray_data._Embedder.__call__ = slowly
model, text, folder = sys.argv[1:]
ray_data.embed_on_ray(model, Sentences([text]), folder, pooling="mean", rows_per_part=40)
"""


def run(*arguments):
    return subprocess.Popen([sys.executable, *map(str, arguments)], start_new_session=True)


def files(folder):
    return [*folder.glob("*.parquet")]


def committed(folder):
    return [path for path in files(folder / "_checkpoint") if ".pending" not in path.name]


def wait(condition, seconds=240):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "took too long"
        time.sleep(0.2)
    return value


def actor_of(driver):
    for process in psutil.Process(driver.pid).children(recursive=True):
        if "MapWorker" in " ".join(process.cmdline()):
            return process
    return None


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_killed_workers_and_drivers_leave_every_row_once(tmp_path, capsys):
    model = str(save_tiny(tmp_path / "model", "bert"))
    lines = [f"{sentence} {i}" for i in range(5) for sentence in SENTENCES][:400]
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text("\n".join(lines))
    driver = run("-c", DRIVER, model, text, out)
    wait(lambda: committed(out))
    os.kill(actor_of(driver).pid, signal.SIGKILL)
    written = len(committed(out))
    wait(lambda: len(committed(out)) > written)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    before = {path: path.stat().st_mtime_ns for path in files(out)}
    assert 2 <= len(committed(out)) < 10  # a part each

    command = ["embed", model, str(text), "--output", str(out), "--engine", "ray", "--pooling", "mean"]
    command += ["--rows-per-part", "40", "--precision", "fp32"]
    assert run("-m", "diffcse", *command).wait(400) == 0
    assert len(before.items() & {path: path.stat().st_mtime_ns for path in files(out)}.items()) >= 2
    table = parquet.read_table(files(out)).sort_by("id")
    assert table["id"].to_pylist() == list(range(len(lines)))
    assert table["text"].to_pylist() == lines
    rows = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(rows, load(model, pooling="mean")(lines), atol=1e-5)

    complete = {path: path.stat().st_mtime_ns for path in files(out)}
    main(command)  # a second run after success
    assert "not started" in capsys.readouterr().out
    assert complete == {path: path.stat().st_mtime_ns for path in files(out)}


def test_what_ray_cannot_do_is_refused_before_it_starts(tmp_path):
    from diffcse.integrations.ray_data import embed_on_ray

    (tmp_path / "a.csv").write_text("text,id\na,1\n")
    with pytest.raises(InputError, match="--store int8"):
        embed_on_ray("mini", Sentences([tmp_path / "a.csv"]), tmp_path / "out", store="int8")
    with pytest.raises(InputError, match="--rows-per-part 0"):
        embed_on_ray("mini", Sentences([tmp_path / "a.csv"]), tmp_path / "out", rows_per_part=0)
    assert not (tmp_path / "out").exists()
