"""Files and data sets of any format as tables: rows `{column: value}` that can be read in a stream, again and again."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clfa.data.published import SPLIT_NAMES
from clfa.data.records import SPLITS
from clfa.errors import UserError

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of posts that can be read in a stream, again and again."""

    name: str
    """File or data set, for messages."""
    rows: Callable[[Sequence[str] | None], Iterator[Row]]
    """Some columns (`None`: all) -> the rows; formats that must read everything may give more columns."""
    split: str | None = None
    """The split that all its rows are in, if they are in one."""

    def names(self) -> dict[str, None]:
        """The columns of its first row.

        Raises:
            UserError: there is no row.
        """
        first = next(self.rows(None), None)
        if first is None:
            raise UserError(f"{self.name} holds no rows")
        return dict.fromkeys(first)


def open_source(source: str) -> list[Table]:
    """The tables of a file, of a folder with a file per split, or of anything that `datasets.load_dataset` reads.

    Raises:
        UserError: it is none of these.
    """
    path = Path(source)
    if not path.exists() and (path.suffix in _READERS or (path.parent.name and path.parent.is_dir())):
        raise UserError(f"{source} is neither a file nor a folder: no such file, or a mistyped name")
    if path.is_file():
        return [open_file(path)]
    files = [file for file in sorted(path.iterdir()) if file.suffix in _READERS] if path.is_dir() else []
    tables = [open_file(file, split) for split, names in SPLIT_NAMES.items() for file in files if file.stem in names]
    return tables or _open_hub(source)


def open_file(path: Path, split: str | None = None) -> Table:
    """A file as a table, by its ending.

    Raises:
        UserError: unknown ending; while it is read: not UTF-8, or malformed (with the line).
    """
    if path.suffix not in _READERS:
        raise UserError(f"{path}: unknown ending {path.suffix!r}; read are {', '.join(_READERS)}")

    def rows(columns: Sequence[str] | None) -> Iterator[Row]:
        try:
            yield from _READERS[path.suffix](path, columns)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None

    return Table(str(path), rows, split)


def _read_csv(path: Path, columns: Sequence[str] | None = None, delimiter: str = ",") -> Iterator[Row]:
    csv.field_size_limit(10_000_000)
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            head = list(reader.fieldnames or [])
            if len(head) == 1 and ";" in head[0] and delimiter == ",":
                raise UserError(
                    f"{path}: the columns are separated by semicolons; save it with commas, or as .tsv with tabs"
                )
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"{path}:{reader.line_num}: the number of fields is not that of the header; "
                        "quote texts that contain the separator or line breaks"
                    )
                if delimiter == "\t" and any("\t" in cell for cell in row.values()):
                    raise UserError(
                        f"{path}:{reader.line_num}: a quote swallowed a tab; double each quote inside a text"
                    )
                yield row
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: {error}; double each quote inside a quoted text") from None


def _read_jsonl(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise UserError(f"{path}:{number}: not a JSON object: {error}") from None
                if not isinstance(row, dict):
                    raise UserError(f"{path}:{number}: not a JSON object: {line[:60]!r}")
                yield row


def _read_parquet(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(path, memory_map=False)
    except pa.ArrowException as error:
        raise UserError(f"{path} is no Parquet file: {error}") from None
    with opened as file:
        there = None if columns is None else [name for name in file.schema_arrow.names if name in columns]
        for batch in file.iter_batches(batch_size=64, columns=there):
            yield from batch.to_pylist()


def _open_hub(source: str) -> list[Table]:
    """Whatever `datasets.load_dataset` reads: a local folder (imagefolder) or a hub name; class numbers become names."""
    from datasets import Image, load_dataset

    try:
        splits = load_dataset(source)
    except Exception as error:  # the reasons are many (network, layout, gated); the fix is the same
        raise UserError(f"{source} is neither a file nor a data set that `datasets` can load: {error}") from None
    tables = []
    for split, rows in splits.items():
        for name in [name for name, feature in rows.features.items() if isinstance(feature, Image)]:
            rows = rows.cast_column(name, Image(decode=False))
        tables.append(Table(source, _hub_rows(rows), split_name(split, source) if len(splits) > 1 else None))
    return tables


def _hub_rows(rows: Any) -> Callable[[Sequence[str] | None], Iterator[Row]]:
    from datasets import ClassLabel

    labels = {name: feature for name, feature in rows.features.items() if isinstance(feature, ClassLabel)}
    # unlabelled rows carry None or -1, which have no name
    class_names = {name: dict(enumerate(feature.names)) for name, feature in labels.items()}

    def read(columns: Sequence[str] | None) -> Iterator[Row]:
        there = [name for name in rows.column_names if columns is None or name in columns]
        for row in rows.select_columns(there):
            yield {name: class_names[name].get(cell) if name in class_names else cell for name, cell in row.items()}

    return read


def split_name(name: str, where: str) -> str:
    """One of `SPLITS` by any of its usual names.

    Raises:
        UserError: `where` has another name.
    """
    for split, names in SPLIT_NAMES.items():
        if str(name).lower() in names:
            return split
    raise UserError(f"{where}: unknown split {name!r}; allowed: {', '.join(SPLITS)}")


_READERS: dict[str, Callable[[Path, Sequence[str] | None], Iterator[Row]]] = {
    ".csv": _read_csv,
    ".tsv": partial(_read_csv, delimiter="\t"),
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
