"""The generated set: balanced, deterministic, and each modality alone says nothing."""

import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from clfa.data import congruity

rng = np.random.default_rng


def test_balanced_over_topic_state_and_tone():
    made = list(congruity.posts(60, seed=5, size=16))
    cells = Counter((post["topic"], post["state"], post["tone"]) for post in made)
    assert set(cells.values()) == {3}
    assert len(cells) == 20
    for key in ("topic", "state", "tone"):
        for value in {post[key] for post in made}:
            labels = Counter(post["label"] for post in made if post[key] == value)
            assert labels["sarcastic"] == labels["not_sarcastic"]
    for post in made:
        fits = (post["state"] == "good") == (post["tone"] == "praise")
        assert post["label"] == ("not_sarcastic" if fits else "sarcastic")


def test_same_seed_same_bytes():
    first, again, other = (list(congruity.posts(20, seed=seed, size=32)) for seed in (1, 1, 2))
    assert [post["image"].tobytes() for post in first] == [post["image"].tobytes() for post in again]
    assert [post["text"] for post in first] == [post["text"] for post in again]
    assert [post["text"] for post in first] != [post["text"] for post in other]


def test_comments_never_use_the_words_that_tell_the_states_apart():
    for topic in congruity.TOPICS:
        good, bad = (
            {word for n in range(200) for word in re.findall(r"[a-z]+", congruity.scene_caption(topic, state, rng(n)))}
            for state in congruity.STATES
        )
        said = {
            word
            for n in range(200)
            for tone in congruity.TONES
            for word in congruity.comment(topic, tone, rng(n)).split()
        }
        assert good ^ bad
        assert not said & (good ^ bad) - {"with", "an", "one", "over", "off", "the", "a", "at", "by", "on"}


def test_vocabulary_covers_everything_said():
    words = set(congruity.words())
    texts = [post["text"] for post in congruity.posts(200, seed=0, size=16)]
    texts += [caption for _, caption in islice(congruity.captioned_drawings(200, seed=0, size=16), 200)]
    assert {word for text in texts for word in text.replace(",", " ").replace(".", " ").split()} <= words
    assert len(words) < 250


GOOD = {
    "calm",
    "fair",
    "quiet",
    "freshly",
    "golden",
    "blooming",
    "colourful",
    "green",
    "moving",
    "running",
    "intact",
    "glowing",
    "cheerful",
}
BAD = {
    "storm",
    "stormy",
    "lightning",
    "toppled",
    "burnt",
    "smoke",
    "stopped",
    "fallen",
    "wilted",
    "dead",
    "dry",
    "broken",
    "shattered",
    "cracks",
}
PRAISE = {"adore", "best", "brilliant", "enjoy", "fantastic", "great", "happier", "lovely", "pleased"}
COMPLAINT = {"angrier", "annoyed", "bad", "dreadful", "hate", "horrible", "lousy", "miserable", "pathetic", "unhappy"}


def test_teachers_captions_fit_their_comments():
    """By the meaning of the words: what good scenes show goes with praise, what bad ones show with complaint."""
    agree = 0
    for number, (_, text) in enumerate(congruity.captioned_drawings(600, seed=3, size=16)):
        caption, _, opinion = text.partition(". ")
        if number % 3 != 1:  # a caption or a comment alone
            continue
        seen, said = set(re.findall(r"[a-z]+", caption)), set(re.findall(r"[a-z]+", opinion))
        if seen & (GOOD | BAD) and said & (PRAISE | COMPLAINT):
            assert bool(seen & GOOD) != bool(seen & BAD), caption
            assert bool(seen & GOOD) == bool(said & PRAISE), text
            agree += 1
    assert agree >= 50


@pytest.mark.parametrize("count", [0, 7, -20])
def test_unbalanced_counts_are_refused(count):
    with pytest.raises(ValueError, match="multiples of 20"):
        list(congruity.posts(count, seed=0))


@pytest.mark.slow
def test_demo_end_to_end(tmp_path):
    """One seed of the whole demo: floors at chance, CLFA far above no alignment, report without outside references."""
    from clfa.evidence.results import Demo, read_result
    from clfa.studies.demo import demo

    result = demo(tmp_path / "demo", seeds=1)
    assert read_result(Demo, tmp_path / "demo" / "results.json") == result
    found = {row.system: row.metrics["accuracy"] for row in result.systems}
    assert set(found) == {"majority", "teacher_svm", "text_only", "image_only", "no_alignment", "clfa"}
    for name in ("majority", "text_only", "image_only"):
        assert abs(found[name].value - 0.5) <= 0.07
    assert found["clfa"].low > found["no_alignment"].high
    assert [each.chosen for each in result.fit.on_validation].count(True) == 1
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "What clfa fit finds by itself" in page
    assert "http" not in page
    assert page.count("data:image/") >= 10

    # on this set only the interplay of word and picture tells the label: no additive model can be above chance
    from clfa.evidence.probe import probe

    probed = probe(tmp_path / "demo" / "runs" / "clfa" / "seed-0", "test", 300, 0)
    assert abs(probed.emap.metrics["accuracy"].value - 0.5) <= 0.1
    assert probed.emap.model["accuracy"].value >= 0.85
    assert probed.verdict.startswith("multimodal gain")
