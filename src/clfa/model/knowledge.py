"""Knowledge about words, brought to the tokens of an encoder: graphs of the sentence, polarities.

Words are what white space separates. A word's knowledge holds for each of its word pieces; special tokens have none. Without
PyTorch, so that an exported model reads the same.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from clfa.config import ModelConfig
from clfa.data.columns import read_heads, word_places
from clfa.errors import UserError

WINDOW = 2
SPACY_MODEL = "en_core_web_sm"

Lexicon = Mapping[str, float]
Aligned = tuple[NDArray[np.int64], list[int] | None]
"""Number of the word of each token, and each word's head where there is a tree (see `Words`)."""


def choose_graph(graph: str, rows: Any, column: str) -> str:
    """`best` -> `dependencies` if all training posts have them, else spaCy if it and its model are installed, else `window`.

    Args:
        graph: as configured; anything but `best` stays.
        rows: the training posts.
        column: of the modality; dependencies are those of the column `text`.

    Raises:
        UserError: dependencies are asked for, and there are none.
    """
    if graph == "dependencies" and not ("dependencies" in rows.column_names and any(rows["dependencies"])):
        raise UserError(
            "graph: dependencies, but no training post has any: add the column `dependencies` to the data set, or take "
            "graph: best or window"
        )
    if graph != "best":
        return graph
    if column == "text" and "dependencies" in rows.column_names and all(rows["dependencies"]):
        return "dependencies"
    try:
        import spacy
    except ImportError:
        return "window"
    return f"spacy:{SPACY_MODEL}" if spacy.util.is_package(SPACY_MODEL) else "window"


def with_graphs(config: ModelConfig, rows: Any) -> ModelConfig:
    """`graph: best` becomes the graph that there is; the model is saved with that, so that new posts get the same."""
    modalities = {
        name: replace(modality, graph=choose_graph(modality.graph, rows, modality.column or name))
        if modality.graph
        else modality
        for name, modality in config.modalities.items()
    }
    return replace(config, modalities=modalities)


@dataclass(frozen=True)
class Words:
    """The words of one text and the tokens that are parts of them."""

    words: list[str]
    """The words, in lower case without punctuation around them."""
    of_token: NDArray[np.int64]
    """Number of the word that each token is part of, -1 for special tokens."""
    heads: list[int] | None
    """Number of each word's head from 1, 0 for the root; `None` where there is no tree."""


def read_words(
    tokenizer: Any,
    row: Mapping[str, Any],
    text: str,
    graph: str | None,
    max_length: int,
    aligned: Aligned | None = None,
) -> Words:
    """The words of a text, and their dependency tree where the graph is one.

    Args:
        tokenizer: a fast tokenizer.
        row: the post, for its `dependencies`.
        text: the text.
        graph: `dependencies`, `spacy:MODEL`, `window` or `None`. A post without dependencies has no tree.
        max_length: of the tokens.
        aligned: `align_words` of this text, where it is known already.

    Raises:
        UserError: dependencies that do not fit the words; no such spaCy model.
    """
    places = word_places(text)
    of_token, heads = aligned or align_words(tokenizer, text, graph, max_length)
    if graph == "dependencies" and row.get("dependencies"):
        heads = read_heads(row["dependencies"], len(places), str(row.get("id", "post")))
    bare = [word.lower().strip(".,;:!?\"'()[]#*") or word.lower() for word in (text[a:b] for a, b in places)]
    return Words(bare, of_token, heads)


def align_words(tokenizer: Any, text: str, graph: str | None, max_length: int) -> Aligned:
    """What takes time to know of a text: the word of each of its tokens, and its tree where spaCy reads it."""
    places = word_places(text)
    heads = None
    if graph and graph.startswith("spacy:") and places:
        heads = parse_heads(_load_spacy(graph.removeprefix("spacy:")), [text[start:end] for start, end in places])
    return word_of_token(tokenizer, text, places, max_length), heads


class WordStore:
    """`align_words` of the rows of some splits, so that no text is taken apart twice; about 150 bytes a row."""

    def __init__(self) -> None:
        self.rows: dict[str, list[bytes | None]] = {}

    def get(self, name: str, number: int, count: int, align: Callable[[], Aligned]) -> Aligned:
        """What is known of a row, or `align()` of it.

        Args:
            name: of the rows and the modality.
            number: row number.
            count: number of rows.
            align: tells it where it is not known yet.
        """
        rows = self.rows.setdefault(name, [None] * count)
        if (packed := rows[number]) is None:
            of_token, heads = align()
            values = np.array([len(of_token), *of_token, *(heads or [])])
            if values.max() > np.iinfo(np.int16).max:
                return of_token, heads
            rows[number] = values.astype(np.int16).tobytes()
            return of_token, heads
        values = np.frombuffer(packed, dtype=np.int16).astype(np.int64)
        tokens = int(values[0]) + 1
        return values[1:tokens], values[tokens:].tolist() or None


def edges_of(words: Sequence[Words], length: int) -> Float[NDArray, "posts tokens tokens"]:
    """The graphs of some texts on their tokens, see `token_edges`."""
    return np.stack([token_edges(one, length) for one in words])


def token_edges(words: Words, length: int) -> Float[NDArray, "tokens tokens"]:
    """The graph of a text's words, on its tokens: 1 between tokens of the same word or of neighbouring words.

    Args:
        words: `read_words`; without heads neighbours are words at most two apart.
        length: of the result; tokens beyond the text's have no edges, special tokens only one to themselves.
    """
    known, count = words.of_token >= 0, len(words.of_token)
    result = np.zeros((max(length, count),) * 2, dtype=np.float32)
    np.fill_diagonal(result[:count, :count], 1)
    if words.words:
        edges = word_edges(len(words.words), words.heads)
        places = words.of_token.clip(min=0)
        result[:count, :count][edges[places[:, None], places[None]] & known[:, None] & known[None]] = 1
    return result[:length, :length]


def word_of_token(tokenizer: Any, text: str, words: Sequence[tuple[int, int]], max_length: int) -> NDArray[np.int64]:
    """Number of the word that each token is part of, -1 for special tokens.

    Raises:
        UserError: the tokenizer does not say where its tokens come from.
    """
    if hasattr(tokenizer, "encode_batch"):  # of the library tokenizers, which knows where it cuts texts
        offsets = tokenizer.encode(text).offsets
    elif getattr(tokenizer, "is_fast", False):
        offsets = tokenizer(text, truncation=True, max_length=max_length, return_offsets_mapping=True)["offset_mapping"]
    else:
        raise UserError("graphs and polarities need a fast tokenizer (one that gives character offsets)")
    starts = np.array([start for start, _ in words])
    result = []
    for start, end in offsets:
        if end <= start:
            result.append(-1)
            continue
        # byte-level tokens may begin with the space before their word: the last character decides
        result.append(int(np.searchsorted(starts, end - 1, side="right")) - 1)
    return np.array(result, dtype=np.int64)


def word_edges(words: int, heads: Sequence[int] | None) -> NDArray[np.bool_]:
    """(W, W): each word and itself; and its head in both directions, or words at most two apart.

    Args:
        words: W.
        heads: number of each word's head from 1, 0 for the root; `None` for the window.
    """
    places = np.arange(words)
    if heads is None:
        return np.abs(places[:, None] - places[None]) <= WINDOW
    edges = np.eye(words, dtype=bool)
    for word, head in enumerate(heads):
        if head:
            edges[word, head - 1] = edges[head - 1, word] = True
    return edges


@functools.cache
def read_lexicon(name: str) -> Lexicon:
    """Polarities of words from -1 to 1.

    Args:
        name: `vader` (package vaderSentiment), or a file with a line `word<TAB>…<TAB>polarity` for each word, as SenticNet
            is published (the first and the last field are read, `_` in words is a space).

    Raises:
        UserError: the package is not installed, the file is missing or not of that form.
    """
    if name == "vader":
        try:
            from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
        except ImportError:
            raise UserError("polarity: vader needs the package vaderSentiment: pip install 'clfa[knowledge]'") from None
        return {word: value / 4 for word, value in SentimentIntensityAnalyzer().lexicon.items()}
    path = Path(name)
    if not path.is_file():
        raise UserError(f"{path} not found: polarity is `vader` or a file of words with polarities (SenticNet)")
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        word, *_, value = line.split("\t") if "\t" in line else (line, "")
        try:
            found[word.replace("_", " ").lower()] = max(-1.0, min(1.0, float(value)))
        except ValueError:
            if number > 1:  # a first line with names of columns is left out
                raise UserError(f"{path}:{number}: expected word<TAB>…<TAB>polarity, found {line[:60]!r}") from None
    return found


def bias_of(
    first: Sequence[Words], second: Sequence[Words], name: str, lengths: tuple[int, int]
) -> Float[NDArray, "posts first second"]:
    """`polarity_bias` of the words of some posts, of so many tokens, by the lexicon of this name."""
    lexicon, result = read_lexicon(name), np.zeros((len(first), *lengths), dtype=np.float32)
    for place, (one, other) in enumerate(zip(first, second)):
        own = polarity_bias(one, other, lexicon)[: lengths[0], : lengths[1]]
        result[place, : own.shape[0], : own.shape[1]] = own
    return result


def polarity_bias(first: Words, second: Words, lexicon: Lexicon) -> Float[NDArray, "first second"]:
    """|s_a - s_b| e^(-s_a s_b) for tokens a and b with polarities s; 0 where one has none or both are the same word.

    Large where the polarities are opposite. Source: CMGCN (Liang et al. 2022), section 3.3, and the released code of CLFA,
    which adds it to the attention scores between text and knowledge.

    Args:
        first: words of one text.
        second: words of the other.
        lexicon: `read_lexicon`.
    """
    words = [[side.words[n] if n >= 0 else "" for n in side.of_token] for side in (first, second)]
    a, b = (np.array([lexicon.get(word, np.nan) for word in side], dtype=np.float32) for side in words)
    same = np.array([[x == y for y in words[1]] for x in words[0]], dtype=bool).reshape(len(a), len(b))
    return np.where(same, np.float32(0), np.nan_to_num(np.abs(a[:, None] - b) * np.exp(-a[:, None] * b)))


def parse_heads(nlp: Any, words: Sequence[str]) -> list[int]:
    """Heads of words (from 1, 0 for the root) by a spaCy pipeline; the words stay as they are."""
    from spacy.tokens import Doc

    document = Doc(nlp.vocab, words=list(words))
    for _, step in nlp.pipeline:
        document = step(document)
    # spaCy's root is its own head
    return [0 if token.head.i == token.i else token.head.i + 1 for token in document]


@functools.cache
def _load_spacy(model: str):
    try:
        import spacy

        if not spacy.util.is_package(model):  # nothing else that a name could lead to
            raise OSError("no such package")
        nlp = spacy.load(model)
    except (ImportError, OSError) as error:
        raise UserError(
            f"graph: spacy:{model} cannot be loaded ({str(error).splitlines()[0]}): install spaCy and the model, or use "
            "graph: window"
        ) from None
    if not nlp.has_pipe("parser"):
        raise UserError(f"graph: the spaCy model {model} has no parser; choose one that has, or use graph: window")
    return nlp
