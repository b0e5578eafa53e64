"""Cues: z and p by hand and by scipy, the ranking on real data, neutralised texts; those that a run carries."""

import json

import numpy as np
import pytest
from conftest import SHARED
from scipy.stats import binomtest

from clfa.data.training_cues import CUES, LEAST, TrainingCue, load_cues, terms_of
from clfa.evidence.cues import FLIPS, count_cues, features_of, find_cues, neutralise
from clfa.evidence.results import CueCounts
from clfa.evidence.training_cues import training_cues


def test_z_and_p_by_hand():
    texts = ["odd word"] * 30 + ["plain word"] * 70
    labels = np.array([1] * 28 + [0] * 2 + [1] * 22 + [0] * 48)
    rules = {rule.cue: rule for rule in find_cues(texts, labels, 2)}
    odd = rules["odd"]
    assert odd.label == 1
    assert count_cues([odd], texts, labels) == [CueCounts(28, 30, 50, (28 + 48) / 100)]
    assert odd.z == pytest.approx((28 / 30 - 0.5) / (0.5 * 0.5 / 30) ** 0.5, abs=1e-12)
    # "odd" and "plain" (which "word" is not: every post has it), each format feature in some but not all posts: none
    assert odd.p == pytest.approx(binomtest(28, 30, 0.5, alternative="greater").pvalue * 4, rel=1e-9)
    assert odd.otherwise == 0
    assert [("token", "odd") in features_of(text) for text in ("an odd thing", "ODD", "odds")] == [True, True, False]
    assert "word" not in rules


def test_noise_has_no_cues():
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice([f"w{n}" for n in range(200)], 10)) for _ in range(2000)]
    assert find_cues(texts, generator.integers(0, 3, 2000), 3) == []


def test_no_words_at_all():
    assert find_cues(["", " ", ""] * 10, np.array([0, 1, 1] * 10), 2)[0].cue == "irregular_whitespace"


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mmsd", {}, [("irregular_whitespace", 104.8)]),
        ("mmsd", {"filter": "none"}, [("irregular_whitespace", 120.7), ("#", 50.5), ("funny", 47.1)]),
        ("mmsd2", {}, [("<num>", 20.8), ("?", 17.5), ("...", 17.1)]),
    ],
)
@pytest.mark.skipif(not (SHARED / "data").exists(), reason="research data not here: ../shared/data")
def test_ranking_on_real_data(name, options, expected):
    from clfa.data.published import read_mmsd, read_mmsd2
    from clfa.data.records import Record

    reader = {"mmsd": read_mmsd, "mmsd2": read_mmsd2}[name]
    rows, labels, _ = reader(SHARED / "data" / name, None, **options)
    train = [row for split, row in rows if split == "train" and isinstance(row, Record)]
    texts, truth = [row.text for row in train], np.array([labels.index(str(row.label)) for row in train])
    rules = find_cues(texts, truth, 2)
    assert [(rule.cue, round(rule.z, 1)) for rule in rules[: len(expected)]] == expected
    counts = count_cues(rules[:1], texts, truth)[0]
    if name == "mmsd2":
        assert (counts.with_label, counts.count) == (404, 404)
    elif not options:
        assert round(100 * counts.accuracy, 1) == 99.7


def test_neutralise():
    text = "so  great ... <num> #wow # spaced emoji_15 ☀️ fine…  "
    assert neutralise([text]) == ["so great 2 fine"]
    assert FLIPS["digits to <num>"]("in 2017 , 3 times") == "in <num> , <num> times"
    assert all(change("") == "" for change in FLIPS.values())


def test_a_change_leaves_other_white_space_alone():
    """Otherwise every change would also be the change of white space."""
    for name, change in FLIPS.items():
        if name != "white space":
            assert change("w1  w2  w3 ") == "w1  w2  w3 ", name
    assert FLIPS["hashtags"]("a  b #tag c  d") == "a  b c  d"
    assert FLIPS["emoji"]("so emoji_15") == "so"
    assert FLIPS["ellipsis"]("well ... no . . . yes…") == "well no yes"


def test_terms_are_words_and_pairs_without_punctuation_names_and_links():
    assert terms_of("So excited, so EXCITED!") == ["so", "excited", "so excited", "excited so"]
    assert terms_of("#fun ... @someone x https://a.b/c (www.d.e) 😂 it's") == ["#fun", "x", "😂", "it's", "😂 it's"]
    assert terms_of("今天天气 ok") == ["今天", "天天", "天气", "ok"]
    assert terms_of("a" * 41 + " ! ") == []


def test_cues_of_a_run_by_hand(tmp_path):
    said = {0: ["so excited"] * 3 + ["so plain"] * 97 + ["excited"] * 40 + ["rare word"] * (LEAST - 1)}
    said[1] = ["so excited"] * 41 + ["copied"] * 50 + ["filler"] * 68
    texts = [
        f"{text} n{number}" if text != "copied" else text for own in said.values() for number, text in enumerate(own)
    ]
    labels = np.array([label for label, own in said.items() for _ in own])
    cues = training_cues(texts, labels, ["no", "yes"])
    assert cues.posts == [159, 159]
    by_name = {one.cue: one for one in cues.cues}
    assert by_name["so excited"] == TrainingCue("so excited", 1, [3, 41])
    # 43 of 84 is no hint; copies of one post and what few posts say would disclose them; the pair says no more than its word
    assert not {"excited", "copied", "rare", "rare word"} & by_name.keys()
    assert "plain" in by_name
    assert "so plain" not in by_name
    (tmp_path / CUES).write_text(json.dumps(cues.described()))
    assert load_cues(tmp_path, ["no", "yes"]) == cues
    assert [(one.cue, one.label) for one in cues.of_text("I am SO excited!")] == [("so excited", 1), ("so", 0)]
    assert training_cues([], np.array([], dtype=np.int64), ["no", "yes"]).cues == []
    assert load_cues(tmp_path / "elsewhere", ["no", "yes"]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"layout": 2},
        {"class_names": ["no", "maybe"]},
        {"posts": [100]},
        {"posts": [100, "100"]},
        {"cues": [{"cue": "a", "label": "yes", "posts": [1, 2]}]},
        {"cues": [{"cue": "a", "label": "maybe", "posts": [1, 41]}]},
        {"cues": [{"cue": 7, "label": "yes", "posts": [1, 41]}]},
        {"cues": [{"cue": "a", "label": "yes", "posts": [1, 4100]}]},
        {"cues": [{"cue": "a", "label": "yes", "posts": [1, 41]}] * 1_001},
        {"cues": [[]]},
    ],
)
def test_a_file_that_holds_no_cues_is_refused(tmp_path, change):
    good = {"layout": 1, "class_names": ["no", "yes"], "posts": [100, 100], "cues": []}
    (tmp_path / CUES).write_text(json.dumps(good))
    assert load_cues(tmp_path, ["no", "yes"]) is not None
    (tmp_path / CUES).write_text(json.dumps(good | change))
    with pytest.raises(ValueError, match=r"."):
        load_cues(tmp_path, ["no", "yes"])
