"""Which posts of a pool to label next: those that a run is unsure of, or reads differently by text and image."""

import csv
import logging
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from clfa.data.atomic import replacing, write_json, write_text
from clfa.data.drawing import text_form
from clfa.data.images import media_type
from clfa.data.records import UNLABELLED, load_manifest
from clfa.data.rows import Rows
from clfa.errors import UserError
from clfa.model.pipeline import ABSENT, Pipeline

CHUNK = 512

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selected:
    """A row of `selected.csv`."""

    id: str
    text: str
    image: str
    """Path of the image's file below the folder; empty for none."""
    predicted: str
    uncertainty: float
    """1 minus the difference of the two largest probabilities."""
    disagreement: float
    """Of what text alone and image alone say, from 0 to 1."""
    label: str = ""
    """For the reviewer. `clfa import table` reads the file when it is filled in."""


def uncertainty(probabilities: Float[NDArray, "posts classes"]) -> Float[NDArray, " posts"]:
    """u = 1 - (p_1 - p_2) of the two largest probabilities (margin sampling, Scheffer et al. 2001), from 0 to 1."""
    largest = np.sort(probabilities, 1)[:, -2:]
    return 1 - (largest[:, 1] - largest[:, 0])


def disagreement(
    texts: Float[NDArray, "posts classes"], images: Float[NDArray, "posts classes"]
) -> Float[NDArray, " posts"]:
    """d = H((p + q) / 2) - (H(p) + H(q)) / 2 in bits, the Jensen-Shannon divergence of what the text alone (p) and the image
    alone (q) say: query by committee (McCallum and Nigam 1998) with the modalities as its two members. From 0 to 1."""

    def entropy(p: NDArray) -> NDArray:
        return -(p * np.log2(np.maximum(p, 1e-12))).sum(1)

    return np.clip(entropy((texts + images) / 2) - (entropy(texts) + entropy(images)) / 2, 0, 1)


def select(
    run: str | Path, pool: str | Path, n: int = 100, split: str = UNLABELLED, out: str | Path = "selected"
) -> list[Selected]:
    """Choose posts to label; write `OUT/selected.csv` with `OUT/images`, and for Label Studio `tasks.json` and its set-up.

    Taken are those with the largest u + d (see `uncertainty`, `disagreement`; d is 0 for a run of one side, and for a post
    that lacks one), each text once. Labels of the pool are not read.

    Args:
        run: run directory.
        pool: dataset directory.
        n: how many.
        split: of the pool.
        out: folder to make.

    Returns:
        The posts, the most informative first.

    Raises:
        UserError: the folder exists; there is no such split; the run has polarity biases.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists: choose another --out, or delete it first")
    if n < 1:
        raise UserError(f"n = {n}: at least 1 post is chosen")
    if split not in load_manifest(pool)["splits"]:
        hint = (
            " (posts without a label are kept by `clfa import table --unlabelled keep`)" if split == UNLABELLED else ""
        )
        raise UserError(f"{pool} has no split {split!r}{hint}; it has {', '.join(load_manifest(pool)['splits'])}")
    pipeline, rows = Pipeline.load(run), Rows(Path(pool), [split])
    best: dict[str, tuple[float, int, dict[str, Any]]] = {}  # text -> the most informative post with it
    for place, (information, found) in enumerate(_judged(pipeline, rows)):
        form = text_form(found["text"]) or f"\0{place}"
        if form not in best or information > best[form][0]:
            best[form] = information, place, found
        if len(best) > 10 * n:
            best = _most(best, n)
    return _write([(rows[place], found) for _, place, found in _most(best, n).values()], pipeline.class_names, out)


def _most(best: dict[str, tuple[float, int, dict[str, Any]]], n: int) -> dict[str, tuple[float, int, dict[str, Any]]]:
    """The n most informative ones in their order."""
    return dict(sorted(best.items(), key=lambda one: (-one[1][0], one[1][1]))[:n])


def _judged(pipeline: Pipeline, rows: Rows) -> Iterator[tuple[float, dict[str, Any]]]:
    """Information of each post in order, and what is shown of it."""
    sides = {pipeline.config.side(name) for name in pipeline.config.modalities}
    for start in range(0, len(rows), CHUNK):
        chunk = [rows[place] for place in range(start, min(len(rows), start + CHUNK))]
        parts = pipeline.states(chunk)
        everyone, nobody = np.arange(len(chunk)), np.full(len(chunk), ABSENT)
        logits = pipeline.recombine(parts, everyone, everyone)
        whole, u = _softmax(logits), uncertainty(_softmax(logits))
        d = np.zeros(len(chunk))
        if len(sides) == 2:
            text, image = (
                _softmax(pipeline.recombine(parts, *pair)) for pair in ((everyone, nobody), (nobody, everyone))
            )
            there = [
                np.any(
                    [mask.any(1).numpy() for name, mask in parts.masks.items() if pipeline.config.side(name) == side], 0
                )
                for side in ("text", "image")
            ]
            d = np.where(there[0] & there[1], disagreement(text, image), 0.0)
        decided = pipeline.decide(logits)
        for place in range(len(chunk)):
            shown = {
                "text": chunk[place]["text"] or "",
                "predicted": pipeline.class_names[decided[place]],
                "probability": float(whole[place, decided[place]]),
                "uncertainty": round(float(u[place]), 4),
                "disagreement": round(float(d[place]), 4),
            }
            yield float(u[place] + d[place]), shown


def _write(posts: Sequence[tuple[Any, dict[str, Any]]], class_names: Sequence[str], out: Path) -> list[Selected]:
    partial = out.with_name(f"{out.name}.partial")
    (partial / "images").mkdir(parents=True, exist_ok=True)
    selected, tasks = [], []
    for number, (row, found) in enumerate(posts):
        data, path = (row.get("image") or {}).get("bytes"), ""
        task: dict[str, Any] = {"id": row["id"], "text": row["text"] or "", "image": ""}
        if data:
            kind = media_type(data)
            path = f"images/{number:05d}.{kind.partition('/')[2]}"
            (partial / path).write_bytes(data)
            task["image"] = f"data:{kind};base64,{b64encode(data).decode()}"
        one = Selected(
            row["id"], row["text"] or "", path, found["predicted"], found["uncertainty"], found["disagreement"]
        )
        selected.append(one)
        choice = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [one.predicted]}}
        tasks.append({"data": task, "predictions": [{"result": [choice], "score": found["probability"]}]})
    with replacing(partial / "selected.csv") as path_, open(path_, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Selected)])
        writer.writeheader()
        writer.writerows(map(asdict, selected))
    write_json(partial / "tasks.json", tasks)
    write_text(partial / "label_studio.xml", label_config(class_names))
    partial.rename(out)
    return selected


def label_config(class_names: Sequence[str]) -> str:
    """The set-up of a Label Studio project for these classes, of text and image."""
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in class_names)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n  <Text name="text" value="$text"/>\n'
        f'  <Choices name="label" toName="text" choice="single" showInLine="true">\n{choices}\n  </Choices>\n</View>\n'
    )


def _softmax(logits: Float[NDArray, "posts classes"]) -> Float[NDArray, "posts classes"]:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)
