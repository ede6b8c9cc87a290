"""No file and no folder is left incomplete: not by an error, not by a kill, not by a full disk."""

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import pytest

from diffcse import files
from diffcse.errors import InputError
from diffcse.files import (
    clear_partials,
    is_whole,
    model_sha256,
    only_one,
    sha256_of,
    staged_file,
    staged_folder,
    write_errors,
    write_json,
    write_manifest,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def killed(code, *arguments, limit=None):
    """Run `code` in another process, which may be killed; returns (exit status, output)."""
    setup = "" if limit is None else f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    done = subprocess.run(
        [sys.executable, "-c", setup + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


# One file


def test_text_is_written_as_it_is(tmp_path):
    file = tmp_path / "deep" / "er" / "a.txt"
    write_text(file, "é\n\r\n\U0001f600")
    assert file.read_bytes() == "é\n\r\n\U0001f600".encode()
    write_text(file, "shorter")
    assert file.read_bytes() == b"shorter"
    assert names(file.parent) == ["a.txt"]


def test_json_is_readable_and_strict(tmp_path):
    write_json(tmp_path / "a.json", {"ä": [1, 2.5, None, True]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"ä": [1, 2.5, None, True]}
    assert "ä" in text
    assert text.endswith("}\n")
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["ä"]


def test_json_holds_names_that_are_not_utf8(tmp_path):
    value = {"file": os.fsdecode(b"caf\xe9.txt")}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


def test_an_error_in_the_middle_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def half():
        with staged_file(file) as staging:
            staging.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        half()
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_is_written_to_and_stays(tmp_path):
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_json(pipe, {"a": 1})
    assert json.loads(os.read(reader, 100)) == {"a": 1}
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe.json"]


@pytest.mark.skipif(not Path("/proc/self/fd/1").is_symlink(), reason="no such link")
def test_standard_output_by_its_name(tmp_path):
    # The target of /dev/stdout: no temporary file can be made next to it, and no error can replace it.
    code = "from pathlib import Path; from diffcse.files import write_text; write_text(Path('/proc/self/fd/1'), 'said')"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, b"said")
    (tmp_path / "file").write_bytes(b"before")
    with (tmp_path / "file").open("ab") as file:
        done = subprocess.run([sys.executable, "-c", code], stdout=file, stderr=subprocess.PIPE)
    assert b"InputError: /proc/self/fd/1: " in done.stderr
    assert (tmp_path / "file").read_bytes() == b"before"


def test_a_file_where_a_folder_is(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(InputError, match="/a: cannot be written: Is a directory"):
        write_text(tmp_path / "a", "text")
    assert names(tmp_path) == ["a"]
    write_text(tmp_path / "file", "text")
    with pytest.raises(InputError, match=r"/file/a: cannot be written: (File exists|Not a directory)"):
        write_text(tmp_path / "file" / "a", "text")


def test_a_kill_before_the_renaming_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    status, _ = killed(
        """
        import os, signal, sys
        from pathlib import Path
        from diffcse import files

        files._sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)
        files.write_text(Path(sys.argv[1]), "new")
        """,
        file,
    )
    assert status == -signal.SIGKILL
    assert file.read_text() == "old"
    assert len(names(tmp_path)) == 2
    clear_partials(tmp_path)
    assert names(tmp_path) == ["a.txt"]


# A folder


def fill(target, text):
    with staged_folder(target) as staging:
        (staging / "sub").mkdir()
        (staging / "sub" / "a.txt").write_text(text)


def test_a_new_folder(tmp_path):
    fill(tmp_path / "deep" / "out", "new")
    assert (tmp_path / "deep" / "out" / "sub" / "a.txt").read_text() == "new"
    assert names(tmp_path / "deep") == ["out"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    out = tmp_path / "out"
    fill(out, "old")
    (out / "only_old").touch()
    fill(out, "new")
    assert (out / "sub" / "a.txt").read_text() == "new"
    assert names(out) == ["sub"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_middle_leaves_the_old_folder(tmp_path, there, error):
    out = tmp_path / "out"
    if there:
        fill(out, "old")

    def half():
        with staged_folder(out) as staging:
            (staging / "a.txt").write_text("half")
            raise error

    with pytest.raises(error):
        half()
    assert names(tmp_path) == (["out"] if there else [])
    assert not there or (out / "sub" / "a.txt").read_text() == "old"


def test_an_input_error_in_the_middle_keeps_its_text(tmp_path):
    with pytest.raises(InputError, match=r"^why$"), staged_folder(tmp_path / "out"):
        raise InputError("why")


def test_a_file_in_the_folders_place_is_not_replaced(tmp_path):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(InputError, match="/out: cannot be written"):
        fill(tmp_path / "out", "new")
    assert (tmp_path / "out").read_text() == "precious"
    assert names(tmp_path) == ["out"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    fill(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    fill(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "sub" / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["link", "real"]


def test_when_the_last_renaming_fails_the_old_folder_comes_back(tmp_path, monkeypatch):
    out = tmp_path / "out"
    fill(out, "old")
    rename = Path.rename

    def refuse(self, target):
        if self.name.endswith(".partial"):
            raise OSError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(InputError, match="/out: cannot be written: Permission denied"):
        fill(out, "new")
    assert (out / "sub" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["out"]


KILLED_FOLDER = """
    import os, signal, sys
    from pathlib import Path
    from diffcse.files import staged_folder

    calls, rename = 0, Path.rename
    def counted(self, target):
        global calls
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        return rename(self, target)
    Path.rename = counted
    with staged_folder(Path(sys.argv[1])) as staging:
        (staging / "sub").mkdir()
        (staging / "sub" / "a.txt").write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("renamed", "left"), [(0, "old"), (1, "new"), (2, "new")])
def test_a_kill_at_each_renaming_leaves_a_whole_folder(tmp_path, renamed, left):
    """Also between the two renames, when no folder has the name: the new folder is complete by then."""
    out = tmp_path / "out"
    fill(out, "old")
    status, _ = killed(KILLED_FOLDER, out, renamed)
    assert status == -signal.SIGKILL
    assert out.exists() == (renamed != 1)
    clear_partials(tmp_path)
    assert (out / "sub" / "a.txt").read_text() == left
    assert names(tmp_path) == ["out"]


def test_clear_partials_restores_the_old_folder_where_the_new_one_is_gone(tmp_path):
    fill(tmp_path / ".out.12.old", "old")
    clear_partials(tmp_path)
    assert names(tmp_path) == ["out"]


def test_clear_partials_touches_nothing_else(tmp_path):
    for name in (".hidden", "a.partial", ".a.old", ".git.partial.keep", ".b.3.partial.txt"):
        (tmp_path / name).touch()
    (tmp_path / ".a.3.partial").mkdir()
    (tmp_path / ".b.3.partial").touch()
    before = {".hidden", "a.partial", ".a.old", ".git.partial.keep", ".b.3.partial.txt"}
    clear_partials(tmp_path)
    assert set(names(tmp_path)) == before
    clear_partials(tmp_path / "missing")


@pytest.fixture(scope="module")
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("stage", [staged_file, staged_folder])
def test_the_next_writer_clears_what_dead_processes_left(tmp_path, dead, stage):
    theirs = f"{zlib.crc32(b'another machine'):08x}"
    removed = [f".out.{dead}.partial", f".out.{files._HOST}-{dead}.partial", f".other.{files._HOST}-{dead}.partial"]
    old = f".out.{theirs}-{dead}.partial"
    kept = [f".other.{dead}.partial", f".out.{theirs}-1.partial", f".other.{files._HOST}-{os.getpid()}.partial"]
    for name in (*removed, *kept, old):
        (tmp_path / name).touch()
    (tmp_path / f".folder.{files._HOST}-{dead}.partial").mkdir()
    os.utime(tmp_path / old, (0, 0))
    with stage(tmp_path / "out") as staging:
        if stage is staged_file:
            staging.touch()
    assert names(tmp_path) == sorted([*kept, "out"])


# A full disk


@pytest.mark.parametrize(
    ("number", "what"), [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left"), (errno.EFBIG, "ulimit -f")]
)
def test_a_full_disk_is_one_readable_message(tmp_path, monkeypatch, number, what):
    write_text(tmp_path / "a.txt", "old")

    def full(path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(InputError, match=rf"a\.txt: .*{what}"):
        write_text(tmp_path / "a.txt", "new")
    with pytest.raises(InputError, match=rf"out: .*{what}"):
        fill(tmp_path / "out", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_other_errors_of_the_system_are_named(tmp_path):
    with pytest.raises(InputError, match="a: cannot be written: Permission denied"), write_errors(Path("a")):
        raise PermissionError(errno.EACCES, "Permission denied", "x")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("a"), ZeroDivisionError()])
def test_defects_keep_their_type(error):
    with pytest.raises(type(error)), write_errors(Path("a")):
        raise error


WRITERS = {
    "text": "files.write_text(target, 'x' * 400_000)",
    "json": "files.write_json(target, ['x' * 400_000])",
    "safetensors": """
from safetensors.torch import save_file
import torch
with files.staged_file(target) as staging:
    save_file({"a": torch.zeros(100_000)}, staging)
""",
    "folder": """
import torch
with files.staged_folder(target) as staging:
    (staging / "a.txt").write_text("whole")
    torch.save({"a": torch.zeros(100_000)}, staging / "b.pt")
""",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_real_limit(tmp_path, writer):
    """Under a real limit on file size each writer's own error is recognised, and its temporary file is removed."""
    target = tmp_path / "target"
    if writer == "folder":
        fill(target, "old")
    else:
        target.write_text("old")
    code = f"""
import signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from diffcse import files
from diffcse.errors import InputError
target = Path(sys.argv[1])
try:
{textwrap.indent(WRITERS[writer].strip(), "    ")}
except InputError as error:
    print("refused:", error)
"""
    status, output = killed(code, target, limit=100_000)
    assert status == 0, output
    assert output.startswith(f"refused: {target}: ")
    assert "ulimit -f" in output
    assert names(tmp_path) == ["target"]
    assert (target / "sub" / "a.txt" if writer == "folder" else target).read_text() == "old"


@pytest.mark.parametrize(
    "message",
    [  # as seen on a full file system and under a limit
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534",
        "PytorchStreamWriter failed writing file data/0: file write failed",
        "write(): fd 3 failed with No space left on device",
    ],
)
def test_the_libraries_own_words_for_a_full_disk(message):
    with pytest.raises(InputError, match="no space left"), write_errors(Path("a")):
        raise RuntimeError(message)


# Manifests


@pytest.fixture
def whole(tmp_path):
    folder = tmp_path / "whole"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(bytes(range(256)) * 10)
    (folder / "sub" / "ä b.txt").write_text("text")
    (folder / "empty").touch()
    write_manifest(folder)
    return folder


def test_a_manifest_lists_every_file(whole):
    assert is_whole(whole)
    entries = json.loads((whole / "manifest.json").read_text(encoding="utf-8"))
    assert sorted(entries) == ["a.bin", "empty", "sub/ä b.txt"]
    assert entries["a.bin"] == {"bytes": 2560, "sha256": sha256_of(whole / "a.bin")}
    assert entries["empty"]["sha256"] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_manifest_survives_moving_and_can_be_renewed(whole, tmp_path):
    moved = whole.rename(tmp_path / "moved")
    assert is_whole(moved)
    (moved / "empty").write_text("no more")
    assert not is_whole(moved)
    write_manifest(moved)
    assert is_whole(moved)


@pytest.mark.parametrize("file", ["a.bin", "sub/ä b.txt", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "empty", "alter", "grow", "remove", "replace by a folder"])
def test_damage_is_seen(whole, file, damage):
    path = whole / file
    data = path.read_bytes()
    path.unlink()
    if damage == "replace by a folder":
        path.mkdir()
    elif damage == "alter":
        middle = data.index(b'"sha256": "') + 12 if file == "manifest.json" else len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif damage != "remove":
        path.write_bytes(
            {"truncate": data[:-1] if file != "manifest.json" else data[:-3], "empty": b"", "grow": data + b"x"}[damage]
        )
    assert not is_whole(whole)


@pytest.mark.parametrize(
    "manifest",
    [b"", b"{}", b"[]", b"null", b"3", b'"a.bin"', b"[" * 100_000, b"\xff", b"\0" * 500]
    + [b'{"a.bin": %s}' % entry for entry in (b"null", b"3", b"{}", b"[]", b'{"bytes": 2560}')]
    + [b'{"a\\u0000": {"bytes": 1, "sha256": ""}}'],
)
def test_a_manifest_that_says_nothing_means_no(whole, manifest):
    (whole / "manifest.json").write_bytes(manifest)
    assert not is_whole(whole)


def test_no_folder_is_not_whole(tmp_path):
    assert not is_whole(tmp_path / "missing")
    (tmp_path / "file").touch()
    assert not is_whole(tmp_path / "file")
    assert not is_whole(tmp_path)


def test_a_folder_is_for_one_process_at_a_time(tmp_path):
    folder = tmp_path / "out"
    code = """
        import sys
        from pathlib import Path
        from diffcse.errors import InputError
        from diffcse.files import only_one
        try:
            with only_one(Path(sys.argv[1])):
                print("mine")
        except InputError as error:
            print(error)
    """
    with only_one(folder):
        _, output = killed(code, folder)
        assert output.startswith(f"{folder}: another process")
    assert not folder.exists()  # nothing was written to it
    with pytest.raises(InputError, match="the real reason"), only_one(folder):
        raise InputError("the real reason")
    assert not folder.exists()

    def swept() -> None:
        with only_one(folder):
            shutil.rmtree(folder)
            raise InputError("the real reason")

    with pytest.raises(InputError, match="the real reason"):
        swept()
    folder.mkdir()
    assert killed(code, folder)[1].strip() == "mine"
    assert folder.is_dir(), "it existed before"
    assert not list(folder.iterdir())
    with only_one(tmp_path / "used"):
        (tmp_path / "used/file").touch()
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["file"]
    with pytest.raises(InputError, match="/used/file: "), only_one(tmp_path / "used/file"):
        pass


@pytest.mark.parametrize("error", [OSError(errno.EOPNOTSUPP, "no"), OSError(errno.ENOLCK, "no"), NotImplementedError()])
def test_where_there_are_no_locks_one_works_without(tmp_path, monkeypatch, error):
    def acquire(lock):
        raise error

    monkeypatch.setattr(files.FileLock, "acquire", acquire)
    with only_one(tmp_path / "out"):
        (tmp_path / "out" / "file").touch()
    assert names(tmp_path / "out") == ["file"]


def test_a_killed_process_gives_its_folder_back(tmp_path):
    code = """
        import os, signal, sys
        from pathlib import Path
        from diffcse.files import only_one
        with only_one(Path(sys.argv[1])):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert killed(code, tmp_path / "out")[0] == -signal.SIGKILL
    with only_one(tmp_path / "out"):
        pass


# Models


def test_the_hash_of_a_model_covers_the_folders_of_its_modules(tmp_path):
    folder = tmp_path / "model"
    for name in ("1_Pooling", "2_Dense", "notes"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    (folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]))
    hashes = [model_sha256(folder), model_sha256(tmp_path)]
    (folder / "notes" / "config.json").write_text("[1]")
    assert [model_sha256(folder), model_sha256(tmp_path)] == hashes
    for name in ("1_Pooling/config.json", "2_Dense/model.safetensors"):
        (folder / name).write_text("other")
        now = [model_sha256(folder), model_sha256(tmp_path)]  # of a model folder, and of a run
        assert not {*now} & {*hashes}
        hashes += now
    (folder / "modules.json").write_text("[")
    assert model_sha256(folder) not in hashes
