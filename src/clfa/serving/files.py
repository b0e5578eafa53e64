"""A file of posts -> a file of predictions, in a stream: memory does not grow with the number of rows."""

import csv
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from clfa.data.atomic import replacing
from clfa.data.columns import KNOWLEDGE_COLUMNS, as_text, knowledge_columns
from clfa.data.formats import Table
from clfa.data.images import safe_image
from clfa.data.progress import progress, track
from clfa.data.tables import OPTIONS, open_posts
from clfa.errors import UserError
from clfa.model.modalities import kind_of
from clfa.serving.predictor import Prediction, Predictor

log = logging.getLogger(__name__)

CHUNK = 256  # rows in memory
LISTED = 20  # bad images that are named

Row = dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """A table of posts and how its rows become posts of a run."""

    table: Table
    path: Path
    columns: Mapping[str, str]
    image_dir: Path
    predictor: Predictor
    on_bad: str

    def post(self, row: Row, number: int) -> tuple[Row | None, str]:
        """A post ready for the model, and its problem. `None`: it is not predicted."""
        where = f"{self.path.name}, row {number}"
        post = {name: row.get(name) for name in self.predictor.pipeline.config.columns() if name in row}
        post |= knowledge_columns(row, where, as_text(row.get(self.columns["text"])))
        post |= {ours: row.get(column) for ours, column in self.columns.items()}
        try:
            post |= {name: safe_image(post.get(name), self.image_dir, where) for name in self.file_columns}
            missing = [name for name in self.file_columns if not post[name]]
            return self.predictor.pipeline.prepare(post), f"no {missing[0]}" if missing else ""
        except UserError as error:
            if not self.file_columns:
                raise
            without = post | dict.fromkeys(self.file_columns)
            masked = self.predictor.pipeline.prepare(without)  # raises if it is not the image that is bad
            return None if self.on_bad == "skip" else masked, f"bad image: {error}"

    @cached_property
    def file_columns(self) -> list[str]:
        """The columns that a modality reads from files, such as images."""
        config = self.predictor.pipeline.config
        return list(dict.fromkeys(config.column(name) for name, m in config.modalities.items() if kind_of(m).in_files))


Types = dict[str, dict[type, Any]]
"""Column -> a value of each type that occurs in it, to write it in one type."""


def predict_file(
    run: str | Path,
    source: Path,
    output: Path,
    columns: Mapping[str, str],
    image_dir: Path | None = None,
    on_bad: str = "fail",
) -> dict[str, int]:
    """Predict each post of a CSV, TSV, JSONL or Parquet file; every input row is one output row, in order.

    The output holds the input's columns (but for images stored inside the table) and `predicted`, `probability_<class>` …,
    `problem`. An empty image cell means that the post has no image: it is predicted from its text, and `problem` says
    "no image".

    Args:
        output: its ending (.csv, .tsv, .jsonl, .parquet) gives the format.
        columns: our name -> column name, for `text`, `image`, `knowledge`.
        image_dir: folder that image paths are relative to; by default the folder of the file.
        on_bad: images that are named but missing or unreadable: `fail` counts them all, lists the first 20 and predicts
            nothing; `mask` predicts from the text alone, `skip` leaves the prediction empty, and `problem` says so.

    Returns:
        `{"rows", "predicted", "without_image", "bad_images"}`.

    Raises:
        UserError: see `on_bad`; unknown endings; the output exists.
    """
    if output.suffix not in WRITERS:
        raise UserError(f"{output}: unknown ending {output.suffix!r}; written are {', '.join(WRITERS)}")
    if output.exists():
        raise UserError(f"{output} exists: choose another --output, or delete it first")
    predictor = Predictor(run)
    table = _open(predictor, source, columns)
    posts = _Source(table, source, columns, image_dir or source.parent, predictor, on_bad)
    total, held = _look(posts)
    probabilities: Types = {f"probability_{name}": {float: 0.0} for name in predictor.class_names}
    added: Types = {"predicted": {str: ""}, **probabilities, "problem": {str: ""}}
    taken = [name for name in added if name in held]
    if taken:
        raise UserError(f"{source} has columns that the output adds ({', '.join(taken)}): rename them in the input")
    kept = {name: samples for name, samples in held.items() if not {bytes, dict} & samples.keys()}
    counts = {"rows": total, "predicted": 0, "without_image": 0, "bad_images": 0}
    with replacing(output) as partial, WRITERS[output.suffix](partial, kept | added) as write:
        for chunk in _predicted(posts, total):
            written = []
            for row, answer, problem in chunk:
                counts["predicted"] += answer is not None
                counts["without_image"] += problem == "no image"
                counts["bad_images"] += problem.startswith("bad image")
                cells = {name: row.get(name) for name in kept} | dict.fromkeys(added) | {"problem": problem}
                if answer is not None:
                    cells["predicted"] = answer.predicted
                    cells |= {f"probability_{name}": value for name, value in answer.probabilities.items()}
                written.append(cells)
            write(written)
    return counts


def _open(predictor: Predictor, source: Path, columns: Mapping[str, str]) -> Table:
    """The table, if it has the columns that it must have and none is named that the run does not read."""
    read = predictor.pipeline.config.columns()
    unread = [name for name in columns if name not in (*OPTIONS, *KNOWLEDGE_COLUMNS, *read)]
    if unread:
        raise UserError(f"the run reads no column {unread[0]!r}; it reads {', '.join(read)}")
    # texts and images that the run reads, and what was named, must be there; other columns may be missing
    always = {"text", "image"} & set(read)
    return open_posts(source, columns, [ours for ours, column in columns.items() if ours in always or column != ours])


def _look(posts: _Source) -> tuple[int, Types]:
    """How many rows and which columns there are; bad images are a UserError if any of them is to stop the prediction."""
    total, columns = 0, Types()
    bad_count, bad = 0, []
    for total, row in enumerate(track(posts.table.rows(None), f"checking {posts.path.name}"), 1):
        for name, value in row.items():
            samples = columns.setdefault(name, {})
            if value is not None:
                samples.setdefault(type(value), value)
        problem = posts.post(row, total)[1] if posts.on_bad == "fail" and posts.file_columns else ""
        if problem.startswith("bad image"):
            bad_count += 1
            if bad_count <= LISTED:
                bad.append(f"row {total}: {problem.removeprefix('bad image: ')}")
    _warn_of_absent(posts, columns)
    if bad:
        listed = "\n  ".join(bad)
        raise UserError(
            f"{bad_count} of {total:,} posts name a missing or unreadable image, nothing was predicted; "
            f"the first {len(bad)}:\n  {listed}\n"
            "Fix the files or --image-dir, or use --on-bad mask (predict from the text alone) or --on-bad skip"
        )
    return total, columns


def _warn_of_absent(posts: _Source, columns: Types) -> None:
    config = posts.predictor.pipeline.config
    for name in dict.fromkeys(config.column(name) for name in (config.query(), *config.contexts())):
        if posts.columns.get(name, name) not in columns:
            log.warning("%s has no column %r, which the run reads: --column %s=… names another", posts.path, name, name)


def _predicted(posts: _Source, total: int) -> Iterator[list[tuple[Row, Prediction | None, str]]]:
    """Rows with their answers and problems, a chunk of them at a time."""
    rows = enumerate(posts.table.rows(None), 1)
    with progress("predicting", total) as bar:
        while chunk := list(islice(rows, CHUNK)):
            prepared = [posts.post(row, number) for number, row in chunk]
            answers = iter(posts.predictor.answer([post for post, _ in prepared if post is not None]))
            yield [
                (row, next(answers) if post is not None else None, problem)
                for (_, row), (post, problem) in zip(chunk, prepared)
            ]
            bar.add(len(chunk))


Writer = AbstractContextManager[Callable[[list[Row]], object]]
"""An open file; what it gives writes some rows."""


@contextmanager
def _csv_writer(path: Path, columns: Types, delimiter: str = ",") -> Iterator[Callable]:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns), delimiter=delimiter)
        writer.writeheader()
        yield writer.writerows


@contextmanager
def _jsonl_writer(path: Path, columns: Types) -> Iterator[Callable]:
    with open(path, "w", encoding="utf-8") as file:
        yield lambda rows: file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


@contextmanager
def _parquet_writer(path: Path, columns: Types) -> Iterator[Callable]:
    """Each column in the type of its values; columns of mixed types, or without a value, are texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _arrow_type(list(samples.values()))) for name, samples in columns.items()])
    texts = [field.name for field in schema if pa.types.is_string(field.type)]

    def write(rows: list[Row]) -> None:
        cells = [row | {name: str(row[name]) for name in texts if row[name] is not None} for row in rows]
        file.write_table(pa.Table.from_pylist(cells, schema=schema))

    with pq.ParquetWriter(path, schema) as file:
        yield write


def _arrow_type(samples: list) -> Any:
    import pyarrow as pa

    try:
        inferred = pa.infer_type(samples)
    except pa.ArrowException:
        return pa.string()
    return pa.string() if pa.types.is_null(inferred) else inferred


WRITERS: dict[str, Callable[[Path, Types], Writer]] = {
    ".csv": _csv_writer,
    ".tsv": lambda path, columns: _csv_writer(path, columns, "\t"),
    ".jsonl": _jsonl_writer,
    ".parquet": _parquet_writer,
}
