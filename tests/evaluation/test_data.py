"""What a folder holds: every layout, each set once, training splits aside."""

import pytest

from diffcse.errors import InputError
from diffcse.evaluation.data import find_data, find_sets, read_texts
from diffcse.evaluation.sts import OWN_PAIRS, named_pairs, read_pairs, split_of, text_variant
from tests.evaluation import folders


def test_all_layouts_at_once(tmp_path):
    folders.tsv(tmp_path / "mine", "pets")
    folders.stsb(tmp_path / "downstream", "dev")
    folders.trec(tmp_path / "downstream")
    folders.collection(tmp_path / "search/tiny", {"d": "the sea"}, {"q": "sea"}, [("q", "d", 1)])
    data = find_data([tmp_path / "mine", tmp_path, tmp_path / "search"], allow_partial=True)
    assert (list(data.sts), list(data.transfer), list(data.collections)) == (["STSB-dev", "pets"], ["TREC"], ["tiny"])
    assert list(data.searches()) == ["tiny", "STSB-dev"]
    assert list(data.shapes()) == ["STSB-dev"]
    assert data.names() == ["STSB-dev", "pets", "TREC", "tiny"]


def test_the_pairs_that_come_along_go_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = read_pairs(OWN_PAIRS)
    assert find_data(["pairs"], groups=("sts",)).sts["pairs"].sha256 == find_sets("pairs")["pairs"].sha256 == own.sha256
    assert named_pairs("pairs") == OWN_PAIRS
    folders.tsv(tmp_path / "pairs", "pets")
    for read in (named_pairs, find_sets, lambda name: find_data([name])):
        with pytest.raises(InputError, match=r"write \./pairs"):
            read("pairs")
    assert list(find_data(["./pairs"]).sts) == list(find_data([tmp_path / "pairs"]).sts) == ["pets"]


def test_only_what_is_asked_for_is_read(tmp_path):
    folders.stsb(tmp_path, "dev")
    folders.write(tmp_path / "TREC/train_5500.label", "nonsense")
    assert list(find_data([tmp_path], groups=("sts",), allow_partial=True).sts) == ["STSB-dev"]
    with pytest.raises(InputError, match="TREC is incomplete"):
        find_data([tmp_path], groups=("transfer",), allow_partial=True)


def test_what_is_not_chosen_may_be_broken(tmp_path):
    folders.stsb(tmp_path, "dev", n=1500)
    folders.stsb(tmp_path, "test", n=30)  # not whole
    folders.write(tmp_path / "TREC/train_5500.label", "nonsense")
    assert list(find_data([tmp_path], only=["STSB-dev"]).sts) == ["STSB-dev"]


def test_the_folder_given_first_counts_and_a_note_says_so(tmp_path):
    folders.tsv(tmp_path / "a", "pets", n=12)
    folders.tsv(tmp_path / "b", "pets", n=18)
    data = find_data([tmp_path / "a", tmp_path / "b"], groups=("sts",))
    assert len(data.sts["pets"]) == 12
    assert data.notes == ["pets is also in b; the folder given first is used"]


def test_training_splits_are_left_out_unless_named(tmp_path):
    folders.tsv(tmp_path, "STSB-train")
    folders.tsv(tmp_path, "STSB-dev")
    assert list(find_data([tmp_path], groups=("sts",), allow_partial=True).sts) == ["STSB-dev"]
    assert list(find_data([tmp_path], groups=("sts",), only=["STSB-train"], allow_partial=True).sts) == ["STSB-train"]
    assert list(find_sets(tmp_path, allow_partial=True)) == ["STSB-dev", "STSB-train"]


def test_sets_missing_for_the_average_are_named(tmp_path):
    folders.tsv(tmp_path, "STS12")
    note = find_data([tmp_path], groups=("sts",), allow_partial=True).notes[0]
    assert note == "no average over the seven STS sets: STS13, STS14, STS15, STS16, STSB-test, SICKR-test missing"


def test_mistakes_are_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_data([tmp_path / "none"])
    with pytest.raises(InputError, match=r"holds nothing for transfer\. Known are.* It holds nothing"):
        find_data([tmp_path], groups=("transfer",))
    folders.tsv(tmp_path, "pets")
    with pytest.raises(InputError, match="no set cats"):
        find_data([tmp_path], groups=("sts",), only=["cats"])
    with pytest.raises(InputError, match="fewer than 2"):
        read_texts(folders.write(tmp_path / "one.txt", "one\n\none \n"))


def test_texts_are_for_geometry(tmp_path):
    path = folders.write(tmp_path / "t.txt", "one\n\n two \none\n")
    data = find_data([], texts=[path])
    assert data.shapes()["t.txt"].sentences == ("one", "two", "one")


@pytest.mark.parametrize(
    ("sentences", "variant"),
    [
        (["A man, a plan.", "So what?"], "natural"),
        (["A man , a plan .", "So what ?"], "tokenised"),
        (["a man , a plan .", "so what ?"], "tokenised, lower-cased"),
        (["a man, a plan.", "no mark"], "lower-cased"),
        (["It rose 1,650 to 2.5 points ."], "tokenised"),
        (["A man rises"], "natural"),
    ],
)
def test_text_variants(sentences, variant):
    assert text_variant(sentences) == variant


def test_splits():
    names = ("STS12", "STSB-dev", "STSB-test", "SICKR-trial", "SICKR-train", "mine-test")
    assert [split_of(name) for name in names] == ["test", "dev", "test", "dev", "train", "unknown"]
