"""SentEval's layout: read as SentEval reads it, counted, and refused with the place of what is wrong."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcse.errors import InputError
from diffcse.evaluation import downstream
from diffcse.evaluation.downstream import (
    STS_SUBSETS,
    Examples,
    downstream_root,
    read_downstream_sts,
    read_downstream_transfer,
)
from tests.evaluation import folders


def whole(root):
    return read_downstream_sts(root, allow_partial=True)


def test_a_year_is_its_subsets_one_after_the_other(tmp_path):
    pairs = whole(folders.sts_year(tmp_path, "STS12"))["STS12"]
    assert len(pairs) == 8 * 5
    assert list(dict.fromkeys(pairs.subsets)) == list(STS_SUBSETS["STS12"])
    expected = [row for seed in range(5) for row in folders.pairs(8, seed)]
    assert list(zip(pairs.scores.tolist(), pairs.first, pairs.second, strict=True)) == expected


def test_pairs_without_a_grade_are_left_out_and_spaces_are_one_space(tmp_path):
    root = folders.sts_year(tmp_path, "STS13")
    folder = root / "STS/STS13-en-test"
    folders.write(folder / "STS.input.FNWN.txt", "a  b \tc\r\nno grade\td\ne\tf\ng\th\n")
    folders.write(folder / "STS.gs.FNWN.txt", "1.5\r\n\n2\n")  # the last, blank one is missing altogether
    pairs = whole(root)["STS13"]
    rows = [(s, a, b) for s, a, b, subset in zip(pairs.scores, pairs.first, pairs.second, pairs.subsets, strict=True)
            if subset == "FNWN"]  # fmt: skip
    assert rows == [(1.5, "a b", "c"), (2.0, "e", "f")]


def test_a_missing_subset_is_named_and_may_be_allowed(tmp_path):
    root = folders.sts_year(tmp_path, "STS16")
    (root / "STS/STS16-en-test/STS.gs.plagiarism.txt").unlink()
    with pytest.raises(InputError, match=r"STS16 is incomplete: STS\.gs\.plagiarism\.txt missing"):
        read_downstream_sts(root)
    assert "plagiarism" not in whole(root)["STS16"].subsets


def test_counts_are_checked(tmp_path):
    folders.stsb(tmp_path, "dev")
    with pytest.raises(InputError, match=r"sts-dev\.csv: 1500 pairs expected, 30 found"):
        read_downstream_sts(tmp_path)
    assert list(whole(tmp_path)) == ["STSB-dev"]


def test_benchmark_and_sick(tmp_path):
    folders.stsb(tmp_path, "test")
    folders.sick(tmp_path, "test_annotated")
    found = whole(tmp_path)
    assert list(found) == ["STSB-test", "SICKR-test"]
    for pairs, subset in zip(found.values(), ("MSRvid", "NEUTRAL"), strict=True):
        rows = list(zip(pairs.scores.tolist(), pairs.first, pairs.second, strict=True))
        assert rows == folders.pairs(30)
        assert set(pairs.subsets) == {subset}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("STS/STSBenchmark/sts-dev.csv", "a\tb\tc\td\t1\te\tf\na\tb\n", "sts-dev.csv, line 2: has 2 tab-separated"),
        ("STS/STSBenchmark/sts-dev.csv", "a\tb\tc\td\tx\te\tf\n", "line 1, field 5 (score): 'x' is not a finite"),
        ("STS/STSBenchmark/sts-dev.csv", "a\tb\tc\td\t1\t \tf\n", "line 1, field 6: the sentence is empty"),
        ("STS/STSBenchmark/sts-dev.csv", "a\tb\tc\td\t1\te\tf\n", "1 graded pairs have no correlation"),
        ("SICK/SICK_trial.txt", "head\n1\ta\tb\tnan\tNEUTRAL\n", "SICK_trial.txt, line 2, field 4 (score): 'nan'"),
        ("SICK/SICK_trial.txt", " \n", "SICK_trial.txt: is empty"),
    ],
)
def test_a_bad_row_is_named_with_its_place(tmp_path, file, text, message):
    folders.write(tmp_path / file, text)
    with pytest.raises(InputError, match=re.escape(message)):
        whole(tmp_path)


def test_more_grades_than_pairs_are_refused(tmp_path):
    root = folders.sts_year(tmp_path, "STS13")
    folders.write(root / "STS/STS13-en-test/STS.gs.OnWN.txt", "1\n" * 9)
    with pytest.raises(InputError, match=r"STS\.gs\.OnWN\.txt, line 9: a grade without a pair"):
        whole(root)


garbage = st.lists(st.sampled_from(["1", "\t", "\n", "a", "nan", "", " ", "\r\n", "é"]), max_size=40).map("".join)


@settings(max_examples=150)
@given(garbage, st.sampled_from(["STS/STSBenchmark/sts-dev.csv", "SICK/SICK_trial.txt", "TREC/TREC_10.label"]))
def test_garbage_is_a_set_or_an_input_error(tmp_path_factory, text, file):
    root = tmp_path_factory.mktemp("g")
    folders.trec(root)
    folders.write(root / file, text)
    try:
        found = [*whole(root).values(), *read_downstream_transfer(root, allow_partial=True).values()]
    except InputError:
        return
    assert found


def test_the_root_is_found_from_its_parent(tmp_path):
    folders.stsb(tmp_path / "downstream", "dev")
    assert downstream_root(tmp_path) == tmp_path / "downstream" == downstream_root(tmp_path / "downstream")
    (tmp_path / "other").mkdir()
    assert downstream_root(tmp_path / "other") is None


# Transfer


def test_binary_tasks_are_sorted_as_senteval_sorts_them(tmp_path):
    folders.write(tmp_path / "CR/custrev.pos", "two  words \none\n\nd\xe9j\xe0 vu encore\n", "latin-1")
    folders.write(tmp_path / "CR/custrev.neg", "bad\nso bad\n")
    task = read_downstream_transfer(tmp_path, allow_partial=True)["CR"]
    # by number of words, then label; CR really has an empty line
    assert task.train.first == ("", "bad", "one", "so bad", "two words", "d\xe9j\xe0 vu encore")
    assert task.train.labels.tolist() == [1, 0, 1, 0, 1, 1]
    assert (task.dev, task.test, task.train.second) == (None, None, None)


def test_tasks_with_splits(tmp_path):
    folders.sst2(tmp_path)
    folders.trec(tmp_path)
    folders.mrpc(tmp_path)
    tasks = read_downstream_transfer(tmp_path, allow_partial=True)
    assert list(tasks) == ["SST2", "TREC", "MRPC"]
    assert [part is not None for part in (tasks["SST2"].dev, tasks["TREC"].dev, tasks["MRPC"].dev)] == [
        True,
        False,
        False,
    ]
    assert set(tasks["TREC"].train.labels.tolist()) == {3, 5}  # HUM and NUM
    assert not any("dist" in sentence for sentence in tasks["TREC"].train.first)  # the fine label is no word of it
    mrpc = tasks["MRPC"].train
    expected = {(a, b): int(score > 2) for score, a, b in folders.pairs(60, 0)}
    rows = list(zip(mrpc.first, mrpc.second, mrpc.labels.tolist(), strict=True))
    assert {(a, b): y for a, b, y in rows} == expected
    assert rows == sorted(rows, key=lambda row: (len(row[0].split()), len(row[1].split()), row[2]))


def test_transfer_counts_and_files_are_checked(tmp_path):
    folders.mrpc(tmp_path)
    with pytest.raises(InputError, match=r"MRPC has 4076 \+ 1725 examples, 60 \+ 60 found"):
        read_downstream_transfer(tmp_path)
    (tmp_path / "MRPC/msr_paraphrase_test.txt").unlink()
    with pytest.raises(InputError, match=r"MRPC is incomplete: MRPC/msr_paraphrase_test\.txt missing"):
        read_downstream_transfer(tmp_path, allow_partial=True)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("SST/binary/sentiment-dev", "good\t2\n", "sentiment-dev, line 1: each line is sentence<TAB>label"),
        ("TREC/TREC_10.label", "NUM:x a\nHELP:x b\n", "TREC_10.label, line 2: each line begins with ABBR"),
        ("MRPC/msr_paraphrase_test.txt", "head\n1\t2\t3\ta\n", "msr_paraphrase_test.txt, line 2: each line is label"),
        ("MRPC/msr_paraphrase_test.txt", "head\n1\t2\t3\ta\tb\n", "examples of one class only"),
    ],
)
def test_a_bad_example_is_named_with_its_place(tmp_path, file, text, message):
    folders.sst2(tmp_path)
    folders.trec(tmp_path)
    folders.mrpc(tmp_path)
    folders.write(tmp_path / file, text)
    with pytest.raises(InputError, match=re.escape(message)):
        read_downstream_transfer(tmp_path, allow_partial=True)


def test_hashes_follow_the_content(tmp_path):
    folders.trec(tmp_path / "a")
    folders.trec(tmp_path / "b")
    a, b = (read_downstream_transfer(tmp_path / x, allow_partial=True)["TREC"] for x in "ab")
    assert a.sha256 == b.sha256
    folders.trec(tmp_path / "b", n=62)
    assert read_downstream_transfer(tmp_path / "b", allow_partial=True)["TREC"].sha256 != a.sha256
    assert isinstance(a.train, Examples)
    assert set(downstream.EXAMPLES_IN) == {"MR", "CR", "SUBJ", "MPQA", "SST2", "TREC", "MRPC"}
