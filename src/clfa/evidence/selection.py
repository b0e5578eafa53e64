"""Which posts of a pool to label next: those that a run is unsure of, or reads differently by text and image."""

import csv
import logging
import shutil
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import softmax

from clfa.data.atomic import replacing, write_json, write_text
from clfa.data.cells import CELLS
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
    cells: dict[str, str]
    """Column that the run reads -> a text, or the path of a file below the folder; empty for none."""
    predicted: str
    probability: float
    uncertainty: float
    """1 minus the difference of the two largest probabilities."""
    disagreement: float
    """Of what text alone and image alone say, from 0 to 1."""


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
    for place, (information, judged) in enumerate(_judged(pipeline, rows)):
        form = text_form(judged["text"]) or f"\0{place}"
        if form not in best or information > best[form][0]:
            best[form] = information, place, judged
        if len(best) > 10 * n:
            best = _most(best, n)
    in_files = {
        pipeline.config.column(name): CELLS[one.kind].in_files for name, one in pipeline.config.modalities.items()
    }
    chosen = [(rows[place], judged) for _, place, judged in _most(best, n).values()]
    return _write(chosen, {"text": False} | in_files, pipeline.class_names, out)


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
        whole = softmax(logits, 1)
        u = uncertainty(whole)
        d = np.zeros(len(chunk))
        if len(sides) == 2:
            text, image = (
                softmax(pipeline.recombine(parts, *pair), 1) for pair in ((everyone, nobody), (nobody, everyone))
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
                "probability": round(float(whole[place, decided[place]]), 4),
                "uncertainty": round(float(u[place]), 4),
                "disagreement": round(float(d[place]), 4),
            }
            yield float(u[place] + d[place]), shown


def _write(
    posts: Sequence[tuple[Any, dict[str, Any]]], in_files: Mapping[str, bool], class_names: Sequence[str], out: Path
) -> list[Selected]:
    """`in_files`: column -> whether its cells are files."""
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
    (partial / "images").mkdir(parents=True)
    selected, tasks = [], []
    config = label_config(class_names, in_files)
    for number, (row, judged) in enumerate(posts):
        cells: dict[str, str] = {}
        data: dict[str, str] = {"id": row["id"]}
        for column, in_file in in_files.items():
            value = row.get(column)
            if not in_file:
                cells[column] = data[column] = str(value or "")
                continue
            content = value.get("bytes") if isinstance(value, dict) else value
            cells[column] = data[column] = ""
            if content:
                kind = media_type(content)
                cells[column] = f"images/{number:05d}-{column}.{kind.partition('/')[2]}"
                (partial / cells[column]).write_bytes(content)
                data[column] = f"data:{kind};base64,{b64encode(content).decode()}"
        shown = {name: value for name, value in judged.items() if name != "text"}
        selected.append(Selected(row["id"], cells, **shown))
        choice = {"from_name": "label", "to_name": next(iter(in_files)), "type": "choices"}
        result = choice | {"value": {"choices": [judged["predicted"]]}}
        tasks.append({"data": data, "predictions": [{"result": [result], "score": judged["probability"]}]})
    head = ["id", *in_files, "predicted", "probability", "uncertainty", "disagreement", "label"]
    with replacing(partial / "selected.csv") as path, open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, head, restval="")  # the column label is for the reviewer
        writer.writeheader()
        for one in selected:
            flat = asdict(one)
            writer.writerow(flat.pop("cells") | flat)
    write_json(partial / "tasks.json", tasks)
    write_text(partial / "label_studio.xml", config)
    partial.rename(out)
    return selected


def label_config(class_names: Sequence[str], in_files: Mapping[str, bool]) -> str:
    """The set-up of a Label Studio project for these classes and columns (column -> whether its cells are files)."""
    parts = [
        f"  <{'Image' if in_file else 'Text'} name={quoteattr(column)} value={quoteattr('$' + column)}/>"
        for column, in_file in in_files.items()
    ]
    choices = [f"    <Choice value={quoteattr(name)}/>" for name in class_names]
    to = quoteattr(next(iter(in_files)))
    begin = f'  <Choices name="label" toName={to} choice="single" showInLine="true">'
    return "\n".join(["<View>", *parts, begin, *choices, "  </Choices>", "</View>", ""])
