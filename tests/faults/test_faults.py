"""A short slice of `make faults`: each command is killed and meets a full disk, each reader gets damaged inputs.

It runs in a process of its own, because that process forks.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import mutate, scenarios

SLICE = ["--kills", "6", "--every", "150", "--mutations", "480", "--minutes", "1", "--seed", "1"]


@pytest.mark.timeout(280)
def test_a_slice(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- made by make faults -->\nold\n<!-- end of the table -->\nafter\n")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.faults",
        *SLICE,
        "--table",
        page,
        "--kept",
        tmp_path / "kept",
    ]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "\nold\n" not in text
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:2] == "| "]
    assert {row[0] for row in rows} >= {*mutate.READERS, *(scenario.name for scenario in scenarios.SCENARIOS)}
    header = [row[0] for row in rows].index("reader")
    assert [row[0] for row in rows[header + 1 :]] == [*mutate.READERS]
    for _, *counts in rows[header + 1 :]:
        tried, read, refused, slow, crashes = map(int, counts)
        assert tried == read + refused
        assert (slow, crashes) == (0, 0)


def test_a_crash_and_a_slow_reader_are_seen(tmp_path, monkeypatch):
    place = tmp_path / "text"
    place.mkdir()
    (place / "a.txt").write_text("abc" * 50)
    damaged = []

    def reader(folder, file):
        if file.read_text(errors="replace") != "abc" * 50:
            damaged.append(file.read_bytes())
            raise TypeError("no")

    monkeypatch.setitem(mutate.READERS, "text", reader)
    monkeypatch.setattr(mutate.resource, "setrlimit", lambda *limit: None)
    found = mutate.fuzz("text", tmp_path, 20, 0, tmp_path / "kept")
    assert (found.tried, found.read + len(found.crashes)) == (20, 20)
    assert len(found.crashes) == len(damaged) > 10
    assert "TypeError: no" in found.crashes[0]
    assert (place / "a.txt").read_text() == "abc" * 50
    assert len(list((tmp_path / "kept").glob("*.why"))) == len(damaged)
