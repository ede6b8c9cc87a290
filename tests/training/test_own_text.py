"""Long texts: what is counted stays bounded, and short texts are counted as ever."""

import re
from itertools import permutations

import numpy as np

from diffcse.training import own_text
from diffcse.training.own_text import own_text_vectors
from tests.training.test_adapt import texts


def test_long_texts_count_with_their_beginning_only(monkeypatch):
    made, _ = texts()
    wanted = own_text_vectors(made, 8, seed=0)
    monkeypatch.setattr(own_text, "_CHARACTERS", 100 * len(made))
    longer = [text + " " + " ".join("zz" for _ in range(200)) for text in made]
    cut = own_text._bounded(longer)
    assert all(len(text) <= 100 and text.startswith(short) for text, short in zip(cut, made, strict=True))
    assert own_text._bounded(made) == made
    assert (own_text_vectors(made, 8, seed=0) == wanted).all()


def test_words_that_all_meet_are_limited_to_the_most_frequent(monkeypatch):
    made, _ = texts()
    monkeypatch.setattr(own_text, "_TOGETHER", 10)
    monkeypatch.setattr(own_text, "_WORDS_OF_LONG", 12)
    vectors = own_text._by_company(made, 8, seed=0)
    assert vectors.shape == (len(made), 8)
    assert np.isfinite(vectors).all()


def test_words_without_spaces_are_learned_as_pairs_of_characters(monkeypatch):
    """Texts of four fields in the same phrases: whoever reads whole runs as words mistakes phrase for field."""
    fields = (
        "银行卡 转账 存款 贷款 利率 账户 信用卡 取现",
        "函数 变量 数组 循环 编译器 线程 接口 指针",
        "米饭 面条 土豆 鸡蛋 豆腐 酱油 青菜 牛肉",
        "机票 酒店 护照 火车 行李 景点 地图 导游",
    )
    phrases = (
        "请问{}和{}有什么关系",
        "我不明白{}为什么影响{}",
        "昨天朋友又说到{}还有{}",
        "有人能介绍一下{}以及{}吗",
        "{}跟{}哪个更重要",
    )
    every = [(phrase.format(*two), n) for n, field in enumerate(fields) for phrase in phrases
             for two in permutations(field.split(), 2)]  # fmt: skip
    chosen = np.random.default_rng(0).permutation(len(every))[:300]
    made, field_of = [every[i][0] for i in chosen], np.array([every[i][1] for i in chosen])

    def precision() -> float:
        vectors = own_text_vectors(made, 8, seed=0)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -1)
        return float((field_of[np.argsort(-cosines, axis=1)[:, :10]] == field_of[:, None]).mean())

    by_pairs = precision()
    monkeypatch.setattr(own_text, "_RUN", re.compile("(?!)"))
    assert by_pairs > 0.95 > 0.85 > precision()


def test_texts_with_spaces_are_left_alone():
    assert own_text._RUN.sub(own_text._pairs, "a naïve C++ test, ещё один") == "a naïve C++ test, ещё один"
    assert own_text._RUN.sub(own_text._pairs, "用C++写。好").split() == ["用", "C++", "写", "。", "好"]
