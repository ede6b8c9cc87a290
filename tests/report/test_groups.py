"""Pages of duplicates and clusters: what they say, and that no text is believed."""

import pytest

from diffcse.report.groups import cluster_page, dedup_page

BAD = "<script>alert(1)</script>"
VERSIONS = {"diffcse": "0"}


def test_a_page_of_duplicates_shows_the_pairs_and_the_threshold():
    facts = {
        "model": BAD, "texts": 10, "kept": 8, "threshold": 0.9, "rule": "as given", "versions": VERSIONS,
        "dropped": {"exact": 43, "MinHash": 0, "embedding": 1},
        "examples": [
            {"kind": "exact", "score": 1.0, "text": BAD, "kept": "b"},
            {"kind": "embedding", "score": 0.912, "text": "a", "kept": BAD},
        ],
    }  # fmt: skip
    page = dedup_page(facts, {"random": [-0.2, 0.1, 0.1, 1.0], "nearest": [0.5], "copies": []})
    assert "<script" not in page
    assert "2 of 10 texts repeat an earlier one" in page
    assert "0.912" in page
    assert page.count("1 of 43 are shown; all are in dropped.csv") == page.count("dropped.csv") == 1
    assert page.count("<title>") == 3  # of the page and of two curves
    assert 'class="mark" d="M87.38 0V100"' in page  # 0.9 of an axis to 1.03


def test_a_page_of_clusters():
    facts = {
        "model": "m", "seed": 0, "texts": 10, "versions": VERSIONS,
        "choices": [{"k": 2, "silhouette": 0.1, "sd": 0}, {"k": 3, "silhouette": 0.2, "sd": 0}],
        "clusters": [{"number": i, "size": 3, "words": ["w", BAD], "typical": BAD} for i in range(3)],
    }  # fmt: skip
    page = cluster_page(facts)
    assert "<script" not in page
    assert "3 clusters: the highest silhouette of 2 tried values of k" in page
    assert "silhouette" not in cluster_page(facts | {"choices": []})


@pytest.mark.browser
def test_tables_fit_a_phone(browser):
    address = f"https://example.org/{'long/' * 20}"
    facts = {
        "model": "m", "seed": 0, "texts": 10_000, "versions": VERSIONS, "choices": [], "kept": 1, "threshold": 0.9,
        "rule": "as given", "dropped": {"exact": 1, "MinHash": 0, "embedding": 1},
        "clusters": [{"number": 0, "size": 10_000, "words": ["configuration"] * 5, "typical": address}],
        "examples": [{"kind": kind, "score": 0.9, "text": address, "kept": address} for kind in ("exact", "embedding")],
    }  # fmt: skip
    page = browser.new_page(viewport={"width": 390, "height": 800})
    for html in (cluster_page(facts), dedup_page(facts, {"random": [], "nearest": [], "copies": []})):
        page.set_content(html)
        wide = page.evaluate(
            "[...document.querySelectorAll('.wide')].map((each) => each.scrollWidth - each.clientWidth)"
        )
        assert wide
        assert set(wide) == {0}
    page.close()
