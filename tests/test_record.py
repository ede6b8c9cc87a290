"""run.json: what is written is read back; an incomplete record is refused and the missing key named."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcse import record as record_module
from diffcse.config import Config, to_dict
from diffcse.errors import InputError
from diffcse.record import SCHEMA, Record, hardware, read_record, versions

NUMBERS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    NUMBERS | st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


def a_record(**more):
    return Record(kind="train", config=to_dict(Config()), seed=42, **more)


def test_what_is_written_is_read(tmp_path):
    record = a_record(
        data={"sha256": "ab", "sources": [{"path": "a.txt", "lines": 3}]},
        log=[{"step": 1, "loss": 0.5}],
        scores={"dev": {"file": "a.tsv", "start": 60, "best": 61.5, "last": None}},
        timing={"seconds": 1.25},
        warnings=["é"],
        status="complete",
    )
    record.write(tmp_path / "run.json")
    assert read_record(tmp_path / "run.json") == record


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_any_facts_are_kept(tmp_path_factory, facts):
    file = tmp_path_factory.getbasetemp() / "run.json"
    record = a_record(data=facts)
    record.write(file)
    assert read_record(file) == record


def test_a_file_name_that_is_not_utf8(tmp_path):
    record = a_record(data={"sources": [{"path": "caf\udce9.txt"}]})
    record.write(tmp_path / "run.json")
    assert read_record(tmp_path / "run.json") == record


def test_values_that_are_not_finite_become_null(tmp_path):
    log = [{"loss": float("nan"), "dev": float("inf"), "z": np.float64("-inf"), "ok": np.float64(0.5)}]
    a_record(log=log, scores={"pair": (float("nan"), 1)}).write(tmp_path / "run.json")
    back = read_record(tmp_path / "run.json")
    assert back.log == [{"loss": None, "dev": None, "z": None, "ok": 0.5}]
    assert back.scores == {"pair": [None, 1]}
    assert "NaN" not in (tmp_path / "run.json").read_text()


def test_a_new_record_is_running_and_says_where_and_when(tmp_path):
    record = a_record()
    assert record.status == "running"
    assert record.schema == SCHEMA
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.created)
    assert record.versions == versions()
    assert record.hardware["cores"] >= 1
    assert a_record().log is not record.log


def test_versions_leave_out_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(record_module, "_PACKAGES", ("numpy", "no-such-package"))
    found = versions()
    assert found["numpy"] == np.__version__
    assert found["python"].split(".") == [str(part) for part in sys.version_info[:3]]
    assert set(found) == {"python", "numpy"}


def test_hardware_counts_the_cores_this_process_may_use(monkeypatch):
    monkeypatch.setattr(record_module, "cores", lambda: frozenset({0, 3}))
    facts = hardware()
    assert facts["cores"] == 2
    assert facts["memory_gib"] > 0
    assert facts["processor"]


def test_hardware_does_not_import_torch():
    code = "import sys, diffcse.record as r; r.hardware(); print('torch' in sys.modules, 'threads' in r.hardware())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"", "JSON"),
        (b'{"schema": 1', "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "must be a table"),
        (b"{}", "schema 1"),
        (b'{"schema": 2}', "schema 1"),
        (b'{"schema": 1}', "config is missing"),
    ],
)
def test_a_file_that_is_no_record(tmp_path, content, key):
    file = tmp_path / "run.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"^{re.escape(str(file))}: .*{key}"):
        read_record(file)


def test_a_missing_record(tmp_path):
    with pytest.raises(InputError, match=r"run\.json: .*No such file"):
        read_record(tmp_path / "run.json")
    with pytest.raises(InputError, match=r": .*Is a directory"):
        read_record(tmp_path)


@pytest.mark.parametrize(("change", "key"), [({"new": 1}, "new is unknown"), ({"seed": None}, "seed is missing")])
def test_a_record_of_other_fields(tmp_path, change, key):
    a_record().write(tmp_path / "run.json")
    values = json.loads((tmp_path / "run.json").read_text()) | change
    (tmp_path / "run.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    with pytest.raises(InputError, match=key):
        read_record(tmp_path / "run.json")
