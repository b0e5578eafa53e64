"""Which tokenizers can read the white space of MMSD? The same linear classifier on the tokens of four of them.

python docs/white_space.py data/mmsd_raw docs/results/white_space.json      (2 minutes on 2 cores)

Tokenizers are trained on the train split (8,000 tokens); the classifier is a logistic regression on TF-IDF of 1-2 grams of
token strings, fitted on train, scored on test, once with the texts as published and once with white space normalised.
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from clfa.data.atomic import write_json
from clfa.data.records import normalise_text
from clfa.data.rows import load_split
from clfa.evidence.results import write_result
from clfa.metrics import Score, measure

SIZE = 8_000


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    train, test = (load_split(source, split) for split in ("train", "test"))
    found: dict[str, dict[str, Score]] = {}
    for name, make in TOKENIZERS.items():
        found[name] = {}
        for form, clean in (("raw", str), ("normalised", normalise_text)):
            texts, tests = ([clean(text) for text in rows.texts] for rows in (train, test))
            tokenizer, trainer = make()
            tokenizer.train_from_iterator(texts, trainer)
            vectorizer = TfidfVectorizer(
                analyzer=lambda text, tokenizer=tokenizer: _grams(tokenizer.encode(text).tokens), sublinear_tf=True
            )
            model = LogisticRegression(C=10, max_iter=1000).fit(vectorizer.fit_transform(texts), train.labels)
            found[name][form] = measure(test.labels, model.predict(vectorizer.transform(tests)), 2)["accuracy"]
            print(name, form, found[name][form].text(), file=sys.stderr)
    rule = {}
    for split in ("validation", "test"):
        rows = load_split(source, split)
        guess = ["sarcastic" if text != " ".join(text.split()) else "not_sarcastic" for text in rows.texts]
        rule[split] = f"{100 * np.mean([one == two for one, two in zip(guess, rows['hashtag_label'])]):.2f}"
    write_json(target.with_name(target.stem + "_hashtag.json"), rule)  # the rule against the label by hashtag
    write_result(target, found)


def _grams(tokens: list[str]) -> list[str]:
    return tokens + [f"{one}\0{two}" for one, two in pairwise(tokens)]


def _word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=SIZE, special_tokens=["[UNK]"], show_progress=False)


def _clip():
    """Byte pairs inside words; white space is split at and thrown away, as CLIP does."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=["[UNK]"], end_of_word_suffix="</w>", show_progress=False
    )
    return tokenizer, trainer


def _byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(vocab_size=SIZE, initial_alphabet=alphabet, show_progress=False)


def _sentence_piece():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=SIZE, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    return tokenizer, trainer


TOKENIZERS = {
    "WordPiece (BERT)": _word_piece,
    "BPE on split words (CLIP)": _clip,
    "byte-level BPE (RoBERTa)": _byte_level,
    "unigram on ▁ (SentencePiece, spaces kept)": _sentence_piece,
}

if __name__ == "__main__":
    main()
