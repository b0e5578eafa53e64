"""What the model sees: alignment between words and image patches, and the posts it gets most wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from clfa.data.columns import as_text, knowledge_columns
from clfa.data.images import open_image, safe_image
from clfa.data.records import load_manifest
from clfa.data.rows import Rows, load_split
from clfa.data.tables import open_posts
from clfa.errors import UserError
from clfa.evidence.results import Example, Heatmap, Illustrations
from clfa.model.pipeline import Pipeline
from clfa.runs import Predictions

ERRORS = 12
TRIED = 200
"""Rightly predicted posts that are looked through for one that makes a good heatmap."""


def illustrate(pipeline: Pipeline, rows: Rows, predictions: Predictions) -> Illustrations:
    """The errors that the model was most sure of, and the heatmap of a post that it got right.

    The heatmap is of the first such post with an image and 3 to 16 words; runs without a text or an image have none.
    """
    names, labels, predicted = predictions.class_names, predictions.labels, predictions.predicted
    examples = []
    for number in worst_errors(labels, predicted, predictions.probabilities):
        row = rows[number]
        image = open_image(row["image"]["bytes"]) if row["image"] else None
        probability = float(predictions.probabilities[number, predicted[number]])
        label, answer = names[labels[number]], names[predicted[number]]
        examples.append(Example(row["id"], row["text"] or "", image, label, answer, probability))
    for number in np.flatnonzero(labels == predicted)[:TRIED]:
        row = rows[int(number)]
        if 3 <= len((row["text"] or "").split()) <= 16 and row["image"]:
            try:
                return Illustrations(examples, alignment_heatmap(pipeline, row), row["id"])
            except UserError:  # a run with one modality has no heatmap
                break
    return Illustrations(examples)


def alignment_heatmap(pipeline: Pipeline, post: Mapping[str, Any]) -> Heatmap:
    """Cosine similarities F'_t . F'_i between the words and the patches of a user's post or a row of a dataset directory.

    Raises:
        UserError: the run or the post lacks text or image.
    """
    modalities = pipeline.config.modalities
    text, image = (
        next((name for name, modality in modalities.items() if modality.kind == kind), None)
        for kind in ("text", "image")
    )
    if text is None or image is None:
        raise UserError(f"the run uses {', '.join(modalities)} only: a heatmap needs a text and an image modality")
    if any(pipeline.config.reads_mean(name) for name in (text, image)):
        raise UserError(
            "the run reads the mean of a text's words or of an image's patches: a heatmap needs a fusion that reads each of "
            "them (`clfa train`)"
        )
    row = pipeline.prepare(post)
    cells = [row[pipeline.config.column(name)] for name in (text, image)]
    if not all(cells):
        raise UserError("the post needs both a text and an image for a heatmap")
    output = pipeline.output([row])
    tokens, patches = (F.normalize(output.states[name][0].float(), dim=-1).cpu() for name in (text, image))
    logits = output.logits.float().cpu()
    decided = int(pipeline.decide(logits.numpy())[0])
    preparer, length = pipeline.preparers[text], modalities[text].max_length
    words, groups = _words(preparer, preparer(cells[0], truncation=True, max_length=length)["input_ids"])
    if not words:
        raise UserError(f"the tokenizer finds no word in {cells[0]!r}")
    similarity = torch.stack([(tokens[group] @ patches.T).mean(0) for group in groups]).numpy()
    side = int(similarity.shape[1] ** 0.5)
    squared = similarity[:, similarity.shape[1] - side * side :]  # class and distillation tokens in front are cut
    return Heatmap(
        words=words,
        similarity=squared.reshape(len(words), side, side),
        image=open_image(cells[1]["bytes"]),
        predicted=pipeline.class_names[decided],
        probability=float(logits.softmax(1)[0, decided]),
    )


def find_post(source: Path, id: str, columns: dict[str, str]) -> Mapping[str, Any]:
    """The post with this id, from a dataset directory or a CSV, TSV, JSONL or Parquet file of posts.

    `columns`, of files only: our name -> column name, for `id`, `text`, `image`.

    Raises:
        UserError: there is no such post.
    """
    if (source / "dataset.json").is_file():
        for split in load_manifest(source)["splits"]:
            rows = load_split(source, split)
            ids = rows["id"]
            if id in ids:
                return rows[ids.index(id)]
    else:
        for number, row in enumerate(open_posts(source, columns, tuple(columns)).rows(None), 1):
            if str(row.get(columns["id"])) == id:
                where = f"{source.name}, row {number}"
                image = safe_image(row.get(columns["image"]), source.parent, where)
                post = {**row, "text": row[columns["text"]], "image": image}
                return post | knowledge_columns(row, where, as_text(post["text"]))
    raise UserError(f"{source} holds no post with the id {id!r}")


def worst_errors(labels: NDArray, predicted: NDArray, probabilities: NDArray, count: int = ERRORS) -> list[int]:
    """Row numbers of the wrong predictions that the model was most sure of, worst first."""
    wrong = np.flatnonzero(predicted != labels)
    order = np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")
    return wrong[order][:count].tolist()


def _words(tokenizer: Any, ids: list[int]) -> tuple[list[str], list[list[int]]]:
    """Sub-word tokens of one text merged to words by the tokenizer's own marks; special tokens are left out."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    # byte-level BPE and SentencePiece mark where a word starts; WordPiece marks where it goes on
    marked = any(token.startswith(("Ġ", "▁")) for token in tokenizer.get_vocab())
    words: list[str] = []
    groups: list[list[int]] = []
    for place, (number, token) in enumerate(zip(ids, tokenizer.convert_ids_to_tokens(ids))):
        if number in special:
            continue
        goes_on = token.startswith("##") or (marked and not token.startswith(("Ġ", "▁")))
        if goes_on and words:
            words[-1] += token.removeprefix("##")
            groups[-1].append(place)
        else:
            words.append(token.lstrip("Ġ▁"))
            groups.append([place])
    return words, groups
