"""Predict each post of a file."""

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clfa.data.columns import as_text, knowledge_columns
from clfa.data.tables import read_posts, safe_image
from clfa.errors import UserError
from clfa.serving.predictor import Prediction, Predictor, _image_bytes


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
