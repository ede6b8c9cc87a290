"""The pair files: read to the character or refused with a place. The scores: by hand on six pairs."""

import hashlib
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from diffcse.errors import InputError
from diffcse.evaluation import sts
from diffcse.evaluation.data import find_sets
from diffcse.evaluation.sts import PairSet, read_pairs, score_cosines, score_sts
from diffcse.text.lines import INVISIBLE

GOOD = '5.0\tA man is "dancing.\tA man dances.\tvideo\n0\tOne.\tTwo.\tvideo\n2.5\tA"\tB\tforum\n'


def write(folder, data, name="set.tsv"):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


# Reading


def test_reads_fields_as_they_are(tmp_path):
    pairs = read_pairs(write(tmp_path, GOOD))
    assert pairs.name == "set"
    assert len(pairs) == 3
    assert pairs.scores.tolist() == [5.0, 0.0, 2.5]
    assert pairs.first == ('A man is "dancing.', "One.", 'A"')
    assert pairs.second == ("A man dances.", "Two.", "B")
    assert pairs.subsets == ("video", "video", "forum")
    assert pairs.sha256 == hashlib.sha256(GOOD.encode()).hexdigest()


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.removesuffix("\n").encode(),
    ],
)
def test_a_byte_order_mark_line_ends_and_a_missing_last_one_change_nothing(tmp_path, data):
    pairs, plain = read_pairs(write(tmp_path, data)), read_pairs(write(tmp_path, GOOD, "plain.tsv"))
    assert pairs.scores.tolist() == plain.scores.tolist()
    assert (pairs.first, pairs.second, pairs.subsets) == (plain.first, plain.second, plain.subsets)


@pytest.mark.parametrize("end", ["", "\t", "\t "])
def test_without_a_subset_the_set_is_its_own(tmp_path, end):
    pairs = read_pairs(write(tmp_path, "".join(f"{i}\ta\tb{end}\n" for i in range(3)), "mine.tsv"))
    assert pairs.subsets == ("mine",) * 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("1\ta\tb\n2\ta\n3\ta\tb\n", "set.tsv, line 2: has 2 tab-separated fields"),
        ("1\ta\tb\n2\ta\tb\tc\td\n3\ta\tb\n", "set.tsv, line 2: has 5 tab-separated fields"),
        ("1\ta\tb\n\n3\ta\tb\n", "set.tsv, line 2: has 1 tab-separated fields"),
        ("1\ta\tb\n2\ta\tb\tc\n3\ta\tb\n", "set.tsv, line 2: has 4 fields where line 1 has 3"),
        ("score\ta\tb\n2\ta\tb\n3\ta\tb\n", "set.tsv, line 1, field 1 (score): 'score' is not a finite"),
        ("1\ta\tb\n2\ta\tb\nnan\ta\tb\n", "set.tsv, line 3, field 1 (score): 'nan'"),
        ("1\ta\tb\n2\ta\tb\n-inf\ta\tb\n", "set.tsv, line 3, field 1 (score): '-inf'"),
        ("1\ta\tb\n1e999\ta\tb\n3\ta\tb\n", "set.tsv, line 2, field 1 (score): '1e999'"),
        ("1\ta\tb\n\ta\tb\n3\ta\tb\n", "set.tsv, line 2, field 1 (score): ''"),
        ("1\ta\tb\n2\t \tb\n3\ta\tb\n", "set.tsv, line 2, field 2 (sentence 1): is empty"),
        ("1\ta\tb\n2\ta\t\n3\ta\tb\n", "set.tsv, line 2, field 3 (sentence 2): is empty"),
        (b"1\ta\tb\n2\ta\tcaf\xe9\n3\ta\tb\n", "set.tsv, line 2, field 3: byte 0xe9 is not UTF-8"),
        (b"\xef\xbb\xbf1\t\xff\tb\n2\ta\tb\n3\ta\tb\n", "set.tsv, line 1, field 2: byte 0xff is not UTF-8"),
        ("1\ta\tb\n2\ta\tb\n".encode("utf-16"), "set.tsv, line 1, field 1: byte 0xff is not UTF-8"),
        ("", "set.tsv: is empty"),
        ("\n\n", "set.tsv: is empty"),
        ("1\ta\tb\n2\ta\tb\n", "set.tsv: has 2 pairs; a correlation needs at least 3"),
        ("2\ta\tb\n2\ta\tb\n2.0\ta\tb\n", "set.tsv: every score is 2"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, data, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read_pairs(write(tmp_path, data))


def test_no_file_and_a_folder_are_input_errors(tmp_path):
    for path in (tmp_path / "none.tsv", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_pairs(path)


def read_bytes(data):
    with tempfile.TemporaryDirectory() as folder:
        return read_pairs(write(Path(folder), data))


def text(exclude="\t\n\r"):
    letters = st.characters(exclude_categories=["Cs"], exclude_characters=exclude)
    return st.text(letters, min_size=1).filter(str.strip)


finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(finite, text(), text()), min_size=3, max_size=6))
@example([(1.0, "a\u2028b", "\x85c"), (2.0, "\ufeffd\x0b", '"e'), (3.0, "\x1cf\x0c", "\x00")])
def test_any_text_without_tabs_and_line_ends_comes_back(rows):
    data = "".join(f"{score!r}\t{a}\t{b}\n" for score, a, b in rows)
    if len({score for score, _, _ in rows}) == 1:
        with pytest.raises(InputError, match="every score is"):
            read_bytes(data)
        return
    pairs = read_bytes(data)
    expected = [(score, *(INVISIBLE.sub("", part) for part in parts)) for score, *parts in rows]
    assert list(zip(pairs.scores.tolist(), pairs.first, pairs.second, strict=True)) == expected


PIECES = [b"\t", b"\n", b"\r\n", b"1", b"2.5", b"nan", b"a", b'"', b"\xef\xbb\xbf", b"\xff", b" "]
garbage = st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))


@settings(max_examples=300, deadline=None)
@given(garbage)
@example(b"1\ta\tb\n2\ta\tb\n3\ta\tb")
def test_garbage_is_pairs_or_an_input_error(data):
    try:
        pairs = read_bytes(data)
    except InputError:
        return
    assert isinstance(pairs, PairSet)
    assert len(pairs) >= 3
    assert np.isfinite(pairs.scores).all()
    assert all(s.strip() for s in pairs.first + pairs.second)


# Finding


def test_sets_are_found_by_name_and_other_files_left_alone(tmp_path):
    for name in ("b.tsv", "a.tsv", "notes.txt", "._a.tsv"):
        write(tmp_path, GOOD, name)
    assert list(find_sets(tmp_path)) == ["a", "b"]
    assert find_sets(str(tmp_path))["a"].name == "a"


def test_a_folder_without_sets_says_what_it_holds(tmp_path):
    with pytest.raises(InputError, match=r"holds no graded pairs.* It holds nothing"):
        find_sets(tmp_path)
    write(tmp_path, GOOD, "STS12.csv")
    with pytest.raises(InputError, match=r"holds no graded pairs.* It holds STS12\.csv"):
        find_sets(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_sets(tmp_path / "STS12.csv")


def test_a_known_set_must_be_whole(tmp_path):
    write(tmp_path, GOOD, "STSB-dev.tsv")
    with pytest.raises(InputError, match=r"STSB-dev\.tsv: 1500 pairs expected, 3 found"):
        find_sets(tmp_path)
    assert len(find_sets(tmp_path, allow_partial=True)["STSB-dev"]) == 3
    whole = "".join(f"{i % 5}\ta\tb\n" for i in range(500))
    (tmp_path / "STSB-dev.tsv").unlink()
    write(tmp_path, whole, "SICKR-trial.tsv")
    assert len(find_sets(tmp_path)["SICKR-trial"]) == 500


# Scoring

SIX = PairSet(
    name="six",
    scores=np.array([1.0, 2.0, 3.0, 4.0, 5.0, 5.0]),
    first=("a", "b", "c", "d", "e", "f"),
    second=("u",) * 6,
    subsets=("x", "x", "x", "x", "y", "y"),
    sha256="",
)


def on_a_circle(angles):
    """Sentences to the plane, at these degrees."""
    return lambda sentences: np.array(
        [[np.cos(np.radians(angles[s])), np.sin(np.radians(angles[s]))] for s in sentences]
    )


def test_six_pairs_by_hand():
    # Cosines fall as the angle grows: from the least, the pairs rank 6 4 5 3 1 2.
    encode = on_a_circle({"u": 0, "a": 10, "b": 30, "c": 20, "d": 40, "e": 60, "f": 50})
    six = PairSet("six", SIX.scores, SIX.first, SIX.second, ("x", "x", "x", "y", "y", "y"), "")
    score = score_sts(encode, six)
    # all: gold ranks 1 2 3 4 5.5 5.5, cosine ranks 6 4 5 3 1 2.
    # Deviations -2.5 -1.5 -.5 .5 2 2 and 2.5 .5 1.5 -.5 -2.5 -1.5: products sum to -16, squares to 17, 17.5.
    assert score.all.spearman == pytest.approx(-100 * 16 / (17 * 17.5) ** 0.5)
    # x: ranks 1 2 3 and 3 1 2, rho = 1 - 6 (4 + 1 + 1) / (3 * 8) = -.5.
    # y: ranks 1 2.5 2.5 and 3 1 2, deviations -1 .5 .5 and 1 -1 0: -1.5 / sqrt(1.5 * 2).
    x, y = -50, -100 * 1.5 / 3**0.5
    assert {s: c.spearman for s, c in score.subsets.items()} == pytest.approx({"x": x, "y": y})
    assert score.mean.spearman == pytest.approx((x + y) / 2)
    assert score.wmean.spearman == pytest.approx((3 * x + 3 * y) / 6)
    degrees = [10, 30, 20, 40, 60, 50]
    expected = 100 * stats.pearsonr(np.cos(np.radians(degrees)), six.scores)[0]
    assert score.all.pearson == pytest.approx(expected)
    assert score.cosines == pytest.approx(np.cos(np.radians(degrees)))


def test_wmean_counts_pairs_and_mean_counts_subsets():
    pairs = PairSet("p", np.array([1.0, 2, 3, 4, 1, 2, 3]), ("",) * 7, ("",) * 7, tuple("xxxxyyy"), "")
    score = score_cosines(np.array([0.1, 0.2, 0.3, 0.4, 0.3, 0.2, 0.1]), pairs)
    assert score.subsets["x"].spearman == pytest.approx(100)
    assert score.subsets["y"].spearman == pytest.approx(-100)
    assert score.mean.spearman == pytest.approx(0)
    assert score.wmean.spearman == pytest.approx(100 * (4 - 3) / 7)
    assert (score.mean.n, score.wmean.n, score.all.n) == (7, 7, 7)


def test_a_subset_without_a_correlation_is_named_and_left_out_of_the_means():
    encode = on_a_circle({"u": 0, "a": 60, "b": 50, "c": 40, "d": 30, "e": 20, "f": 10})
    score = score_sts(encode, SIX)  # y has two pairs
    assert list(score.subsets) == ["x"]
    assert score.unscored == ("y",)
    assert score.mean == score.wmean == score.subsets["x"]
    one_each = PairSet("p", SIX.scores, SIX.first, SIX.second, SIX.first, "")
    score = score_sts(encode, one_each)
    assert score.mean is None
    assert score.wmean is None
    assert score.all.spearman > 90


def test_equal_cosines_score_zero_and_lengths_do_not_matter():
    assert score_sts(lambda s: np.full((len(s), 3), 0.1), SIX).all == sts.Correlation(6, 0.0, 0.0)
    angles = {"u": 0, "a": 10, "b": 30, "c": 20, "d": 40, "e": 60, "f": 50}
    longer = score_sts(lambda s: on_a_circle(angles)(s) * np.arange(1, len(s) + 1)[:, None], SIX)
    assert longer.all.pearson == pytest.approx(score_sts(on_a_circle(angles), SIX).all.pearson)


def test_the_dictionary_is_json():
    score = score_sts(on_a_circle({"u": 0, "a": 10, "b": 30, "c": 20, "d": 40, "e": 60, "f": 50}), SIX)
    plain = json.loads(json.dumps(score.to_dict(), allow_nan=False))
    assert plain == score.to_dict()
    assert list(plain) == ["name", "n", "all", "subsets", "unscored", "mean", "wmean"]
    assert plain["all"]["n"] == 6


def test_embeddings_that_are_not_finite_name_the_sentence():
    with pytest.raises(InputError, match="'c'"):
        score_sts(lambda s: np.array([[np.nan if t == "c" else 1.0] for t in s]), SIX)
