"""A file of posts -> a file of predictions, in a stream: memory does not grow with the number of rows.

Some thousand rows at a time are written to a file of their own in `OUTPUT.shards`; at the end these become the output. So a
prediction that was stopped, however it was, goes on behind the last of them, and ends with the same bytes.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from clfa.config import Precision
from clfa.data.cache import Engine
from clfa.data.cells import CELLS
from clfa.data.columns import KNOWLEDGE_COLUMNS, as_text, knowledge_columns
from clfa.data.formats import Table
from clfa.data.images import safe_image
from clfa.data.lock import only_one
from clfa.data.places import Place, deliver, list_places, place, staged, version
from clfa.data.progress import Progress, progress, track
from clfa.data.seal import MANIFEST
from clfa.data.tables import OPTIONS, open_posts
from clfa.errors import UserError
from clfa.serving.output import ABSENT, WRITERS, Row, Shards, Types
from clfa.serving.predictor import CHUNK, Predictor, problem_of

log = logging.getLogger(__name__)

SHARD = 16  # chunks in a file of their own
LISTED = 20  # bad images that are named
Chunk = list[tuple[int, Row | UserError]]
"""Some rows with their lines."""


@dataclass(frozen=True)
class _Source:
    """A table of posts and how its rows become posts of a run."""

    table: Table
    path: Place
    columns: Mapping[str, str]
    image_dir: Place
    predictor: Predictor
    on_bad: str

    def post(self, row: Row | UserError, line: int) -> tuple[Row | None, str]:
        """A post ready for the model, and its problem. `None`: it is not predicted."""
        if isinstance(row, UserError):
            return None, problem_of(row)
        where = self.table.where(line)
        prepare = self.predictor.pipeline.prepare
        try:
            post = {name: row.get(name) for name in self.predictor.pipeline.config.columns() if name in row}
            post |= knowledge_columns(row, where, as_text(row.get(self.columns["text"]), where))
            post |= {ours: row.get(column) for ours, column in self.columns.items()}
            without = prepare(post | dict.fromkeys(self.file_columns))
        except UserError as error:
            return None, problem_of(error)
        if not self.file_columns:
            return without, ""
        try:
            post |= {name: safe_image(post.get(name), self.image_dir, where) for name in self.file_columns}
            missing = [name for name in self.file_columns if not post[name]]
            return prepare(post), f"{ABSENT}{missing[0]}" if missing else ""
        except UserError as error:
            return None if self.on_bad == "skip" else without, problem_of(error)

    @cached_property
    def file_columns(self) -> list[str]:
        """The columns that a modality reads from files, such as images."""
        config = self.predictor.pipeline.config
        return list(
            dict.fromkeys(config.column(name) for name, m in config.modalities.items() if CELLS[m.kind].in_files)
        )


def predict_file(
    run: str | Path,
    source: Place,
    output: Place,
    columns: Mapping[str, str],
    image_dir: Path | None = None,
    on_bad: str = "fail",
    engine: Engine = "plain",
    precision: Precision = "fp32",
) -> dict[str, int]:
    """Predict each post of a CSV, TSV, JSONL or Parquet file; every input row is one output row, in order.

    The output holds the input's columns (but for images stored inside the table) and `predicted`, `probability_<class>` …,
    `problem`. An empty image cell means that the post has no image: it is predicted from its text, and `problem` says
    "no image". A prediction that was stopped goes on when the same command is given again.

    Args:
        output: its ending (.csv, .tsv, .jsonl, .parquet) gives the format.
        columns: our name -> column name, for `text`, `image`, `knowledge`.
        image_dir: folder that image paths are relative to; by default the folder of the file.
        on_bad: images that are named but missing or unreadable, and lines that are no rows: `fail` counts them all, lists
            the first 20 and predicts nothing; `mask` predicts from the text alone, `skip` leaves the prediction empty, as
            both do for lines that are no rows, and `problem` says so.
        engine: `plain`, this process; or `ray`, a cluster (see `clfa.data.cluster`).
        precision: see `Predictor`.

    Returns:
        `{"rows", "predicted", "without_image", "bad_images", "bad_rows"}`.

    Raises:
        UserError: see `on_bad`; unknown endings; the output exists.
    """
    _refuse_ending(output)
    if output.exists():
        raise UserError(f"{output} exists: choose another --output, or delete it first")
    predictor = Predictor(run, precision=precision)
    return _predict_one(predictor, run, source, output, columns, image_dir, on_bad, engine)


def predict_files(
    run: str | Path,
    source: str,
    folder: Place,
    columns: Mapping[str, str],
    image_dir: Path | None = None,
    on_bad: str = "fail",
    engine: Engine = "plain",
    precision: Precision = "fp32",
) -> dict[str, int]:
    """Predict each file of a folder, or that a pattern names, to a file of the same name in another folder.

    A file whose output is there is done, so the same command goes on after a stop, and takes what has come since. The model
    is loaded once, by the workers of a cluster once for each file. Arguments as of `predict_file`.

    Returns:
        The sums of its counts over the files that were predicted now, `files`, and `finished_before` of them.

    Raises:
        UserError: see `predict_file`; no such files, two of one name, or the folder is the one that they are in.
    """
    sources = list_files(source)
    by_name = Counter(path.name for path in sources)
    twice = [name for name, count in by_name.items() if count > 1]
    if twice:
        raise UserError(f"{source}: several files are called {twice[0]}, and their outputs would be, too: rename them")
    if str(folder.resolve()) in {str(path.parent.resolve()) for path in sources}:
        raise UserError(f"{folder} holds the posts themselves: choose another folder for --output")
    for path in sources:
        _refuse_ending(path)
    predictor, total = Predictor(run, precision=precision), Counter[str](files=len(sources), finished_before=0)
    for number, path in enumerate(sources, 1):
        if (folder / path.name).exists():
            total["finished_before"] += 1
            continue
        log.info("%s, %s of %s files", path, number, len(sources))
        total.update(_predict_one(predictor, run, path, folder / path.name, columns, image_dir, on_bad, engine))
    return dict(total)


def names_several(source: str) -> bool:
    """Whether it is a folder or a pattern, and no file."""
    signs = any(sign in source for sign in "*?[")
    return place(source).is_dir() or (signs and not place(source).exists())


def list_files(source: str) -> list[Place]:
    """The files of posts in a folder (not those in folders below it), or that a pattern names, by their names.

    Raises:
        UserError: there are none.
    """
    pattern = str(place(source) / "*") if place(source).is_dir() else source
    found = [path for path in list_places(pattern) if path.suffix in WRITERS]
    if not found:
        raise UserError(f"{source} names no file of posts; read are {', '.join(WRITERS)}")
    return found


def _refuse_ending(output: Place) -> None:
    if output.suffix not in WRITERS:
        raise UserError(f"{output}: unknown ending {output.suffix!r}; written are {', '.join(WRITERS)}")


def _predict_one(
    predictor: Predictor,
    run: str | Path,
    source: Place,
    output: Place,
    columns: Mapping[str, str],
    image_dir: Path | None,
    on_bad: str,
    engine: Engine,
) -> dict[str, int]:
    posts = _source(predictor, source, columns, image_dir, on_bad)
    written = staged(output)
    with only_one(written):
        shards = Shards(written, _asked(run, posts))
        counts = _predict(posts, shards, run, engine)
        deliver(written, output)
        shards.remove()
    if written != output:
        with suppress(OSError):  # the next one has begun there
            written.parent.rmdir()
    return counts


def _source(
    predictor: Predictor, source: Place, columns: Mapping[str, str], image_dir: Path | None, on_bad: str
) -> _Source:
    table = _open(predictor, source, columns)
    return _Source(table, source, columns, image_dir or source.parent, predictor, on_bad)


def _predict(posts: _Source, shards: Shards, run: str | Path, engine: Engine) -> dict[str, int]:
    predictor, table = posts.predictor, posts.table
    total, held = _look(posts, checked=shards.are_there)
    probabilities: Types = {f"probability_{name}": {float: 0.0} for name in predictor.class_names}
    added: Types = {"predicted": {str: ""}, **probabilities, "problem": {str: ""}}
    taken = [name for name in added if name in held]
    if taken:
        raise UserError(f"{posts.path} has columns that the output adds ({', '.join(taken)}): rename them in the input")
    kept = {name: samples for name, samples in held.items() if not {bytes, dict} & samples.keys()}
    shards.begin(-(-total // (SHARD * CHUNK)))
    with progress("predicting", total) as bar:
        jobs = _jobs(table, shards, bar)
        if engine == "ray":
            from clfa.data.cluster import cluster, spread

            given = (
                run,
                predictor.precision,
                posts.path,
                posts.columns,
                posts.image_dir,
                posts.on_bad,
                shards,
                kept,
                added,
            )
            with cluster() as workers:
                for rows in spread(jobs, workers, open_worker, *given):
                    bar.add(rows)
        else:
            for number, chunks in jobs:
                shards.add(number, _answered(posts, chunks, kept, added, bar.add), kept | added)
    return shards.end(kept | added)


def open_worker(
    run: str | Path,
    precision: Precision,
    source: Place,
    columns: Mapping[str, str],
    image_dir: Place,
    on_bad: str,
    shards: Shards,
    kept: Types,
    added: Types,
) -> Callable[[int, list[Chunk]], int]:
    """What writes a shard of a given number from its chunks in another process, and says how many rows it has."""
    if not shards.about.is_file():
        raise UserError(
            f"{shards.folder} is not on all machines of the cluster: choose an --output that they share; for object "
            "storage, set TMPDIR to such a folder"
        )
    predictor = Predictor(run, precision=precision)
    if predictor.precision != precision:
        raise UserError(f"a machine of the cluster has no {precision}: choose another --precision")
    posts = _source(predictor, source, columns, image_dir, on_bad)

    def write(number: int, chunks: list[Chunk]) -> int:
        if not shards.has(number):
            shards.add(number, _answered(posts, chunks, kept, added, lambda rows: None), kept | added)
        return shards.counts(number)["rows"]

    return write


def _jobs(table: Table, shards: Shards, bar: Progress) -> Iterator[tuple[int, list[Chunk]]]:
    """Number and chunks of each shard that is not done."""
    chunks = _chunks(table)
    for number in range(shards.count):
        several = list(islice(chunks, SHARD))
        if shards.has(number):  # read, and not predicted again
            bar.add(shards.counts(number)["rows"])
        else:
            yield number, several


def _asked(run: str | Path, posts: _Source) -> dict[str, Any]:
    """What the rows that are predicted depend on: another run, source or option begins anew."""
    return {
        "run": hashlib.sha256((Path(run) / MANIFEST).read_bytes()).hexdigest(),
        "source": version(posts.path),
        "columns": dict(posts.columns),
        "image_dir": str(posts.image_dir),
        "on_bad": posts.on_bad,
        "precision": posts.predictor.precision,
    }


def _chunks(table: Table) -> Iterator[Chunk]:
    lines = table.lines(None)
    while chunk := list(islice(lines, CHUNK)):
        yield chunk


def _answered(
    posts: _Source, chunks: list[Chunk], kept: Types, added: Types, count: Callable[[int], object]
) -> Iterator[list[Row]]:
    """The rows of the output, a chunk at a time; they are counted when they are written."""
    for chunk in chunks:
        prepared = [posts.post(row, line) for line, row in chunk]
        answers = iter(posts.predictor.answer([post for post, _ in prepared if post is not None]))
        written = []
        for (_, row), (post, problem) in zip(chunk, prepared):
            answer = next(answers) if post is not None else None
            there = {} if isinstance(row, UserError) else row
            cells = {name: there.get(name) for name in kept} | dict.fromkeys(added) | {"problem": problem}
            if answer is not None:
                cells["predicted"] = answer.predicted
                cells |= {f"probability_{name}": value for name, value in answer.probabilities.items()}
            written.append(cells)
        yield written
        count(len(chunk))


def _open(predictor: Predictor, source: Place, columns: Mapping[str, str]) -> Table:
    """The table, if it has the columns that it must have and none is named that the run does not read."""
    read = predictor.pipeline.config.columns()
    unread = [name for name in columns if name not in (*OPTIONS, *KNOWLEDGE_COLUMNS, *read)]
    if unread:
        raise UserError(f"the run reads no column {unread[0]!r}; it reads {', '.join(read)}")
    # texts and images that the run reads, and what was named, must be there; other columns may be missing
    always = {"text", "image"} & set(read)
    return open_posts(source, columns, [ours for ours, column in columns.items() if ours in always or column != ours])


def _look(posts: _Source, checked: bool) -> tuple[int, Types]:
    """How many rows and which columns there are; bad ones are a UserError if any of them is to stop the prediction, and if
    they were not `checked` before."""
    total, columns = 0, Types()
    bad_count, bad = 0, []
    lines = track(posts.table.lines(None), f"checking {posts.path.name}")
    for line, row in lines:
        total += 1
        if not isinstance(row, UserError):
            for name, value in row.items():
                samples = columns.setdefault(name, {})
                if value is not None:
                    samples.setdefault(type(value), value)
        problem = posts.post(row, line)[1] if posts.on_bad == "fail" and not checked else ""
        if problem and not problem.startswith(ABSENT):
            bad_count += 1
            if bad_count <= LISTED:
                bad.append(f"{posts.table.where(line)}: {problem}")
    _warn_of_absent(posts, columns)
    if bad:
        listed = "\n  ".join(bad)
        raise UserError(
            f"{bad_count} of {total:,} posts name a missing or unreadable image, or are no rows; nothing was predicted; "
            f"the first {len(bad)}:\n  {listed}\n"
            "Fix the files or --image-dir, or use --on-bad mask (predict from the text alone) or --on-bad skip"
        )
    return total, columns


def _warn_of_absent(posts: _Source, columns: Types) -> None:
    config = posts.predictor.pipeline.config
    for name in dict.fromkeys(config.column(name) for name in (config.query(), *config.contexts())):
        if posts.columns.get(name, name) not in columns:
            log.warning("%s has no column %r, which the run reads: --column %s=… names another", posts.path, name, name)
