"""The hub's data sets, from folders of the same files and columns: read, counted, recorded, refused with the row."""

import json

import jsonschema
import pytest

from diffcse.errors import InputError
from diffcse.evaluation.data import find_data, find_sets
from diffcse.evaluation.hub import KNOWN, read_hub
from diffcse.evaluation.report import evaluate, read_schema
from diffcse.text import hub
from tests.evaluation import folders

COMMIT = "0123456789" * 4


def jsonl(path, rows):
    folders.write(path, "".join(json.dumps(row) + "\n" for row in rows))


def graded(n=12, seed=0, **more):
    return [{"score": s, "sentence1": a, "sentence2": b} | more for s, a, b in folders.pairs(n, seed)]


def sts12(folder, rows=None):
    jsonl(folder / "sts12-sts/test.jsonl", graded() if rows is None else rows)


def stsb(folder):
    for split in ("train", "validation", "test"):
        jsonl(folder / f"stsbenchmark-sts/{split}.jsonl", graded(9, dataset="MSRvid", genre="main-captions"))


def tasks(folder):
    def labelled(n, label=lambda y: {"label": y}, seed=0):
        return [{"text": s} | label(y) for s, y in folders.labelled(n, seed)]

    for split in ("train", "validation", "test"):
        jsonl(folder / f"rotten_tomatoes/{split}.jsonl", labelled(20, seed=len(split)))
    for split in ("train", "test"):
        jsonl(folder / f"subj/{split}.jsonl", labelled(20, seed=len(split)))
        coarse = labelled(20, lambda y: {"label": 40 + y, "label_coarse_original": ("HUM", "NUM")[y]}, len(split))
        jsonl(folder / f"TREC-QC/{split}.jsonl", coarse)
    for split in ("train", "validation", "test"):
        rows = [{"sentence1": a, "sentence2": b, "label": int(s > 2), "idx": 0} for s, a, b in folders.pairs(20)]
        jsonl(folder / f"glue/mrpc/{split}.jsonl", rows)


@pytest.fixture
def asked():
    """What was downloaded: (id, patterns) each."""
    return []


@pytest.fixture
def mirror(tmp_path, monkeypatch, asked):
    """Folders named as on the hub, and a hub that serves them as of `COMMIT`."""
    import datasets  # noqa: F401 - before the class below stands in for the hub's, which it takes when imported
    import huggingface_hub

    class Api:
        def dataset_info(self, id_, revision):
            assert revision in (None, "main")
            self.sha = COMMIT
            return self

    def download(name, commit, patterns):
        assert (commit, name.is_folder) == (COMMIT, False)
        asked.append((name.id, patterns))
        return tmp_path / "mirror" / name.id.rpartition("/")[2]

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(hub, "download", download)
    folder = tmp_path / "mirror"
    sts12(folder)
    stsb(folder)
    jsonl(folder / "sickr-sts/test.jsonl", graded(8))
    tasks(folder)
    return folder


EVERYTHING = {"allow_partial": True, "sts": True, "transfer": True}


def test_pairs_are_the_rows_of_their_split(mirror):
    found = read_hub("hub:mteb/sts12-sts", allow_partial=True)
    pairs = found.sts["STS12"]
    assert list(zip(pairs.scores.tolist(), pairs.first, pairs.second, strict=True)) == folders.pairs(12)
    assert set(pairs.subsets) == {"STS12"}
    assert (found.origins["STS12"].id, found.origins["STS12"].revision) == ("mteb/sts12-sts", COMMIT)


def test_splits_and_subsets_of_the_benchmark(mirror):
    found = read_hub("hub:mteb/stsbenchmark-sts", allow_partial=True).sts
    assert {name: set(pairs.subsets) for name, pairs in found.items()} == {
        "STSB-dev": {"MSRvid"},
        "STSB-test": {"MSRvid"},
    }
    assert list(read_hub("hub:mteb/stsbenchmark-sts:validation", allow_partial=True).sts) == ["STSB-dev"]
    assert list(read_hub("hub:mteb/stsbenchmark-sts", only=["STSB-train"], allow_partial=True).sts) == ["STSB-train"]
    assert list(find_sets("hub:mteb/stsbenchmark-sts@main", allow_partial=True)) == [
        "STSB-train", "STSB-dev", "STSB-test"
    ]  # fmt: skip


def test_tasks_have_sentevals_parts_classes_and_order(mirror):
    found = read_hub(f"hub:{mirror}", **EVERYTHING).transfer
    sizes = {
        name: [len(part) for part in (task.train, task.dev, task.test) if part is not None]
        for name, task in found.items()
    }
    assert sizes == {"MR": [60], "SUBJ": [40], "TREC": [20, 20], "MRPC": [40, 20]}
    words = [len(sentence.split()) for sentence in found["MR"].train.first]
    assert words == sorted(words)
    objective = {s for n in ("train", "test") for s, y in folders.labelled(20, len(n)) if y == 0}
    subj = found["SUBJ"].train
    assert {s for s, y in zip(subj.first, subj.labels, strict=True) if y == 1} == objective
    assert set(found["TREC"].train.labels.tolist()) == {3, 5}  # HUM and NUM among SentEval's six
    rows = {(a, b): int(s > 2) for s, a, b in folders.pairs(20)}
    mrpc = found["MRPC"].test
    assert {(a, b): y for a, b, y in zip(mrpc.first, mrpc.second, mrpc.labels.tolist(), strict=True)} == rows


def test_the_same_rows_in_senteval_layout_are_the_same_examples(mirror, tmp_path):
    from diffcse.evaluation.downstream import read_downstream_transfer

    rows = [row for n in ("train", "validation", "test") for row in folders.labelled(20, len(n))]
    for file, label in (("MR/rt-polarity.pos", 1), ("MR/rt-polarity.neg", 0)):
        folders.write(tmp_path / "downstream" / file, "".join(f"{s}\n" for s, y in rows if y == label), "latin-1")
    local = read_downstream_transfer(tmp_path / "downstream", allow_partial=True)["MR"].train
    ours = read_hub("hub:cornell-movie-review-data/rotten_tomatoes", allow_partial=True).transfer["MR"].train
    assert (local.first, local.labels.tolist()) == (ours.first, ours.labels.tolist())


def test_only_what_is_asked_for_is_downloaded(mirror, asked):
    find_data(["hub:mteb"], groups=("sts",), only=["STS12"], allow_partial=True)
    find_data(["hub:mteb"], groups=("transfer",), only=["MRPC"], allow_partial=True)
    assert [(id_, len(patterns)) for id_, patterns in asked] == [("mteb/sts12-sts", 7), ("nyu-mll/glue", 1)]


def test_one_name_for_all(mirror, asked):
    for year in (13, 14, 15, 16):
        jsonl(mirror / f"sts{year}-sts/test.jsonl", graded(9, year))
    data = find_data(["hub:mteb"], allow_partial=True)
    assert {id_ for id_, _ in asked} == set(KNOWN)
    assert list(data.sts) == ["STS12", "STS13", "STS14", "STS15", "STS16", "STSB-dev", "STSB-test", "SICKR-all"]
    assert list(data.transfer) == ["MR", "SUBJ", "TREC", "MRPC"]
    assert any("papers quote the 4,927 test pairs" in note for note in data.notes)
    assert "no average over the seven STS sets: SICKR-test missing" in data.notes


def test_a_set_of_a_folder_given_before_keeps_its_own_origin(mirror, tmp_path):
    folders.tsv(tmp_path / "mine", "STS12")
    data = find_data([tmp_path / "mine", "hub:mteb/sts12-sts"], groups=("sts",), allow_partial=True)
    assert (len(data.sts["STS12"]), data.origins) == (30, {})
    assert "STS12 is also in hub:mteb/sts12-sts; the folder given first is used" in data.notes


def test_the_record_names_data_set_and_revision(mirror, tmp_path):
    for source, revision in (("hub:mteb/stsbenchmark-sts", COMMIT), (f"hub:{mirror}/stsbenchmark-sts", None)):
        report = evaluate(folders.bag_of_words, source, tasks="all", allow_partial=True, use_cache=False)
        jsonschema.validate(report, read_schema())
        records = report["results"][0]["tasks"].values()
        assert {record["group"] for record in records} == {"sts", "retrieval", "geometry"}
        for record in records:
            assert record["data"]["hub"] == {"id": "mteb/stsbenchmark-sts", "revision": revision}
        assert str(tmp_path) not in json.dumps(report)


def test_the_hash_is_of_the_rows_whatever_their_format(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    sts12(tmp_path / "a")
    (tmp_path / "b/sts12-sts/data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(graded()), tmp_path / "b/sts12-sts/data/test-00000-of-00001.parquet")
    sts12(tmp_path / "c", graded(12, 1))
    a, b, c = (read_hub(f"hub:{tmp_path / name}", allow_partial=True).sts["STS12"].sha256 for name in ("a", "b", "c"))
    assert a == b != c


def test_a_folder_in_the_hubs_cache_is_read(tmp_path):
    """There, names begin with a dot and files are links."""
    sts12(tmp_path / "blobs")
    folder = tmp_path / ".cache/datasets--mteb--sts12-sts/sts12-sts"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").symlink_to(tmp_path / "blobs/sts12-sts/test.jsonl")
    assert len(read_hub(f"hub:{folder}", allow_partial=True).sts["STS12"]) == 12


def test_a_relative_folder(mirror, monkeypatch):
    monkeypatch.chdir(mirror / "sts12-sts")
    assert list(read_hub("hub:.", allow_partial=True).sts) == ["STS12"]
    monkeypatch.chdir(mirror)
    assert list(read_hub("hub:./sts12-sts", allow_partial=True).sts) == ["STS12"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"score": "good"}, r"row 3, column 'score': 'good' is not a finite number"),
        ({"score": None}, r"row 3, column 'score': None is not"),
        ({"sentence2": " "}, r"row 3, column 'sentence2': ' ' is not a sentence"),
        ({"sentence1": None}, r"row 3, column 'sentence1': None is not a sentence"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, problem):
    rows = [{key: str(value) for key, value in row.items()} for row in graded()]  # grades as text are numbers too
    rows[2] |= change
    sts12(tmp_path, rows)
    with pytest.raises(InputError, match=rf"\(mteb/sts12-sts, test\), {problem}"):
        read_hub(f"hub:{tmp_path}", allow_partial=True)


def test_a_task_without_test_labels_is_refused(mirror):
    rows = [{"sentence1": a, "sentence2": b, "label": -1} for _, a, b in folders.pairs(20)]
    jsonl(mirror / "glue/mrpc/test.jsonl", rows)
    with pytest.raises(InputError, match=r"\(nyu-mll/glue, test\), row 1, column 'label': -1 must be one of 0, 1"):
        read_hub("hub:nyu-mll/glue", allow_partial=True)


@pytest.mark.parametrize(
    ("spelling", "problem"),
    [
        ("hub:mteb/sts12-sts", "3108 pairs expected, 12 found"),
        ("hub:SetFit/subj", "SUBJ has 10000 examples, 40 found"),
        ("hub:someone/something", "mteb/sts12-sts, "),
        ("hub:nyu-mll/glue/sst2", "the configuration mrpc is read, not sst2"),
        ("hub:mteb/sts12-sts:dev", "its splits are test, not dev"),
        ("hub:SetFit/TREC-QC:test", "needs training and test examples"),
        ("hub:stsb", "must be hub:OWNER/NAME"),
        ("hub:./nowhere", "nowhere is not a folder"),
        ("hub:~nobody-of-this-name/x", "is not a folder"),
        ("hub:MIRROR/glue/mrpc", "the folder of a known data set"),
    ],
)
def test_what_is_refused(mirror, spelling, problem):
    with pytest.raises(InputError, match=problem):
        read_hub(spelling.replace("MIRROR", str(mirror)))


def test_missing_columns_and_splits_are_named(tmp_path):
    jsonl(tmp_path / "sts12-sts/train.jsonl", graded())
    with pytest.raises(InputError, match=r"Bad split: test\. Available splits: \['train'\]"):
        read_hub(f"hub:{tmp_path}", allow_partial=True)
    (tmp_path / "sts12-sts/train.jsonl").unlink()
    jsonl(tmp_path / "sts12-sts/test.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 1}])
    with pytest.raises(InputError, match="no column score; columns here: sentence1, sentence2, label"):
        read_hub(f"hub:{tmp_path}", allow_partial=True)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub; there is no network in tests."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_commit_that_was_downloaded_is_read_without_a_network_and_no_other_in_its_place(hub_cache):
    other = COMMIT[::-1]
    snapshots = hub_cache / "datasets--mteb--sts12-sts/snapshots"
    jsonl(snapshots / COMMIT / "test.jsonl", graded(12))
    jsonl(snapshots / other / "test.jsonl", graded(9))
    for commit, size in ((COMMIT, 12), (other, 9)):
        found = read_hub(f"hub:mteb/sts12-sts@{commit}", allow_partial=True)
        assert (len(found.sts["STS12"]), found.origins["STS12"].revision) == (size, commit)
    with pytest.raises(InputError, match="the hub cannot be reached"):
        read_hub(f"hub:mteb/sts12-sts@{'0' * 40}", allow_partial=True)


def test_a_release_that_asks_the_hub_for_what_is_there_is_told_not_to(hub_cache, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    jsonl(hub_cache / "datasets--mteb--sts12-sts/snapshots" / COMMIT / "test.jsonl", graded(12))
    download, asked = huggingface_hub.snapshot_download, []

    def asks(*arguments, local_files_only=False, **options):
        asked.append(local_files_only)
        if not local_files_only:
            raise OfflineModeIsEnabled("Cannot reach the hub: offline mode is enabled.")
        return download(*arguments, local_files_only=True, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", asks)
    assert len(read_hub(f"hub:mteb/sts12-sts@{COMMIT}", allow_partial=True).sts["STS12"]) == 12
    assert asked == [False, True]
    with pytest.raises(InputError, match="the hub cannot be reached"):
        read_hub(f"hub:mteb/sts12-sts@{'0' * 40}", allow_partial=True)


@pytest.mark.parametrize("revision", ["", f"@{COMMIT}"])
def test_without_a_network_local_layouts_are_named(revision, hub_cache):
    with pytest.raises(InputError, match=r"the hub cannot be reached .* Known are: SentEval's"):
        find_data([f"hub:mteb/sts12-sts{revision}"], groups=("sts",))


def test_nothing_there_for_the_group(mirror):
    with pytest.raises(InputError, match="hub:mteb/sts12-sts: holds nothing for transfer"):
        find_data(["hub:mteb/sts12-sts"], groups=("transfer",))
