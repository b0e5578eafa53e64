"""How strongly each word of a post aligns with each patch of its image (the paper's Figure 4).

PyTorch is not imported: a service of an exported model asks here why it has no heatmap.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clfa.config import ModelConfig
from clfa.data.cells import value_of
from clfa.data.images import open_image
from clfa.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from clfa.model.pipeline import Pipeline

SMALLEST = 1e-12
"""Length that a state is divided by at least."""


@dataclass(frozen=True)
class Heatmap:
    """Alignment of each word with each image patch (the paper's Figure 4)."""

    words: list[str]
    """W words, sub-word tokens merged."""
    similarity: NDArray[np.float32]
    """(W, rows, columns) cosines between the mapped token (mean over its sub-words) and the mapped patch, in [-1, 1]."""
    image: Image.Image
    predicted: str
    """Name of the class."""
    probability: float


def no_heatmap(config: ModelConfig) -> str:
    """Why no post has a heatmap with this model; empty if posts with a text and an image have one."""
    names = _read(config)
    if len(names) < 2:
        return f"the run uses {', '.join(config.modalities)} only: a heatmap needs a text and an image modality"
    if any(config.reads_mean(name) for name in names):
        return (
            "the run reads the mean of a text's words or of an image's patches: a heatmap needs a fusion that reads each of "
            "them (`clfa train`)"
        )
    return ""


def alignment_heatmap(pipeline: "Pipeline", post: Mapping[str, Any]) -> Heatmap:
    """Cosine similarities F'_t . F'_i between the words and the patches of a user's post or a row of a dataset directory.

    Raises:
        UserError: the run or the post lacks text or image.
    """
    config = pipeline.config
    if reason := no_heatmap(config):
        raise UserError(reason)
    text, image = _read(config)
    row = pipeline.prepare(post)
    words_read, pixels = (value_of(row, name, config) for name in (text, image))
    if not words_read or not isinstance(pixels, bytes):
        raise UserError("the post needs both a text and an image for a heatmap")
    output = pipeline.output([row])
    tokens, patches = (_normalised(output.states[name][0].float().cpu()) for name in (text, image))
    logits = output.logits.float().cpu()
    decided = int(pipeline.decide(logits.numpy())[0])
    words, groups = words_of(pipeline.preparers[text], str(words_read), config.modalities[text].max_length)
    if not words:
        raise UserError("the tokenizer finds no word in the text")
    similarity = np.stack([(tokens[group] @ patches.T).mean(0).numpy() for group in groups])
    side = int(similarity.shape[1] ** 0.5)
    squared = similarity[:, similarity.shape[1] - side * side :]  # class and distillation tokens in front are cut
    return Heatmap(
        words=words,
        similarity=squared.reshape(len(words), side, side),
        image=open_image(pixels),
        predicted=pipeline.class_names[decided],
        probability=float(logits.softmax(1)[0, decided]),
    )


def words_of(tokenizer: Any, text: str, max_length: int) -> tuple[list[str], list[list[int]]]:
    """Sub-word tokens of a text merged to words by the tokenizer's own marks; special tokens are left out.

    Returns:
        The words, as the text spells them where the tokenizer knows; of each the places of its tokens.
    """
    exact = bool(getattr(tokenizer, "is_fast", False))
    encoded = tokenizer(
        text, truncation=True, max_length=max_length, **({"return_offsets_mapping": True} if exact else {})
    )
    ids, vocabulary = encoded["input_ids"], tokenizer.get_vocab()
    tokens, special = tokenizer.convert_ids_to_tokens(ids), set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    # CLIP marks where a word ends; byte-level BPE and SentencePiece, where it starts; WordPiece, where it goes on
    ending = any(token.endswith("</w>") for token in vocabulary)
    starting = not ending and any(token.startswith(("Ġ", "▁")) for token in vocabulary)
    groups: list[list[int]] = []
    open_word = False
    for place, (number, token) in enumerate(zip(ids, tokens)):
        if number in special:
            continue
        goes_on = token.startswith("##") or (starting and not token.startswith(("Ġ", "▁"))) or (ending and open_word)
        if goes_on and groups:
            groups[-1].append(place)
        else:
            groups.append([place])
        open_word = not token.endswith("</w>")
    spelled = ["".join(tokens[place].lstrip("Ġ▁").removeprefix("##") for place in group) for group in groups]
    if exact:
        spans = [(encoded["offset_mapping"][group[0]][0], encoded["offset_mapping"][group[-1]][1]) for group in groups]
        spelled = [text[first:last].strip() or token for (first, last), token in zip(spans, spelled)]
    return spelled, groups


def _read(config: ModelConfig) -> list[str]:
    """The first text and the first image modality that the fusion reads, where there are any."""
    fused = {name: one.kind for name, one in config.modalities.items() if one.fused}
    firsts = (next((name for name, own in fused.items() if own == kind), None) for kind in ("text", "image"))
    return [name for name in firsts if name is not None]


def _normalised(states: "Tensor") -> "Tensor":
    """(L, D) rows of length 1."""
    return states / states.norm(dim=-1, keepdim=True).clamp_min(SMALLEST)
