"""Prediction: a run directory -> probabilities for new posts, one or a file of them."""

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from clfa.data.collate import Collator
from clfa.data.posts import as_text, knowledge_columns, read_posts, safe_image
from clfa.data.records import normalise_text, open_image, to_rgb
from clfa.errors import UserError
from clfa.model import Classifier


@torch.no_grad()
def compute_logits(model: Classifier, rows: Any, collator: Collator, batch_size: int) -> Float[Tensor, "rows classes"]:
    """Logits of all rows in their order, in fp32 and evaluation mode; posts of similar length share a batch."""
    model.eval()
    device = next(model.parameters()).device
    texts = rows["text"] if hasattr(rows, "column_names") else [row["text"] for row in rows]
    order = sorted(range(len(texts)), key=lambda number: len(texts[number] or ""))
    logits = torch.empty(len(order), len(model.labels))
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        batch = collator([rows[number] for number in chunk])
        logits[chunk] = model({name: value.to(device) for name, value in batch.items()}).logits.float().cpu()
    return logits


@dataclass(frozen=True)
class Prediction:
    """The answer for one post."""

    predicted: str
    """Name of the most probable class."""
    probabilities: dict[str, float]
    """Class name -> probability."""


class Predictor:
    """A trained run, callable on posts.

    >>> predictor = Predictor("runs/demo/clfa/seed-0")                      # doctest: +SKIP
    >>> predictor([{"text": "what a lovely day", "image": "storm.jpg"}])    # doctest: +SKIP
    [Prediction(predicted='sarcastic', probabilities={'not_sarcastic': 0.03, 'sarcastic': 0.97})]

    Args:
        run: run directory, or any folder written by `Classifier.save_pretrained`.
        batch_size: posts per forward pass.

    Raises:
        UserError: the folder holds no trained model.
    """

    def __init__(self, run: str | Path, batch_size: int = 32):
        self.model = Classifier.from_pretrained(run)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.batch_size = batch_size
        modalities = self.model.config.modalities
        self.collator = Collator(
            modalities, {name: self.model.encoders[m.shares or name].preparer for name, m in modalities.items()}
        )

    @property
    def labels(self) -> list[str]:
        """Class names."""
        return self.model.labels

    def __call__(self, posts: Sequence[dict[str, Any]]) -> list[Prediction]:
        """Predict posts with the keys `text`, `image` (path, bytes, PIL image or None) and optionally `knowledge`.

        A post without an image is predicted from its text, with the image masked.

        Raises:
            UserError: an image is missing on disk or unreadable.
        """
        rows = [self.prepare(post) for post in posts]
        if not rows:
            return []
        logits = compute_logits(self.model, rows, self.collator, self.batch_size)
        return [self._prediction(row) for row in logits.softmax(1)]

    def prepare(self, post: dict[str, Any]) -> dict[str, Any]:
        """A post as a row: text cleaned as in training, image as checked bytes."""
        clean = normalise_text if self.model.text == "normalised" else str
        row = {**post, "text": clean(as_text(post.get("text"))), "image": _image_bytes(post.get("image"))}
        if post.get("knowledge") is not None:
            row["knowledge"] = clean(as_text(post["knowledge"]))
        return {key: value for key, value in row.items() if key != "label"}

    def _prediction(self, probabilities: Tensor) -> Prediction:
        named = dict(zip(self.labels, (round(value, 6) for value in probabilities.tolist())))
        return Prediction(max(named, key=named.__getitem__), named)


def predict_file(
    run: str | Path,
    source: Path,
    output: Path,
    columns: dict[str, str],
    image_dir: Path | None = None,
    on_bad: str = "fail",
) -> dict[str, int]:
    """Predict each post of a CSV, TSV, JSONL or Parquet file; every input row is one output row, in order.

    The output holds the input's columns (but for pictures stored inside the table) and `predicted`, `probability_<class>` …,
    `problem`.
    An empty image cell means that the post has no image: it is predicted from its text, and `problem` says "no image".

    Args:
        run: run directory.
        source: posts.
        output: file to write; its ending (.csv, .tsv, .jsonl, .parquet) gives the format.
        columns: our name -> column name, for `text`, `image`, `knowledge`.
        image_dir: folder that image paths are relative to; by default the folder of the file.
        on_bad: what to do with images that are named but missing or unreadable. `fail`: nothing is predicted, all of them
            are counted and the first 20 listed; `mask`: predict from the text alone and say so in `problem`; `skip`: leave
            the prediction empty and say so.

    Returns:
        `{"rows", "predicted", "without_image", "bad_images"}`.

    Raises:
        UserError: see `on_bad`; unknown endings; the output exists.
    """
    if output.suffix not in _WRITERS:
        raise UserError(f"{output}: unknown ending {output.suffix!r}; written are {', '.join(_WRITERS)}")
    if output.exists():
        raise UserError(f"{output} exists: choose another --output, or delete it first")
    predictor = Predictor(run)
    uses_images = any(m.kind == "image" for m in predictor.model.config.modalities.values())
    rows = read_posts(source, columns, ("text", "image") if uses_images else ("text",))
    ours = ["predicted", *(f"probability_{name}" for name in predictor.labels), "problem"]
    taken = [name for name in ours if any(name in row for row in rows)]
    if taken:
        raise UserError(f"{source} has columns that the output adds ({', '.join(taken)}): rename them in the input")
    posts: list[dict[str, Any]] = []
    problems: list[str] = []
    bad: list[str] = []
    for number, row in enumerate(rows, 1):
        image, problem = None, ""
        if uses_images:
            try:
                image = safe_image(
                    row.get(columns["image"]), image_dir or source.parent, f"{source.name}, row {number}"
                )
                problem = "" if image else "no image"
                _image_bytes(image)
            except UserError as error:
                image, problem = None, f"bad image: {error}"
                bad.append(f"row {number}: {error}")
        posts.append({"text": row.get(columns["text"]), "image": image, "knowledge": row.get(columns["knowledge"])})
        posts[-1] |= knowledge_columns(row, f"{source.name}, row {number}", as_text(row.get(columns["text"])))
        problems.append(problem)
    if bad and on_bad == "fail":
        listed = "\n  ".join(bad[:20])
        raise UserError(
            f"{len(bad)} of {len(rows):,} posts name a missing or unreadable image, nothing was predicted; "
            f"the first {min(20, len(bad))}:\n  {listed}\n"
            "Fix the files or --image-dir, or use --on-bad mask (predict from the text alone) or --on-bad skip"
        )
    wanted = [n for n, problem in enumerate(problems) if on_bad == "mask" or not problem.startswith("bad image")]
    found = dict(zip(wanted, predictor([posts[number] for number in wanted])))
    kept = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if not any(isinstance(row.get(name), (bytes, dict)) for row in rows)  # pictures inside the table stay out
    ]
    results = [
        {name: row.get(name) for name in kept} | _answer(found.get(number), predictor.labels, problems[number])
        for number, row in enumerate(rows)
    ]
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    _WRITERS[output.suffix](results, partial)
    os.replace(partial, output)
    return {
        "rows": len(rows),
        "predicted": len(found),
        "without_image": sum(problem == "no image" for problem in problems),
        "bad_images": len(bad),
    }


def _image_bytes(image: Any) -> dict[str, Any] | None:
    """The image column of a row from whatever the caller has; checked, so that a bad image is an error here."""
    if image is None or image == "":
        return None
    if isinstance(image, dict):
        return _image_bytes(image.get("bytes") or image.get("path"))
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        to_rgb(ImageOps.exif_transpose(image)).save(buffer, "PNG")
        return {"bytes": buffer.getvalue()}
    if isinstance(image, (str, Path)):
        if not Path(image).is_file():
            raise UserError(f"no such file: {image}")
        data, name = Path(image).read_bytes(), Path(image).name
    else:
        data, name = bytes(image), "image"
    open_image(data, name)
    return {"bytes": data}


def _answer(found: Prediction | None, labels: list[str], problem: str) -> dict[str, Any]:
    probabilities = {f"probability_{name}": found.probabilities[name] if found else None for name in labels}
    return {"predicted": found.predicted if found else None, **probabilities, "problem": problem}


def _write_csv(rows: list[dict[str, Any]], path: Path, delimiter: str = ",") -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def _write_jsonl(rows: Iterable[dict[str, Any]], path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


_WRITERS = {
    ".csv": _write_csv,
    ".tsv": lambda rows, path: _write_csv(rows, path, "\t"),
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
