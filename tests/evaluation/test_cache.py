"""The cache gives back what was kept for exactly this key, and nothing else."""

from diffcse.evaluation.cache import ResultCache, code_hash, default_cache_dir


def test_a_value_comes_back_for_its_key_alone(tmp_path):
    cache = ResultCache(tmp_path / "c")
    key = {"encoder": "x", "settings": {"folds": 10}}
    assert cache.get(key) is None
    cache.put(key, [1, {"a": 2.5}])
    assert ResultCache(tmp_path / "c").get(key) == [1, {"a": 2.5}]
    for other in ({**key, "encoder": "y"}, {**key, "settings": {"folds": 5}}, {**key, "more": None}):
        assert cache.get(other) is None
    assert cache.hits == 0


def test_a_torn_file_or_one_of_another_key_counts_as_not_there(tmp_path):
    cache = ResultCache(tmp_path)
    cache.put({"k": 1}, 5)
    (file,) = tmp_path.iterdir()
    text = file.read_text()
    file.write_text(text[:-5])
    assert cache.get({"k": 1}) is None
    file.write_text(text.replace('"k": 1', '"k": 2'))
    assert cache.get({"k": 1}) is None


def test_without_a_folder_nothing_is_kept(tmp_path):
    cache = ResultCache(None)
    cache.put({"k": 1}, 5)
    assert cache.get({"k": 1}) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    cache = ResultCache(tmp_path / "file" / "below")
    cache.put({"k": 1}, 5)
    assert cache.get({"k": 1}) is None


def test_the_folder_follows_xdg_and_the_code_hash_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "diffcse" / "evaluations"
    assert len(code_hash()) == 64
