"""Word vectors as a Hugging Face text model: learnt from the training texts, with or without a bidirectional LSTM.

It is registered with transformers, so that it is saved, loaded and prepared like any other encoder.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

from clfa.config import ModelConfig, WordVectors
from clfa.data.scripts import SPACELESS
from clfa.errors import UserError
from clfa.fusion.graphs import run_lstm

SPECIAL = ["[PAD]", "[UNK]", "[END]"]
# <user> and <num> of MMSD, hashtags, letters of scripts without spaces, words with an apostrophe, any other sign for
# itself; white space is never seen
_LETTER = rf"[^\W{SPACELESS}]"
WORD = rf"<\w+>|#\w+|[{SPACELESS}]\p{{M}}*|{_LETTER}+(?:['’]{_LETTER}+)*|[^\w\s]"


class WordsConfig(PretrainedConfig):
    """Sizes of a `WordsModel`."""

    model_type = "clfa_words"

    def __init__(self, vocab_size: int = 3, size: int = 300, lstm: int = 0, dropout: float = 0.0, **kwargs):
        self.vocab_size, self.size, self.lstm, self.dropout = vocab_size, size, lstm, dropout
        self.hidden_size = 2 * lstm or size
        super().__init__(**kwargs)


class WordsModel(PreTrainedModel):
    """x_i = E[w_i]; with an LSTM h_i = [LSTM→(x_1 … x_i); LSTM←(x_n … x_i)] (Graves and Schmidhuber 2005)."""

    config_class = WordsConfig

    def __init__(self, config: WordsConfig):
        super().__init__(config)
        self.vectors = nn.Embedding(config.vocab_size, config.size, padding_idx=0)
        self.lstm = nn.LSTM(config.size, config.lstm, batch_first=True, bidirectional=True) if config.lstm else None
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own for the LSTM; small vectors, as in GloVe."""
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
            with torch.no_grad():
                module.weight[0] = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        """(B, T) numbers of words and mask -> states (B, T, H). Padding is never read: the LSTM gets packed texts."""
        states = self.dropout(self.vectors(input_ids))
        if self.lstm is not None:
            states = self.dropout(run_lstm(self.lstm, states, attention_mask.bool()))
        return BaseModelOutput(last_hidden_state=states)


AutoConfig.register(WordsConfig.model_type, WordsConfig)
AutoModel.register(WordsConfig, WordsModel)


def build_words_model(config: WordVectors, texts: Iterable[str]) -> tuple[WordsModel, PreTrainedTokenizerFast]:
    """A new model and its tokenizer, with the vocabulary of these texts (lower case): those of train, of no other split.

    Raises:
        UserError: the file of vectors is missing or has other widths.
    """
    empty = _tokenizer([])
    split_texts = (empty.pre_tokenizer.pre_tokenize_str(empty.normalizer.normalize_str(text)) for text in texts)
    counts = Counter(word for words in split_texts for word, _ in words)
    given = _read_vectors(config, set(counts)) if config.vectors else {}
    known = sorted(word for word, count in counts.items() if count >= config.min_count or word in given)
    vocabulary = SPECIAL + known
    model = WordsModel(WordsConfig(len(vocabulary), config.size, config.lstm, config.dropout))
    with torch.no_grad():
        for number, word in enumerate(vocabulary):
            if word in given:
                model.vectors.weight[number] = torch.tensor(given[word])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(known), pad_token="[PAD]", unk_token="[UNK]", sep_token="[END]"
    )
    return model, tokenizer


def training_texts(rows: Any, config: ModelConfig, owner: str) -> list[str]:
    """The texts of a modality and of those that share its encoder, which make its vocabulary."""
    columns = [m.column or name for name, m in config.modalities.items() if owner in (name, m.shares)]
    return [text for column in columns for text in rows[column] if text]


def _tokenizer(words: list[str]):
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(SPECIAL + words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    # a last token, so that no text is empty
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [END]", special_tokens=[("[END]", 2)])
    return tokenizer


def _read_vectors(config: WordVectors, wanted: set[str]) -> dict[str, list[float]]:
    path = Path(str(config.vectors))
    if not path.is_file():
        raise UserError(f"{path} not found: words.vectors is a text file of word vectors (GloVe), or leave it out")
    vectors = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            word, *values = line.rstrip("\n").split(" ")
            if word in wanted:
                if len(values) != config.size:
                    raise UserError(
                        f"{path}:{number}: {len(values)} numbers after the word, words.size is {config.size}: "
                        f"set words.size to {len(values)}"
                    )
                vectors[word] = [float(value) for value in values]
    return vectors
