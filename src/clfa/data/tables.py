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
from clfa.data.images import safe_image
from clfa.data.places import Place, place
from clfa.data.progress import track
from clfa.data.records import SPLITS, UNLABELLED, Bad, Dropped, Record, Source
from clfa.errors import UserError

log = logging.getLogger(__name__)
OPTIONS = ("id", "text", "image", "label", "split", "knowledge")  # columns with an option of their own
BAD = "bad"
_PLACES = (*SPLITS, UNLABELLED, BAD)  # what the number of a split in a survey stands for


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
    draw: bool = True,
    stream: bool = False,
) -> tuple[Source, list[str], dict[str, Any]]:
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

        draw: whether rows without a split are given one; else they are in the split `all`.
        stream: see `clfa.data.formats.open_source`.

    Rows that cannot be used (no label, an unknown split, bytes for a text, a line that is no row) come as `Bad`.

    Raises:
        UserError: no such file, a column is missing (with the nearest name); fewer than two classes, in all or in
            validation and test.
    """
    further = further or {}
    _check_names(further)
    path, tables = place(source), open_source(source, stream)
    kept = {"knowledge": columns["knowledge"], **{name: name for name in KNOWLEDGE_COLUMNS}, **further}
    needed = [name for name, wanted in (("text", texts), ("image", embed)) if wanted]
    survey = _survey(tables, columns, kept, needed, further, unlabelled == "keep")
    if columns["split"] != "split" and columns["split"] not in survey.names:
        raise UserError(f"{source} has no column {columns['split']!r}; it has {', '.join(sorted(survey.names))}")
    classes, why = _usable_classes(survey, rare, f"{source}: {columns['label']!r}")
    splits = np.frombuffer(survey.splits, dtype=np.int8).copy()
    root = (images or (path if path.is_dir() else path.parent)) if embed else None
    drawn, kept_rows, notes = draw and not why and -1 in survey.splits, classes.labels >= 0, classes.notes
    if drawn:
        groups = group_repeats(_contents(tables, columns, root, kept_rows))
        try:
            own = draw_missing(splits[kept_rows], classes.labels[kept_rows], groups, classes.names, seed)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        splits[kept_rows], more = own
        notes = notes + more
    for note in notes:
        log.warning("%s: %s", source, note)
    described = {
        "name": path.stem,
        "filters": notes,
        "split": _how_split(tables, survey, columns, seed, drawn),
        "rows": len(splits),
        "columns": survey.columns,
    }
    if classes.merged:
        described["merged_classes"] = classes.merged
    reading = _Reading(source, tables, columns, kept, survey.columns, root, unlabelled == "keep", splits, classes, why)
    return _rows(reading), classes.names, described


def open_posts(path: Place, columns: Mapping[str, str], needed: Sequence[str] = ("text",)) -> Table:
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


class _Survey:
    """What a first pass over a source keeps of it: labels, splits and further columns, no texts and no images."""

    def __init__(self) -> None:
        # a label is -1 where there is none; a split is its place in _PLACES, -1 where it is to be drawn
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
        for line, row in track(table.lines(wanted), f"reading the labels of {table.name}"):
            where = table.where(line)
            try:
                row = _whole(row)
                names |= dict.fromkeys(row)  # JSON objects may leave empty values out
                label, split = _answer(row, columns, where, table.split, unlabelled)
                _cells(row, kept, where, survey.columns)
            except UserError:  # told of when the rows are read
                label, split = "", _PLACES.index(BAD)
            survey.labels.append(survey.numbers.setdefault(label, len(survey.numbers)) if label else -1)
            survey.splits.append(split)
        _check_columns(list(names), columns, table.name, needed, "for texts alone, use --images none")
        _check_further(list(names), further, table.name)
        survey.names |= names
    return survey


def _whole(row: Row | UserError) -> Row:
    if isinstance(row, UserError):
        raise row
    return row


def _answer(row: Row, columns: Mapping[str, str], where: str, split: str | None, unlabelled: bool) -> tuple[str, int]:
    """The label of a row and the place of its split in `_PLACES`, -1 where it is to be drawn.

    Raises:
        UserError: there is no label, or no such split.
    """
    label = _label(row, columns, where)
    if label:
        named = split_name(row[columns["split"]], where) if row.get(columns["split"]) else split
        return label, -1 if named is None else _PLACES.index(named)
    if unlabelled:
        return "", _PLACES.index(UNLABELLED)
    raise UserError(
        f"{where}: the label is empty; fill it in, delete the row, or keep posts without a label apart with "
        "`clfa import table … --unlabelled keep`",
        "label-empty",
    )


def _cells(row: Row, kept: Mapping[str, str], where: str, stored: dict[str, str]) -> dict[str, str | bytes]:
    """The further columns of a row that are not empty; how each is `stored` is noted when it first comes.

    Raises:
        UserError: bytes where other rows have texts, or texts where they have bytes.
    """
    cells = {}
    for name, column in kept.items():
        value = as_cell(row.get(column), f"{where}, column {column}")
        if value is not None:
            kind = "binary" if isinstance(value, bytes) else "string"
            if stored.setdefault(name, kind) != kind:
                raise UserError(
                    f"{where}: column {column!r} holds bytes in some rows and texts in others", "cell-mixed"
                )
            cells[name] = value
    return cells


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
        raise UserError(f"{where} holds {names}; at least two classes are needed; {more}", "label-single")
    numbers = {name: number for number, name in enumerate(names)}
    new = np.array([-1 if name is None else numbers[name] for name in becomes.values()])
    merged = {name: count for name, count in counts.items() if becomes[name] not in (name, None)}
    old = np.frombuffer(survey.labels, dtype=np.int32)
    return _Classes(names, np.where(old < 0, -1, new[old]), merged, notes)


def _usable_classes(survey: _Survey, rare: str, where: str) -> tuple[_Classes, UserError | None]:
    """The classes; if there are fewer than two because rows are bad, none, and why."""
    try:
        return _classes(survey, rare, where), None
    except UserError as error:
        if _PLACES.index(BAD) not in survey.splits:
            raise
        return _Classes([], np.full(len(survey.labels), -1), {}, []), error


def _contents(
    tables: list[Table], columns: Mapping[str, str], root: Place | None, kept: NDArray[np.bool_]
) -> Iterator[tuple[str, Path | bytes | None]]:
    """Text and image of the posts that are kept, for `group_repeats`."""
    wanted = [columns["text"], *([columns["image"]] if root else [])]
    places = iter(kept.tolist())
    for table in tables:
        for line, row in track(table.lines(wanted), f"comparing the posts of {table.name}", len(kept)):
            if not next(places):
                continue
            where = table.where(line)
            try:
                row = _whole(row)
                text = as_text(row.get(columns["text"]), where)
                image = None if root is None else safe_image(row.get(columns["image"]), root, where)
            except UserError:  # told of when the rows are read
                text, image = "", None
            yield text, image


class _Reading(NamedTuple):
    """What the last pass over a source goes by."""

    source: str
    tables: list[Table]
    columns: Mapping[str, str]
    kept: Mapping[str, str]
    stored: dict[str, str]  # further column -> `string` or `binary`
    root: Place | None
    unlabelled: bool  # whether rows without a label are kept
    splits: NDArray[np.int8]
    classes: _Classes
    why: UserError | None  # why nothing can be used


def _rows(reading: _Reading) -> Source:
    """All rows; where nothing can be used, the bad ones and why."""
    places = zip(reading.splits, reading.classes.labels)
    for table in reading.tables:
        for number, (line, row) in enumerate(table.lines(None)):
            split, label = next(places)
            where = table.where(line)
            found = _row(reading, table, number, where, row, "all" if split < 0 else _PLACES[split], int(label))
            if not reading.why or isinstance(found[1], Bad):
                yield found
    if reading.why:
        yield "all", Bad("", "all", reading.why, reading.source)


def _row(
    reading: _Reading, table: Table, number: int, where: str, row: Row | UserError, split: str, label: int
) -> tuple[str, Record | Dropped | Bad]:
    columns, id = reading.columns, ""
    try:
        row = _whole(row)
        id = _id(row, number, table, columns, where)
        _answer(row, columns, where, table.split, reading.unlabelled)
        cells = _cells(row, reading.kept, where, reading.stored)
        if split != UNLABELLED and label < 0:
            return split, _dropped(id, split, row, columns, where)
        of_class = None if split == UNLABELLED else reading.classes.names[label]
        return split, _record(id, row, columns, cells, where, reading.root, of_class)
    except UserError as error:
        return "all", Bad(id, "all", error, where)


def _how_split(tables: list[Table], survey: _Survey, columns: Mapping[str, str], seed: int, drawn: bool) -> str:
    how = f"stratified 8:1:1, seed {seed}, repeated posts in one split"
    if all(table.split for table in tables):
        how = "given"
    if columns["split"] in survey.names:
        how = f"column {columns['split']}" + (f", empty cells {how}" if drawn else "")
    return how


def _record(
    id: str,
    row: Row,
    columns: Mapping[str, str],
    cells: Mapping[str, str | bytes],
    where: str,
    root: Place | None,
    label: str | None,
) -> Record:
    text = as_text(row.get(columns["text"]), f"{where}, column {columns['text']}")
    values = {name: value for name, value in cells.items() if name not in KNOWLEDGE_COLUMNS}
    image = None if root is None else safe_image(row.get(columns["image"]), root, where)
    return Record(id, text, image, label, values | knowledge_columns(cells, where, text), where)


def _dropped(id: str, split: str, row: Row, columns: Mapping[str, str], where: str) -> Dropped:
    return Dropped(id, split, f"the class {_label(row, columns)!r} has fewer than {MIN_POSTS} posts", where)


def _id(row: Row, number: int, table: Table, columns: Mapping[str, str], where: str) -> str:
    """Rows without an id are numbered."""
    id = as_text(row.get(columns["id"]), f"{where}, column {columns['id']}")
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
            raise UserError(
                f"{table}: no column {columns[ours]!r} for the {ours}; it has {', '.join(names)}; {hint}",
                "column-missing",
            )


def _check_names(further: Mapping[str, str]) -> None:
    for name, column in further.items():
        if name in ("id", "text", "image", "label", "split"):
            raise UserError(f"--column {name}={column}: {name!r} is a column of every data set; use --{name}-column")


def _check_further(names: list[str], further: Mapping[str, str], table: str) -> None:
    for name, column in further.items():
        if column not in names:
            near = get_close_matches(column, names, 1)
            hint = f"did you mean --column {name}={near[0]}?" if near else f"it has {', '.join(names)}"
            raise UserError(f"{table}: no column {column!r} for --column {name}={column}; {hint}", "column-missing")
