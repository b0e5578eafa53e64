"""Anybody's posts: CSV, TSV, JSONL, Parquet, image folders, hub data sets -> rows `(split, Record)`, or rows to predict."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clfa.data.columns import as_text, knowledge_columns
from clfa.data.published import SPLIT_NAMES, Rows
from clfa.data.records import SPLITS, Record
from clfa.data.splits import split_rows
from clfa.errors import UserError


def read_table(
    source: str,
    images: Path | None,
    columns: dict[str, str],
    seed: int = 0,
    embed: bool = True,
) -> tuple[Rows, list[str], dict[str, Any]]:
    """Anybody's posts: CSV, TSV, JSONL or Parquet; a folder of those named train/validation/test; or anything that
    `datasets.load_dataset` reads from a local folder (imagefolder with `metadata.csv`) or by hub name.

    Args:
        source: file, folder or hub name.
        images: folder that image paths are relative to; by default the folder of the file.
        columns: our name -> column name in the file, for `id`, `text`, `image`, `label`, `split`, `knowledge`.
            The columns `attributes`, `dependencies` and `regions` (see docs/method.md) are read where they are.
            Without an id column rows are numbered; without a split column (and one file) the split is stratified 8:1:1.
        seed: seed of that split.
        embed: whether images are wanted at all.

    Raises:
        UserError: no such file, a column is missing (with the nearest name), a label is empty.
    """
    path = Path(source)
    tables = _read_tables(path) if path.exists() else _read_hub(source)
    root = images or (path if path.is_dir() else path.parent)
    parsed: list[tuple[str | None, Record]] = []
    for split, name, rows in tables:
        for number, row in enumerate(rows):
            if number == 0:
                needed = ("text", "label", "image") if embed else ("text", "label")
                _check_columns(list(row), columns, name, needed, "for texts alone, use --images none")
            where = f"{name}, row {number + 1}"
            label = as_text(row.get(columns["label"])).strip()
            if not label:
                raise UserError(f"{where}: the label is empty; fill it in or delete the row")
            id = row.get(columns["id"])
            record = Record(
                id=str(id) if id is not None else f"{split}-{number:06d}" if split else f"{number:06d}",
                text=as_text(row.get(columns["text"])),
                image=safe_image(row.get(columns["image"]), root, where) if embed else None,
                label=label,
                knowledge=None if row.get(columns["knowledge"]) is None else str(row[columns["knowledge"]]),
                extra=knowledge_columns(row, where, as_text(row.get(columns["text"]))),
            )
            parsed.append((_split_name(row[columns["split"]], where) if row.get(columns["split"]) else split, record))
    names = {name for _, _, rows in tables for row in rows[:1] for name in row}
    found_column = columns["split"] in names
    if columns["split"] != "split" and not found_column:
        raise UserError(f"{source} has no column {columns['split']!r}; found are {', '.join(sorted(names))}")
    labels = sorted({str(record.label) for _, record in parsed})
    if len(labels) < 2:
        raise UserError(f"{source}: column {columns['label']!r} holds {labels}; at least two classes are needed")
    drawn: list[str] = []
    if any(split is None for split, _ in parsed):
        drawn = split_rows([str(record.label) for _, record in parsed], "stratified", seed)
        parsed = [(split or other, record) for (split, record), other in zip(parsed, drawn)]
    how = "given" if all(split for split, _, _ in tables) else f"stratified 8:1:1, seed {seed}"
    if found_column:
        how = f"column {columns['split']}" + (f", empty cells {how}" if len(drawn) else "")
    rows_out = ((split or "train", record) for split, record in parsed)
    return rows_out, labels, {"name": path.stem, "filters": [], "split": how}


def read_posts(path: Path, columns: dict[str, str], needed: tuple[str, ...] = ("text",)) -> list[dict[str, Any]]:
    """Rows of a CSV, TSV, JSONL or Parquet file to predict on, as they are (labels are not needed).

    Args:
        path: the file.
        columns: our name -> column name.
        needed: which of them must be there.

    Raises:
        UserError: no such file, unknown ending, or a needed column is missing.
    """
    rows = [row for _, _, rows in _read_tables(path) for row in rows]
    if not rows:
        raise UserError(f"{path} holds no rows")
    found = list(dict.fromkeys(name for row in rows for name in row))
    _check_columns(found, columns, str(path), needed, "for posts without pictures, add the column and leave it empty")
    return rows


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
    path = (root / str(value)).resolve()
    if not path.is_relative_to(root.resolve()):
        raise UserError(f"{where}: the image {str(value)!r} lies outside {root}; give --image-dir, or a path inside it")
    return path


def _read_tables(path: Path) -> list[tuple[str | None, str, list[dict[str, Any]]]]:
    """`(split or None, file name, rows)` of a file, or of a folder with a file per split."""
    if path.is_file():
        return [(None, str(path), _read_rows(path))]
    if not path.is_dir():
        raise UserError(f"{path} not found: give a CSV, TSV, JSONL or Parquet file")
    found: list[tuple[str | None, str, list[dict[str, Any]]]] = []
    for split, names in SPLIT_NAMES.items():
        files = [file for file in sorted(path.iterdir()) if file.stem in names and file.suffix in _READERS]
        found += [(split, str(file), _read_rows(file)) for file in files]
    return found or _read_hub(str(path))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix not in _READERS:
        raise UserError(f"{path}: unknown ending {path.suffix!r}; read are {', '.join(_READERS)}")
    try:
        return _READERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _read_csv(path: Path, delimiter: str = ",") -> list[dict[str, Any]]:
    csv.field_size_limit(10_000_000)
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        rows = []
        for row in _told(reader, path):
            if None in row or None in row.values():
                raise UserError(
                    f"{path}:{reader.line_num}: {len(row)} fields expected as in the header, found more or fewer; "
                    "quote texts that contain the separator or line breaks"
                )
            if delimiter == "\t" and any("\t" in cell for cell in row.values()):
                raise UserError(f"{path}:{reader.line_num}: a quote swallowed a tab; double each quote inside a text")
            rows.append(row)
    return rows


def _told(reader: Any, path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a csv reader; what it cannot parse is an error with its line."""
    try:
        yield from reader
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: {error}; double each quote inside a quoted text") from None


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}:{number}: not a JSON object: {error}") from None
    return rows


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def _read_hub(source: str) -> list[tuple[str | None, str, list[dict[str, Any]]]]:
    """Whatever `datasets.load_dataset` reads: a local folder (imagefolder) or a hub name; class numbers become names."""
    from datasets import ClassLabel, Image, load_dataset

    try:
        splits = load_dataset(source)
    except Exception as error:  # the reasons are many (network, layout, gated); the fix is the same
        raise UserError(f"{source} is neither a file nor a data set that `datasets` can load: {error}") from None
    found = []
    for split, rows in splits.items():
        for name, feature in rows.features.items():
            if isinstance(feature, Image):
                rows = rows.cast_column(name, Image(decode=False))
        names = {name: feature.names for name, feature in rows.features.items() if isinstance(feature, ClassLabel)}
        found.append(
            (
                _split_name(split, source) if len(splits) > 1 else None,
                source,
                [
                    {key: _class_name(value, names[key]) if key in names else value for key, value in row.items()}
                    for row in rows
                ],
            )
        )
    return found


def _class_name(number: int | None, names: list[str]) -> str | None:
    """Unlabelled rows carry None or -1."""
    return None if number is None or number < 0 else names[number]


def _split_name(name: str, where: str) -> str:
    for split, names in SPLIT_NAMES.items():
        if str(name).lower() in names:
            return split
    raise UserError(f"{where}: unknown split {name!r}; allowed: {', '.join(SPLITS)}")


def _check_columns(
    found: list[str], columns: dict[str, str], name: str, needed: tuple[str, ...], without_image: str
) -> None:
    from difflib import get_close_matches

    for ours in needed:
        if columns[ours] not in found:
            free = [other for other in found if other not in columns.values()]
            near = get_close_matches(columns[ours], found, 1) or (free if len(free) == 1 else [])
            hint = f"did you mean --{ours}-column {near[0]}?" if near else f"name it with --{ours}-column"
            hint += f"; {without_image}" if ours == "image" else ""
            raise UserError(f"{name}: no column {columns[ours]!r} for the {ours}; found {', '.join(found)}; {hint}")


_READERS = {
    ".csv": _read_csv,
    ".tsv": lambda path: _read_csv(path, "\t"),
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
