"""A set in two languages, one without spaces and more of one label: floors, cues and warnings read both."""

import logging

import numpy as np
import pytest
from conftest import make_dataset
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from clfa import commands
from clfa.data.records import Record
from clfa.data.rows import load_split
from clfa.data.scripts import script_of, split_words
from clfa.evidence.audit import audit
from clfa.evidence.cues import find_cues
from clfa.evidence.languages import language_of
from clfa.evidence.slices import groups
from clfa.model.reading import misreadings
from clfa.studies.tiny import small_configs, word_tokenizer, write_encoder

COUNTS = {"train": 1500, "validation": 200, "test": 600}
LABELS = ["no", "yes"]
COMMON = (
    "the a is it was on in of and to we they he she this that with for at from my your our day week year house street "
    "train window coffee paper music phone table dinner garden river weather game story friend city morning light road shop "
    "ticket picture water door look go take make come see walk wait talk read write old new small big long short early late "
    "again here there now then today tomorrow"
)
ENGLISH = COMMON.split()
HAN = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种"
    "面而方后多定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本"
    "去把性应开它合还因由其些然前外天政四日那社义事平形相全表间样与关各重新线内数正心反你明看原又么利比或"
    "但质气第向道命此变条只没结解问意建月公无系军很情者最立代想已通并提直题"
)
# inside a language these carry the label
ENGLISH_WORDS = (["awful", "dreadful", "boring", "broken"], ["lovely", "splendid", "charming", "delicious"])
HAN_WORDS = (["糟糕", "讨厌", "难吃", "失望"], ["漂亮", "喜欢", "快乐", "好吃"])
TELLING = 0.75  # of the posts hold such a word
CHINESE = (0.41, 0.83)  # share of Chinese posts by label: 62 % of all


def bilingual(split: str, number: int) -> Record:
    """A post; its language is more of one label, and a word or a pair of Han letters gives the label inside of each."""
    generator = np.random.default_rng([sum(map(ord, split)), number])
    label = number % 2
    chinese, telling = generator.random() < CHINESE[label], generator.random() < TELLING
    words = list(generator.choice(list(HAN) if chinese else ENGLISH, generator.integers(8, 15)))
    if telling:
        known = (HAN_WORDS if chinese else ENGLISH_WORDS)[label]
        words.insert(int(generator.integers(len(words))), str(generator.choice(known)))
    return Record(f"{split}-{number}", ("" if chinese else " ").join(words), None, LABELS[label])


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("bilingual") / "posts", COUNTS, bilingual, images="none")


@pytest.fixture(scope="module")
def english_encoder(tmp_path_factory):
    """A small BERT whose vocabulary holds English words alone."""
    folder = tmp_path_factory.mktemp("encoders") / "english"
    tokenizer = word_tokenizer([*ENGLISH, *ENGLISH_WORDS[0], *ENGLISH_WORDS[1]])
    write_encoder(folder, small_configs(len(tokenizer), 32, 32)["bert"], tokenizer, 32)
    return str(folder)


def test_words_of_scripts_without_spaces():
    assert split_words("I love 这部电影, ฉันรัก") == ["I", "love", "这", "部", "电", "影", ",", "ฉั", "น", "รั", "ก"]
    assert split_words("看iPhone电影院。", pairs=True) == ["看", "iPhone", "电影", "影院", "。"]
    for text in ["plain  words <num> #tag", "Привет, мир", "안녕하세요 세계", "q\u00a0r\tżółć", ""]:
        assert split_words(text, pairs=True) == split_words(text) == text.split()
    of_text = {"no: 这部电影很好": "Han", "カタカナと": "Katakana", "Привет, Bob": "Cyrillic", "ＦＵＬＬ": "Latin"}
    assert {text: script_of(text) for text in of_text} == of_text
    assert script_of("123 !") is script_of("") is script_of("😀") is None
    assert (language_of("今天天气真好我很喜欢"), language_of("你好"), language_of("so nice")) == (
        "zh",
        "short",
        "short",
    )


def test_floor_reads_both_languages(posts):
    """On white-space tokens the Chinese posts are one unseen word each, and only the language is left to read."""
    found = audit(posts).floors["tfidf_logistic_regression"]["accuracy"].value
    train, test = load_split(posts, "train"), load_split(posts, "test")
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    model = make_pipeline(words, LogisticRegression(C=10, max_iter=1000)).fit(train.texts, train.labels)
    before = (model.predict(test.texts) == test.labels).mean()
    assert before == pytest.approx(0.742, abs=0.02)
    assert found == pytest.approx(0.915, abs=0.02)


def test_cues_are_the_script_the_language_and_what_is_planted_inside_of_each(posts):
    """White-space tokens gave 71 cues, most of them words like “my”, “for” and “street”: the language again."""
    train = load_split(posts, "train")
    rules = find_cues(train.texts, train.labels, 2)
    by_kind = {kind: {(r.cue, LABELS[r.label]) for r in rules if r.kind == kind} for kind in ("token", "format")}
    assert rules[0].cue == "script: Latin"
    assert {(rule.cue, LABELS[rule.label]) for rule in rules if rule.kind in ("script", "language")} == {
        ("script: Han", "yes"), ("language: zh", "yes"), ("script: Latin", "no"), ("language: en", "no"),
    }  # fmt: skip
    planted = [ENGLISH_WORDS, HAN_WORDS]
    assert by_kind["token"] == {(word, LABELS[k]) for words in planted for k in (0, 1) for word in words[k]}
    assert by_kind["format"] == set()


@pytest.mark.filterwarnings("ignore:Glyph")  # the fonts of matplotlib have no Han letters
def test_audit_says_so_in_words(posts, english_encoder, tmp_path, caplog):
    result = commands.audit(str(posts), out=str(tmp_path), text_encoder=english_encoder)
    findings = {finding.kind: finding for finding in result.findings}
    assert findings["cue:script: Han"].text.startswith("592 of 903 training posts in Han script are yes (z = 9.4); ")
    assert "training posts in the language “zh” (guessed) are yes" in findings["cue:language: zh"].text
    assert findings["cue:language: zh"].advice.startswith("Balance the labels inside each language")
    unknown = findings["tokenizer:unknown"]
    assert unknown.text.startswith("The tokenizer turns ")
    assert unknown.text.endswith(" of the tokens of 1,500 sampled texts into unknown ones.")
    assert unknown.count == 903
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "into unknown ones; choose an encoder for the languages of these texts (a multilingual one)" in warnings[0]
    page = (tmp_path / "audit.html").read_text()
    for words in ("script: Han", "language: zh", "喜欢", "in Han script are yes", "into unknown ones"):
        assert words in page


def test_groups_of_a_split_know_the_language(posts):
    rows = load_split(posts, "test")
    masks = groups(rows)
    assert masks["language zh"].sum() > 300
    assert not any("short" in name for name in masks)
    assert all(mask.sum() < 0.6 * len(rows) for name, mask in masks.items() if "words" in name)


def byte_tokenizer(texts):
    """A byte-level BPE, as RoBERTa's, trained on these texts: it has no unknown token."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=1000, show_progress=False)
    end = {"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, pad_token="<pad>", **end)


def test_misreadings_of_tokenizers():
    english, han = " ".join(ENGLISH[:10]), HAN[:20]
    tokenizer = word_tokenizer(ENGLISH)
    texts = [english] * 60 + [han] * 40
    assert misreadings(tokenizer, [english] * 100, 12) == []
    assert misreadings(tokenizer, [english] * 94 + [" ".join([*ENGLISH[:4], "unseen"])] * 6, 12) == []
    [unknown] = misreadings(tokenizer, [english] * 50 + [" ".join([*ENGLISH[:4], "unseen"])] * 50, 12)
    assert (unknown.kind, unknown.share, unknown.texts) == ("unknown", 50 / 750, 50)
    assert misreadings(tokenizer, texts, 12, fixed=False) == []  # a vocabulary that was made from them
    [cut] = misreadings(tokenizer, [english] * 100, 11)
    assert (cut.kind, cut.share, cut.texts) == ("cut", 1.0, 100)
    assert cut.text == "100.0 % of 100 sampled texts are cut: they have more than 11 tokens"
    assert cut.advice == "raise max_length; 99 % have up to 12 tokens"
    byte_level = byte_tokenizer([english] * 20)
    assert misreadings(byte_level, [english] * 100, 100) == []
    [spelled] = misreadings(byte_level, texts, 100)
    assert (spelled.kind, spelled.share, spelled.texts) == ("spelled", 0.4, 40)
    assert spelled.text == "40.0 % of 100 sampled texts become more tokens than they have characters: bytes, not words"
    assert misreadings(tokenizer, ["", " "], 12) == misreadings(tokenizer, [], 12) == []


@pytest.fixture(scope="module")
def short_posts(tmp_path_factory):
    counts = {"train": 60, "validation": 20, "test": 20}
    return make_dataset(tmp_path_factory.mktemp("bilingual") / "short", counts, bilingual, images="none")


def test_train_warns(short_posts, english_encoder, run_config, caplog):
    from clfa.training.setup import set_up

    text = {"kind": "text", "encoder": english_encoder, "max_length": 8}
    changes = {"data__path": str(short_posts), "model__modalities": {"text": text}, "loss__alignment_weight": 0.0}
    set_up(run_config(**changes))
    unknown, cut = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert unknown.startswith("modality text: the tokenizer turns ")
    assert "of the tokens of 60 sampled texts into unknown ones; choose an encoder for the languages" in unknown
    assert "sampled texts are cut: they have more than 8 tokens; raise max_length; 99 % have up to 17 tokens" in cut


def test_word_vectors_read_letters_of_scripts_without_spaces(posts):
    from clfa.config import WordVectors
    from clfa.model.word_vectors import build_words_model

    train, test = load_split(posts, "train"), load_split(posts, "test")
    _, tokenizer = build_words_model(WordVectors(size=4), train.texts)
    assert tokenizer.tokenize("我喜欢this, ฉัน") == ["我", "喜", "欢", "this", "[UNK]", "[UNK]", "[UNK]"]
    assert misreadings(tokenizer, test.texts, 77) == []


def test_import_warns_of_scripts_that_english_encoders_do_not_read(tmp_path, caplog):
    def warnings(name: str, foreign: int) -> list[str]:
        texts = (
            ["Это был хороший день", "今天天气真好"] * foreign + ["a nice day"] * (96 - 2 * foreign) + ["!", "123"] * 2
        )

        def post(split: str, number: int) -> Record:
            return Record(str(number), texts[number], None, "ab"[number % 2])

        caplog.clear()
        make_dataset(tmp_path / name, {"train": 100, "validation": 2}, post, images="none")
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    assert warnings("few", 1) == []
    assert warnings("many", 24) == [
        "51.0 % of the texts are not in Latin script (Cyrillic 25.5 %, Han 25.5 %): text encoders of English, as in the "
        "configurations that come with clfa, do not read them; choose a multilingual one in model.modalities.text.encoder"
    ]
