"""Anybody's posts: CSV, TSV, JSONL, Parquet, image folders, hub data sets -> rows `(split, Record)`, or rows to predict.

Tables are read in a stream, as often as needed; no table is ever in memory as a whole.
"""

import logging
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clfa.data.columns import KNOWLEDGE_COLUMNS, as_cell, as_text, knowledge_columns
from clfa.data.drawing import MIN_POSTS, draw_missing, group_repeats, replace_rare
from clfa.data.formats import Row, Table, open_file, open_source, split_name
from clfa.data.progress import track
from clfa.data.published import Rows
from clfa.data.records import SPLITS, UNLABELLED, Dropped, Record
from clfa.errors import UserError

log = logging.getLogger(__name__)
OPTIONS = ("id", "text", "image", "label", "split", "knowledge")  # columns with an option of their own


def read_table(
    source: str,
    images: Path | None,
    columns: Mapping[str, str],
    seed: int = 0,
    embed: bool = True,
    further: Mapping[str, str] | None = None,
    rare: str = "train",
    texts: bool = True,
    unlabelled: str = "refuse",
) -> tuple[Rows, list[str], dict[str, Any]]:
    """Anybody's posts: CSV, TSV, JSONL or Parquet; a folder of those named train/validation/test; or anything that
    `datasets.load_dataset` reads from a local folder (imagefolder with `metadata.csv`) or by hub name.

    Args:
        source: file, folder or hub name.
        images: folder that image paths are relative to; by default the folder of the file.
        columns: our name -> column name in the file, for `OPTIONS`. `KNOWLEDGE_COLUMNS` are read where they are.
            Rows without an id are numbered. Rows without a split (no split column and one file, or an empty cell) are
            split 8:1:1, stratified; posts that repeat each other are in one split (see `group_repeats`), that of the
            source where it gives one of them a split.
        seed: seed of that split.
        embed: whether images are wanted at all.
        further: name -> column name in the file of further columns to keep, for modalities of one's own.
        rare: classes with fewer than `MIN_POSTS` posts: `train` keeps them, in train only where it is we who split;
            `other` makes one class of them; `drop` drops their rows. Splits that the source gives stay.
        texts: whether there must be a column of texts; without it, posts of images alone have empty texts.
        unlabelled: rows without a label: `refuse`, or `keep` them as the split `unlabelled`, whatever the source says.

    Raises:
        UserError: no such file, a column is missing (with the nearest name), a label is empty (`refuse`), a text is
            bytes; fewer than two classes, in all or in validation and test.
    """
    further = further or {}
    _check_names(further)
    path, tables = Path(source), open_source(source)
    kept = {"knowledge": columns["knowledge"], **{name: name for name in KNOWLEDGE_COLUMNS}, **further}
    needed = [name for name, wanted in (("text", texts), ("image", embed)) if wanted]
    survey = _survey(tables, columns, kept, needed, further, unlabelled == "keep")
    if columns["split"] != "split" and columns["split"] not in survey.names:
        raise UserError(f"{source} has no column {columns['split']!r}; it has {', '.join(sorted(survey.names))}")
    classes = _classes(survey, rare, f"{source}: {columns['label']!r}")
    class_names, labels, notes = classes.names, classes.labels, classes.notes
    splits = np.frombuffer(survey.splits, dtype=np.int8).copy()
    root = (images or (path if path.is_dir() else path.parent)) if embed else None
    drawn, kept_rows = -1 in survey.splits, labels >= 0
    if drawn:
        groups = group_repeats(_contents(tables, columns, root, kept_rows))
        try:
            splits[kept_rows], more = draw_missing(splits[kept_rows], labels[kept_rows], groups, class_names, seed)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        notes += more
    for note in notes:
        log.warning("%s: %s", source, note)
    how = (
        "given"
        if all(table.split for table in tables)
        else f"stratified 8:1:1, seed {seed}, repeated posts in one split"
    )
    if columns["split"] in survey.names:
        how = f"column {columns['split']}" + (f", empty cells {how}" if drawn else "")

    def rows() -> Rows:
        places = zip(splits, labels)
        for table in tables:
            for number, row in enumerate(table.rows(None)):
                place, label = next(places)
                split = "all" if place < 0 else (*SPLITS, UNLABELLED)[place]
                if split == UNLABELLED:
                    yield split, _record(row, number, table, columns, kept, root, None)
                elif label < 0:
                    yield split, _dropped(row, number, table, columns, split)
                else:
                    yield split, _record(row, number, table, columns, kept, root, class_names[label])

    described = {"name": path.stem, "filters": notes, "split": how, "rows": len(splits), "columns": survey.columns}
    if classes.merged:
        described["merged_classes"] = classes.merged
    return rows(), class_names, described


def open_posts(path: Path, columns: Mapping[str, str], needed: Sequence[str] = ("text",)) -> Table:
    """A CSV, TSV, JSONL or Parquet file of posts to predict on (labels are not needed).

    `columns` is our name -> column name; those of `needed` must be there.

    Raises:
        UserError: no such file, unknown ending, no rows, or a needed column is missing.
    """
    if path.is_dir() or not path.exists():
        raise UserError(f"{path} not found: give a CSV, TSV, JSONL or Parquet file")
    table = open_file(path)
    names = table.names()
    if any(columns[name] not in names for name in needed):  # JSON objects may leave empty values out
        names |= dict.fromkeys(name for row in table.rows(None) for name in row)
    without_image = "for posts without images, add the column and leave it empty"
    _check_columns(list(names), columns, str(path), needed, without_image)
    return table


GUESSES: dict[str, tuple[str, ...]] = {
    "text": ("text", "tweet", "post", "content", "caption", "title", "sentence", "message", "body", "review"),
    "image": ("image", "image_path", "img", "img_path", "photo", "picture", "file_name", "filename", "image_file"),
    "label": ("label", "labels", "class", "target", "sentiment", "category", "y"),
    "id": ("id", "post_id", "tweet_id"),
    "split": ("split",),
}
"""Names that columns have, the likeliest first; capitals do not count."""


def guess_columns(source: str, named: Mapping[str, str]) -> dict[str, str]:
    """Our name -> column of a source: those that are named, and others of `OPTIONS` by their name, where they are there.

    Raises:
        UserError: a named column is not there, or no column looks like a label, or none like a text or an image.
    """
    return guess_columns_of(list(dict.fromkeys(n for t in open_source(source) for n in t.names())), source, named)


def guess_columns_of(names: Sequence[str], source: str, named: Mapping[str, str]) -> dict[str, str]:
    """The same for the column names of a source."""
    unknown = [name for name in named if name not in OPTIONS]
    if unknown:
        raise UserError(f"--column {unknown[0]}=…: allowed are {', '.join(OPTIONS)}")
    listed = ", ".join(names)
    for ours, column in named.items():
        if column not in names:
            raise UserError(f"{source} has no column {column!r} for --column {ours}=…; it has {listed}")
    by_lower = {name.lower(): name for name in reversed(names)}
    found = dict(named)
    for ours, guesses in GUESSES.items():
        taken = next((by_lower[each] for each in guesses if by_lower.get(each) not in (None, *found.values())), None)
        if ours not in found and taken:
            found[ours] = taken
    asked = "label" if "label" not in found else "text" if not {"text", "image"} & found.keys() else ""
    if asked:
        raise UserError(f"{source}: which column is the {asked}? Say --column {asked}=COLUMN; there are {listed}")
    return found


def safe_image(value: Any, root: Path, where: str) -> Path | bytes | None:
    """The image of a table's cell: bytes as they are, a path only if it stays inside `root`; empty means no image.

    Raises:
        UserError: the path is a URL, or leaves the folder.
    """
    if isinstance(value, dict):  # `datasets` images: {"bytes", "path"}
        value = value.get("bytes") or value.get("path")
    if value is None or value == "" or isinstance(value, bytes):
        return value or None
    if "://" in str(value):
        raise UserError(f"{where}: {value!r} is a URL; nothing is fetched, save the image and give its path")
    try:
        path = (root / str(value)).resolve()
        path.is_file()
    except (OSError, ValueError) as error:  # too long, or with a zero byte
        raise UserError(f"{where}: the image {str(value)[:60]!r} is no path: {error}") from None
    if not path.is_relative_to(root.resolve()):
        raise UserError(
            f"{where}: the image {str(value)!r} lies outside {root}; name the folder of the images (--images at "
            "import, --image-dir), or give a path inside it"
        )
    return path


class _Survey:
    """What a first pass over a source keeps of it: labels, splits and further columns, no texts and no images."""

    def __init__(self) -> None:
        # a label is -1 where there is none; a split is its place in SPLITS, or behind them, -1 where it is to be drawn
        self.labels, self.splits = array("i"), array("b")
        self.numbers: dict[str, int] = {}  # class name -> number in the order in which they occur
        self.columns: dict[str, str] = {}  # further column -> `string` or `binary`
        self.names: dict[str, None] = {}  # all columns of the source


def _survey(
    tables: list[Table],
    columns: Mapping[str, str],
    kept: Mapping[str, str],
    needed: Sequence[str],
    further: Mapping[str, str],
    unlabelled: bool,
) -> _Survey:
    survey = _Survey()
    wanted = [columns["label"], columns["split"], columns["text"], *kept.values()]
    for table in tables:
        names = table.names()
        _check_columns(list(names), columns, table.name, ("label",), "")
        for number, row in enumerate(track(table.rows(wanted), f"reading the labels of {table.name}"), 1):
            names |= dict.fromkeys(row)  # JSON objects may leave empty values out
            where = f"{table.name}, row {number}"
            label = _label(row, columns, where)
            if label:
                split = split_name(row[columns["split"]], where) if row.get(columns["split"]) else table.split
                survey.labels.append(survey.numbers.setdefault(label, len(survey.numbers)))
                survey.splits.append(-1 if split is None else SPLITS.index(split))
            elif unlabelled:
                survey.labels.append(-1)
                survey.splits.append(len(SPLITS))
            else:
                raise UserError(
                    f"{where}: the label is empty; fill it in, delete the row, or keep posts without a label apart with "
                    "`clfa import table … --unlabelled keep`"
                )
            for name, column in kept.items():
                value = as_cell(row.get(column), f"{where}, column {column}")
                if value is not None:
                    stored = "binary" if isinstance(value, bytes) else "string"
                    if survey.columns.setdefault(name, stored) != stored:
                        raise UserError(f"{where}: column {column!r} holds bytes in some rows and texts in others")
        _check_columns(list(names), columns, table.name, needed, "for texts alone, use --images none")
        _check_further(list(names), further, table.name)
        survey.names |= names
    return survey


class _Classes(NamedTuple):
    """The classes of a source, rare ones merged or gone."""

    names: list[str]
    labels: NDArray[np.int64]  # (N,) class numbers, -1 where the row is dropped or has none
    merged: dict[str, int]  # classes that became another -> their posts
    notes: list[str]


def _classes(survey: _Survey, rare: str, where: str) -> _Classes:
    occurring = Counter(survey.labels)
    counts = {name: occurring[number] for name, number in survey.numbers.items()}
    becomes, notes = replace_rare(counts, rare)
    names = sorted({name for name in becomes.values() if name is not None})
    if len(names) < 2:
        more = (
            f"--rare {rare} leaves no more: use --rare train, or add posts" if notes else "add posts of another class"
        )
        raise UserError(f"{where} holds {names}; at least two classes are needed; {more}")
    numbers = {name: number for number, name in enumerate(names)}
    new = np.array([-1 if name is None else numbers[name] for name in becomes.values()])
    merged = {name: count for name, count in counts.items() if becomes[name] not in (name, None)}
    old = np.frombuffer(survey.labels, dtype=np.int32)
    return _Classes(names, np.where(old < 0, -1, new[old]), merged, notes)


def _contents(
    tables: list[Table], columns: Mapping[str, str], root: Path | None, kept: NDArray[np.bool_]
) -> Iterator[tuple[str, Path | bytes | None]]:
    """Text and image of the posts that are kept, for `group_repeats`."""
    wanted = [columns["text"], *([columns["image"]] if root else [])]
    places = iter(kept.tolist())
    for table in tables:
        for number, row in enumerate(track(table.rows(wanted), f"comparing the posts of {table.name}", len(kept)), 1):
            if next(places):
                where = f"{table.name}, row {number}"
                image = None if root is None else safe_image(row.get(columns["image"]), root, where)
                yield as_text(row.get(columns["text"]), f"{where}, column {columns['text']}"), image


def _record(
    row: Row,
    number: int,
    table: Table,
    columns: Mapping[str, str],
    kept: Mapping[str, str],
    root: Path | None,
    label: str | None,
) -> Record:
    where = f"{table.name}, row {number + 1}"
    text = as_text(row.get(columns["text"]), f"{where}, column {columns['text']}")
    cells = {name: row.get(column) for name, column in kept.items()}
    values = {name: as_cell(cell) for name, cell in cells.items() if name not in KNOWLEDGE_COLUMNS}
    return Record(
        id=_id(row, number, table, columns),
        text=text,
        image=None if root is None else safe_image(row.get(columns["image"]), root, where),
        label=label,
        values={name: value for name, value in values.items() if value is not None}
        | knowledge_columns(cells, where, text),
    )


def _dropped(row: Row, number: int, table: Table, columns: Mapping[str, str], split: str) -> Dropped:
    reason = f"the class {_label(row, columns)!r} has fewer than {MIN_POSTS} posts"
    return Dropped(_id(row, number, table, columns), split, reason, f"{table.name}, row {number + 1}")


def _id(row: Row, number: int, table: Table, columns: Mapping[str, str]) -> str:
    """Rows without an id are numbered."""
    id = as_text(row.get(columns["id"]), f"{table.name}, row {number + 1}, column {columns['id']}")
    return id if id.strip() else f"{table.split}-{number:06d}" if table.split else f"{number:06d}"


def _label(row: Row, columns: Mapping[str, str], where: str = "") -> str:
    return as_text(row.get(columns["label"]), f"{where}, column {columns['label']}").strip()


def _check_columns(
    names: list[str], columns: Mapping[str, str], table: str, needed: Sequence[str], without_image: str
) -> None:
    for ours in needed:
        if columns[ours] not in names:
            free = [other for other in names if other not in columns.values()]
            near = get_close_matches(columns[ours], names, 1) or (free if len(free) == 1 else [])
            option = f"--{ours}-column " if ours in OPTIONS else f"--column {ours}="
            hint = f"did you mean {option}{near[0]}?" if near else f"name it with {option.strip()}"
            if len(names) == 1 and any(sign in names[0] for sign in ";\t|"):
                hint = "columns are separated by commas (in a .tsv file by tabs)"
            hint += f"; {without_image}" if ours == "image" else ""
            raise UserError(f"{table}: no column {columns[ours]!r} for the {ours}; it has {', '.join(names)}; {hint}")


def _check_names(further: Mapping[str, str]) -> None:
    for name, column in further.items():
        if name in ("id", "text", "image", "label", "split"):
            raise UserError(f"--column {name}={column}: {name!r} is a column of every data set; use --{name}-column")


def _check_further(names: list[str], further: Mapping[str, str], table: str) -> None:
    for name, column in further.items():
        if column not in names:
            near = get_close_matches(column, names, 1)
            hint = f"did you mean --column {name}={near[0]}?" if near else f"it has {', '.join(names)}"
            raise UserError(f"{table}: no column {column!r} for --column {name}={column}; {hint}")
