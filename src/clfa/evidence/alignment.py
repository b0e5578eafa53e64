"""What the model sees: alignment between words and image patches, and the posts it gets most wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clfa.data.columns import as_text, knowledge_columns
from clfa.data.images import open_image, safe_image
from clfa.data.records import load_manifest
from clfa.data.rows import Rows, load_split
from clfa.data.tables import open_posts
from clfa.errors import UserError
from clfa.evidence.results import Example, Illustrations
from clfa.model.heatmap import alignment_heatmap
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
