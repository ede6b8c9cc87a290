"""Standard streams that are closed, full, missing or without a reader."""

import os
import subprocess
import sys

import pytest

from diffcse.cli import main

RECIPE = ("train", "--print-config")
"""A command of many lines that needs no torch."""


def diffcse(*arguments, **options):
    return subprocess.Popen([sys.executable, "-m", "diffcse", *map(str, arguments)], text=True, **options)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")  # noqa: PTH110
@pytest.mark.parametrize("arguments", [RECIPE, ("--help",)])
def test_a_full_device_is_exit_code_2(arguments):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        process = diffcse(*arguments, stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=100)
    assert process.returncode == 2
    assert err.startswith("warning  standard output: No space left")
    assert err.count("\n") == 1


def test_a_reader_that_has_gone_is_exit_code_141():
    process = diffcse(*RECIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, err = process.communicate(timeout=100)
    assert process.returncode == 141
    assert err.startswith("warning  standard output: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("closed", "code"), [((0, 1), 2), ((0, 1, 2), 2), ((0, 2), 0)])
def test_closed_streams(closed, code):
    process = diffcse(
        *RECIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: [os.close(number) for number in closed],
    )
    out, err = process.communicate(timeout=100)
    assert process.returncode == code
    assert ("warning  standard output: " in err) == (closed == (0, 1))
    assert ("[method]" in out) == (1 not in closed)


def test_python_without_streams(monkeypatch):
    with monkeypatch.context() as patch:
        for name in ("stdin", "stdout", "stderr"):
            patch.setattr(sys, name, None)
        with pytest.raises(SystemExit) as stop:
            main(RECIPE)
        assert sys.stdout is None
    assert stop.value.code == 2


def test_a_closed_stream_of_python(monkeypatch, tmp_path):
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stdout", log)
    with pytest.raises(SystemExit) as stop:
        main(RECIPE)
    assert stop.value.code == 2


def test_a_deleted_folder(tmp_path):
    code = f"import os; os.rmdir({str(tmp_path / 'gone')!r}); from diffcse.cli import main; main(['train', 'a.txt'])"
    (tmp_path / "gone").mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "gone", capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the current folder")
