"""What the model sees: alignment between words and image patches, and the posts it gets most wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from clfa.data.columns import as_text, knowledge_columns
from clfa.data.images import open_image
from clfa.data.records import load_manifest, load_split
from clfa.data.tables import read_posts, safe_image
from clfa.errors import UserError
from clfa.model.batch import input_name
from clfa.serving.predictor import Predictor


@dataclass(frozen=True)
class Heatmap:
    """Alignment of each word with each image patch (the paper's Figure 4)."""

    words: list[str]
    """Words, sub-word tokens merged."""
    similarity: Float[NDArray, "words rows columns"]
    """Cosine between the mapped token (mean over its sub-words) and the mapped patch, in [-1, 1]."""
    image: Image.Image
    """The picture."""
    predicted: str
    """The class that the model predicts."""
    probability: float
    """Its probability."""


def alignment_heatmap(predictor: Predictor, post: dict[str, Any]) -> Heatmap:
    """Cosine similarities F'_t . F'_i between the words and the patches of one post.

    Args:
        predictor: a run with a text and an image modality.
        post: `text` and `image` as in `Predictor.__call__`.

    Raises:
        UserError: the run or the post lacks text or image.
    """
    modalities = predictor.model.config.modalities
    text = next((name for name, m in modalities.items() if m.kind == "text"), None)
    image = next((name for name, m in modalities.items() if m.kind == "image"), None)
    if text is None or image is None:
        raise UserError(f"the run uses {', '.join(modalities)} only: a heatmap needs a text and an image modality")
    row = predictor.prepare(post)
    if row["image"] is None or not row["text"]:
        raise UserError("the post needs both a text and an image for a heatmap")
    batch = predictor.collator([row])
    device = next(predictor.model.parameters()).device
    with torch.no_grad():
        output = predictor.model({name: value.to(device) for name, value in batch.items()})
    tokens, patches = (F.normalize(output.states[name][0].float(), dim=-1).cpu() for name in (text, image))
    probabilities = output.logits[0].float().softmax(0)
    words, groups = _words(predictor.collator.preparers[text], batch[input_name(text, "input_ids")][0])
    if not words:
        raise UserError(f"the tokenizer finds no word in {row['text']!r}")
    similarity = torch.stack([(tokens[group] @ patches.T).mean(0) for group in groups]).numpy()
    return Heatmap(
        words=words,
        similarity=_grid(similarity),
        image=open_image(row["image"]["bytes"]),
        predicted=predictor.labels[int(probabilities.argmax())],
        probability=float(probabilities.max()),
    )


def draw_heatmap(heatmap: Heatmap, path: Path | None = None):
    """The picture, and for each word its alignment laid over it; darker = more similar. Saved as PNG if `path` is given.

    Returns:
        The matplotlib figure.
    """
    from clfa.report.page import pyplot

    count = len(heatmap.words) + 1
    columns = min(6, count)
    rows = -(-count // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(2.1 * columns, 2.4 * rows + 0.9), squeeze=False, layout="constrained"
    )
    low, high = heatmap.similarity.min(), heatmap.similarity.max()
    picture = np.asarray(heatmap.image)
    grey = np.asarray(heatmap.image.convert("L").convert("RGB")) // 2 + 127
    drawn: Any = None
    for place, axis in enumerate(axes.flat):
        axis.set_axis_off()
        if place == 0:
            axis.imshow(picture)
            axis.set_title("the picture", fontsize=10, style="italic")
        elif place < count:
            axis.imshow(grey)
            drawn = axis.imshow(
                heatmap.similarity[place - 1],
                cmap="Blues",
                alpha=0.65,
                vmin=low,
                vmax=high,
                interpolation="nearest",
                extent=(-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5),
            )
            axis.set_title(heatmap.words[place - 1], fontsize=11)
    figure.colorbar(drawn, ax=axes, shrink=0.7, label="cosine of word and patch", location="right")
    figure.suptitle(f"predicted: {heatmap.predicted} ({heatmap.probability:.0%})", fontsize=11)
    if path:
        figure.savefig(path, dpi=130)
        pyplot.close(figure)
    return figure


def find_post(source: Path, id: str, columns: dict[str, str]) -> dict[str, Any]:
    """The post with this id, from a dataset directory or a file of posts.

    Args:
        source: dataset directory, or CSV, TSV, JSONL or Parquet file.
        id: the id.
        columns: our name -> column name, for `id`, `text`, `image` (files only).

    Raises:
        UserError: there is no such post.
    """
    if (source / "dataset.json").is_file():
        for split in load_manifest(source)["splits"]:
            rows = load_split(source, split)
            ids = list(rows["id"])
            if id in ids:
                return rows[ids.index(id)]
    else:
        for number, row in enumerate(read_posts(source, columns), 1):
            if str(row.get(columns["id"])) == id:
                where = f"{source.name}, row {number}"
                image = safe_image(row.get(columns["image"]), source.parent, where)
                post = {"text": row[columns["text"]], "image": image, "knowledge": row.get("knowledge")}
                return post | knowledge_columns(row, where, as_text(post["text"]))
    raise UserError(f"{source} holds no post with the id {id!r}")


def worst_errors(truth: NDArray, probabilities: NDArray, count: int = 12) -> list[int]:
    """Row numbers of the wrong predictions that the model was most sure of, worst first."""
    predicted = probabilities.argmax(1)
    wrong = np.flatnonzero(predicted != truth)
    order = np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")
    return wrong[order][:count].tolist()


def _words(tokenizer, ids: torch.Tensor) -> tuple[list[str], list[list[int]]]:
    """Sub-word tokens of one text merged to words by the tokenizer's own offsets; special tokens are left out."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    words: list[str] = []
    groups: list[list[int]] = []
    for place, (number, token) in enumerate(zip(ids.tolist(), tokenizer.convert_ids_to_tokens(ids.tolist()))):
        if number in special:
            continue
        if token.startswith("##") and words:  # WordPiece continuation
            words[-1] += token[2:]
            groups[-1].append(place)
        elif not token.startswith(("Ġ", "▁")) and words and _marks_word_starts(tokenizer):
            words[-1] += token
            groups[-1].append(place)
        else:
            words.append(token.lstrip("Ġ▁"))
            groups.append([place])
    return words, groups


def _marks_word_starts(tokenizer) -> bool:
    """Byte-level BPE and SentencePiece mark where a word starts; WordPiece marks where it goes on."""
    return any(token.startswith(("Ġ", "▁")) for token in tokenizer.get_vocab())


def _grid(similarity: NDArray) -> NDArray:
    """(words, patches) -> (words, rows, columns); class and distillation tokens in front are cut."""
    side = int(similarity.shape[1] ** 0.5)
    return similarity[:, similarity.shape[1] - side * side :].reshape(len(similarity), side, side)
