"""A file of posts -> a file of predictions, in a stream: memory does not grow with the number of rows."""

import csv
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from clfa.data.atomic import replacing
from clfa.data.columns import KNOWLEDGE_COLUMNS, as_text, knowledge_columns
from clfa.data.progress import progress, track
from clfa.data.tables import OPTIONS, Table, open_posts, safe_image
from clfa.errors import UserError
from clfa.model.modalities import kind_of
from clfa.serving.predictor import Prediction, Predictor

log = logging.getLogger(__name__)

CHUNK = 256  # rows in memory

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
        without = post | dict.fromkeys(self.file_columns)
        try:
            post |= {name: safe_image(post.get(name), self.image_dir, where) for name in self.file_columns}
            missing = [name for name in self.file_columns if not post[name]]
            return self.predictor.pipeline.prepare(post), f"no {missing[0]}" if missing else ""
        except UserError as error:
            if not self.file_columns:
                raise
            masked = self.predictor.pipeline.prepare(without)  # raises if it is not the image that is bad
            return None if self.on_bad == "skip" else masked, f"bad image: {error}"

    @property
    def file_columns(self) -> list[str]:
        """The columns that a modality reads from files, such as images."""
        config = self.predictor.pipeline.config
        return list(dict.fromkeys(config.column(name) for name, m in config.modalities.items() if kind_of(m).in_files))


@dataclass
class _Found:
    """What a pass over the input finds before anything is predicted."""

    rows: int = 0
    columns: dict[str, dict[type, Any]] = field(default_factory=dict)
    """Column -> a value of each type that occurs in it, to write it in one type."""
    bad: list[str] = field(default_factory=list)
    """The first rows with a bad image, if any of them stops the prediction."""
    bad_count: int = 0


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
    if output.suffix not in WRITERS:
        raise UserError(f"{output}: unknown ending {output.suffix!r}; written are {', '.join(WRITERS)}")
    if output.exists():
        raise UserError(f"{output} exists: choose another --output, or delete it first")
    predictor = Predictor(run)
    table = _open(predictor, source, columns)
    posts = _Source(table, source, columns, image_dir or source.parent, predictor, on_bad)
    found = _look(posts)
    _warn_of_absent(posts, found)
    if found.bad:
        listed = "\n  ".join(found.bad)
        raise UserError(
            f"{found.bad_count} of {found.rows:,} posts name a missing or unreadable image, nothing was predicted; "
            f"the first {len(found.bad)}:\n  {listed}\n"
            "Fix the files or --image-dir, or use --on-bad mask (predict from the text alone) or --on-bad skip"
        )
    ours = ["predicted", *(f"probability_{name}" for name in predictor.class_names), "problem"]
    taken = [name for name in ours if name in found.columns]
    if taken:
        raise UserError(f"{source} has columns that the output adds ({', '.join(taken)}): rename them in the input")
    kept = {name: samples for name, samples in found.columns.items() if not {bytes, dict} & samples.keys()}
    types = kept | {"predicted": {str: ""}, "problem": {str: ""}}
    types |= {f"probability_{name}": {float: 0.0} for name in predictor.class_names}
    counts = {"rows": found.rows, "predicted": 0, "without_image": 0, "bad_images": 0}
    with (
        replacing(output) as partial,
        closing(WRITERS[output.suffix](partial, {name: types[name] for name in [*kept, *ours]})) as writer,
    ):
        for row, answer, problem in _predicted(posts, found.rows):
            counts["predicted"] += answer is not None
            counts["without_image"] += problem == "no image"
            counts["bad_images"] += problem.startswith("bad image")
            writer.write({name: row.get(name) for name in kept} | _cells(answer, predictor.class_names, problem))
    return counts


def _open(predictor: Predictor, source: Path, columns: Mapping[str, str]) -> Table:
    """The table, if it has the columns that it must have and none is named that the run does not read."""
    read = predictor.pipeline.config.columns()
    unread = [name for name in columns if name not in (*OPTIONS, *KNOWLEDGE_COLUMNS, *read)]
    if unread:
        raise UserError(f"the run reads no column {unread[0]!r}; it reads {', '.join(read)}")
    # texts, images that the run reads, and what was named must be there; other columns may be missing
    always = {"text", *(["image"] if "image" in read else [])}
    return open_posts(source, columns, [ours for ours, column in columns.items() if ours in always or column != ours])


def _warn_of_absent(posts: _Source, found: _Found) -> None:
    config = posts.predictor.pipeline.config
    for name in dict.fromkeys(config.column(name) for name in (config.query(), *config.contexts())):
        if posts.columns.get(name, name) not in found.columns:
            log.warning("%s has no column %r, which the run reads: --column %s=… names another", posts.path, name, name)


def _look(posts: _Source) -> _Found:
    """Count rows and columns and, where a bad image stops everything, check all images."""
    found = _Found()
    for row in track(posts.table.rows(None), f"checking {posts.path.name}"):
        found.rows += 1
        for name, value in row.items():
            if value is not None:
                found.columns.setdefault(name, {}).setdefault(type(value), value)
            found.columns.setdefault(name, {})
        if posts.on_bad == "fail" and posts.file_columns:
            _, problem = posts.post(row, found.rows)
            if problem.startswith("bad image"):
                found.bad_count += 1
                if len(found.bad) < 20:
                    found.bad.append(f"row {found.rows}: {problem.removeprefix('bad image: ')}")
    return found


def _predicted(posts: _Source, total: int) -> Iterator[tuple[Row, Prediction | None, str]]:
    """Each row with its answer and its problem, a chunk of rows at a time."""
    rows = enumerate(posts.table.rows(None), 1)
    with progress("predicting", total) as bar:
        while chunk := list(islice(rows, CHUNK)):
            prepared = [posts.post(row, number) for number, row in chunk]
            answers = iter(posts.predictor.answer([post for post, _ in prepared if post is not None]))
            for (_, row), (post, problem) in zip(chunk, prepared):
                yield row, next(answers) if post is not None else None, problem
            bar.add(len(chunk))


def _cells(answer: Prediction | None, class_names: Sequence[str], problem: str) -> Row:
    probabilities = {f"probability_{name}": answer.probabilities[name] if answer else None for name in class_names}
    return {"predicted": answer.predicted if answer else None, **probabilities, "problem": problem}


class Writer(Protocol):
    """Writes rows to a file, one after the other."""

    def write(self, row: Row) -> None:
        """One row."""

    def close(self) -> None:
        """The last one was written."""


Types = Mapping[str, Mapping[type, Any]]
"""Column -> a value of each type that occurs in it."""


class _CsvWriter:
    def __init__(self, path: Path, columns: Types, delimiter: str = ","):
        self.file = open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115  # closed in `close`
        self.writer = csv.DictWriter(self.file, list(columns), delimiter=delimiter)
        self.writer.writeheader()

    def write(self, row: Row) -> None:
        self.writer.writerow(row)

    def close(self) -> None:
        self.file.close()


class _JsonlWriter:
    def __init__(self, path: Path, columns: Types):
        self.file = open(path, "w", encoding="utf-8")  # noqa: SIM115  # closed in `close`

    def write(self, row: Row) -> None:
        self.file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

    def close(self) -> None:
        self.file.close()


class _ParquetWriter:
    """Each column in the type of its values; columns of mixed types, or without a value, are texts."""

    def __init__(self, path: Path, columns: Types):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.schema = pa.schema([(name, _arrow_type(list(samples.values()))) for name, samples in columns.items()])
        self.texts = [field.name for field in self.schema if pa.types.is_string(field.type)]
        self.writer, self.waiting = pq.ParquetWriter(path, self.schema), []  # type: ignore[var-annotated]

    def write(self, row: Row) -> None:
        self.waiting.append(row | {name: str(row[name]) for name in self.texts if row.get(name) is not None})
        if len(self.waiting) >= CHUNK:
            self._flush()

    def close(self) -> None:
        self._flush()
        self.writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        self.writer.write_table(pa.Table.from_pylist(self.waiting, schema=self.schema))
        self.waiting = []


def _arrow_type(samples: list) -> Any:
    import pyarrow as pa

    try:
        found = pa.infer_type(samples)
    except pa.ArrowException:
        return pa.string()
    return pa.string() if pa.types.is_null(found) else found


WRITERS: dict[str, Callable[[Path, Types], Writer]] = {
    ".csv": _CsvWriter,
    ".tsv": lambda path, columns: _CsvWriter(path, columns, "\t"),
    ".jsonl": _JsonlWriter,
    ".parquet": _ParquetWriter,
}
