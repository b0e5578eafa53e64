"""Files and data sets of any format as tables: rows `{column: value}` that can be read in a stream, again and again."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clfa.data.places import Place, is_remote, place
from clfa.data.published import SPLIT_NAMES
from clfa.data.records import SPLITS
from clfa.errors import UserError

Row = dict[str, Any]


Lines = Iterator[tuple[int, Row | UserError]]
"""The line (of a text file) or the row that something begins in, from 1, and what is there, or what is wrong with it."""


@dataclass(frozen=True)
class Table:
    """A table of posts that can be read in a stream, again and again."""

    name: str
    """File or data set, for messages."""
    lines: Callable[[Sequence[str] | None], Lines]
    """Some columns (`None`: all) -> the rows, or what is wrong with them; formats that must read everything may give more
    columns. What is wrong with the whole is raised."""
    split: str | None = None
    """The split that all its rows are in, if they are in one."""

    def rows(self, columns: Sequence[str] | None) -> Iterator[Row]:
        """The rows.

        Raises:
            UserError: something is wrong with one of them.
        """
        for _, row in self.lines(columns):
            if isinstance(row, UserError):
                raise row
            yield row

    def names(self) -> dict[str, None]:
        """The columns of its first whole row.

        Raises:
            UserError: there is no row.
        """
        wrong: UserError | None = None
        for _, row in self.lines(None):
            if not isinstance(row, UserError):
                return dict.fromkeys(row)
            wrong = wrong or row
        raise wrong or UserError(f"{self.name} holds no rows", "file-unreadable")

    def where(self, number: int) -> str:
        """`posts.csv:17`, or `posts.parquet, row 17`."""
        return f"{self.name}:{number}" if Path(self.name).suffix in _BY_LINES else f"{self.name}, row {number}"


def open_source(source: str, stream: bool = False) -> list[Table]:
    """The tables of a file, of a folder with a file per split, or of anything that `datasets.load_dataset` reads.

    What that library reads is downloaded and converted first; with `stream` it is read from where it is in each pass.

    Raises:
        UserError: it is none of these.
    """
    path = place(source)
    if not path.exists() and (
        path.suffix in _READERS or is_remote(path) or (path.parent.name and path.parent.is_dir())
    ):
        raise UserError(f"{source} is neither a file nor a folder: no such file, or a mistyped name")
    if path.is_file():
        return [open_file(path)]
    files = [file for file in sorted(path.iterdir()) if file.suffix in _READERS] if path.is_dir() else []
    tables = [open_file(file, split) for split, names in SPLIT_NAMES.items() for file in files if file.stem in names]
    return tables or _open_hub(source, stream)


def open_file(path: Place, split: str | None = None) -> Table:
    """A file as a table, by its ending.

    Raises:
        UserError: unknown ending; while it is read: not UTF-8, or malformed (with the line).
    """
    if path.suffix not in _READERS:
        raise UserError(f"{path}: unknown ending {path.suffix!r}; read are {', '.join(_READERS)}", "file-unreadable")
    return Table(str(path), partial(_READERS[path.suffix], path), split)


def _read_csv(path: Place, columns: Sequence[str] | None = None, delimiter: str = ",") -> Lines:
    csv.field_size_limit(10_000_000)
    # bytes that are not UTF-8 become halves of a pair, which UTF-8 cannot hold: so they are seen in the cell they are in
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            head = next(reader, [])
        except csv.Error as error:
            raise UserError(f"{path}:1: {error}; double each quote inside a quoted text", "file-quotes") from None
        _refuse_bytes(path, 1, "".join(head))
        if len(head) == 1 and ";" in head[0] and delimiter == ",":
            raise UserError(
                f"{path}: the columns are separated by semicolons; save it with commas, or as .tsv with tabs",
                "file-unreadable",
            )
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
                if cells is None:
                    return
                if cells:
                    yield line, _csv_row(path, line, head, cells, delimiter)
            except csv.Error as error:
                message = f"{path}:{line}: {error}; double each quote inside a quoted text"
                yield line, UserError(message, "file-quotes")
            except UserError as error:
                yield line, error


def _csv_row(path: Place, line: int, head: list[str], cells: list[str], delimiter: str) -> Row:
    _refuse_bytes(path, line, "".join(cells))
    if len(cells) != len(head):
        raise UserError(
            f"{path}:{line}: {len(cells)} fields where the header has {len(head)}; quote texts that contain the "
            "separator or line breaks",
            "row-fields",
        )
    if delimiter == "\t" and any("\t" in cell for cell in cells):
        raise UserError(f"{path}:{line}: a quote swallowed a tab; double each quote inside a text", "file-quotes")
    return dict(zip(head, cells))


def _read_jsonl(path: Place, columns: Sequence[str] | None = None) -> Lines:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield number, _json_row(path, number, line)
                except UserError as error:
                    yield number, error


def _json_row(path: Place, number: int, line: str) -> Row:
    _refuse_bytes(path, number, line)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}:{number}: not a JSON object: {error}", "file-unreadable") from None
    if not isinstance(row, dict):
        raise UserError(f"{path}:{number}: not a JSON object: {line[:60]!r}", "file-unreadable")
    return row


def _refuse_bytes(path: Place, line: int, text: str) -> None:
    wrong = _NOT_UTF8.search(text)
    if wrong:
        raise UserError(
            f"{path}:{line}: not UTF-8 (byte 0x{ord(wrong[0]) - 0xDC00:02x}); save the file as UTF-8", "file-encoding"
        )


def _read_parquet(path: Place, columns: Sequence[str] | None = None) -> Lines:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # what is buffered beforehand is kept until the file is closed: memory would grow with it
        with path.open("rb") as opened, pq.ParquetFile(opened, pre_buffer=False) as file:
            there = None if columns is None else [name for name in file.schema_arrow.names if name in columns]
            for batch in file.iter_batches(batch_size=64, columns=there):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        behind = f" behind row {number:,}" if number else ""
        raise UserError(f"{path} is no whole Parquet file{behind}: {error}", "file-unreadable") from None


def _open_hub(source: str, stream: bool) -> list[Table]:
    """Whatever `datasets.load_dataset` reads: a local folder (imagefolder) or a hub name; class numbers become names."""
    from datasets import Image, load_dataset

    try:
        splits = load_dataset(source, streaming=stream)
    except Exception as error:  # the reasons are many (network, layout, gated); the fix is the same
        raise UserError(f"{source} is neither a file nor a data set that `datasets` can load: {error}") from None
    tables = []
    for split, rows in splits.items():
        for name in [name for name, feature in _features(rows).items() if isinstance(feature, Image)]:
            rows = rows.cast_column(name, Image(decode=False))
        tables.append(Table(source, _hub_rows(rows), split_name(split, source) if len(splits) > 1 else None))
    return tables


def _features(rows: Any) -> dict[str, Any]:
    return rows.features or {}


def _hub_rows(rows: Any) -> Callable[[Sequence[str] | None], Lines]:
    from datasets import ClassLabel

    labels = {name: feature for name, feature in _features(rows).items() if isinstance(feature, ClassLabel)}
    # unlabelled rows carry None or -1, which have no name
    class_names = {name: dict(enumerate(feature.names)) for name, feature in labels.items()}

    def read(columns: Sequence[str] | None) -> Lines:
        some = rows
        if rows.column_names:  # a stream of lines does not know them beforehand
            some = rows.select_columns([name for name in rows.column_names if columns is None or name in columns])
        for number, row in enumerate(some, 1):
            named = {name: class_names[name].get(cell) if name in class_names else cell for name, cell in row.items()}
            yield number, named

    return read


def split_name(name: str, where: str) -> str:
    """One of `SPLITS` by any of its usual names.

    Raises:
        UserError: `where` has another name.
    """
    for split, names in SPLIT_NAMES.items():
        if str(name).lower() in names:
            return split
    raise UserError(f"{where}: unknown split {name!r}; allowed: {', '.join(SPLITS)}", "split-unknown")


_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_BY_LINES = (".csv", ".tsv", ".jsonl")
_READERS: dict[str, Callable[[Place, Sequence[str] | None], Lines]] = {
    ".csv": _read_csv,
    ".tsv": partial(_read_csv, delimiter="\t"),
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
