"""A file of predictions that is written in shards, so that nothing is lost or done twice; CSV, TSV, JSONL or Parquet."""

import csv
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from clfa.data.atomic import read_json, replacing, write_json
from clfa.data.columns import as_text

log = logging.getLogger(__name__)

ABSENT = "no "
"""How the problem begins of a post that is predicted without what it lacks: "no image"."""

Row = dict[str, Any]
Types = dict[str, dict[type, Any]]
"""Column -> a value of each type that occurs in it, to write it in one type."""


class Shards:
    """The files in `OUTPUT.shards` that an output is made of: `<number><ending>`, and `<number>.json` with its counts, which
    is written last."""

    def __init__(self, output: Path, asked: dict[str, Any]):
        self.output, self.asked = output, asked
        self.folder = output.with_name(output.name + ".shards")
        self.about = self.folder / "about.json"
        self.are_there = self.about.is_file() and read_json(self.about) == asked
        self.count = 0

    def begin(self, count: int) -> None:
        """Make the folder of so many shards, or find out how many of them are done."""
        self.count = count
        if not self.are_there:
            if self.folder.exists():
                log.warning("%s is of another run, source or option: predicting from the first row on", self.folder)
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True)
            write_json(self.about, self.asked)
        done = [number for number in range(count) if self.has(number)]
        if done:
            log.info("going on behind %s rows", f"{sum(self.counts(number)['rows'] for number in done):,}")

    def has(self, number: int) -> bool:
        """Whether a shard is done."""
        return self._place(number, ".json").is_file()

    def counts(self, number: int) -> dict[str, int]:
        """Of a shard that is done."""
        return read_json(self._place(number, ".json"))

    def add(self, number: int, chunks: Iterator[list[Row]], columns: Types) -> None:
        """Write a shard."""
        counts = dict.fromkeys(("rows", "predicted", "without_image", "bad_images", "bad_rows"), 0)
        ending = self.output.suffix
        with (
            replacing(self._place(number, ending)) as partial,
            WRITERS[ending](partial, columns, head=False) as write,
        ):
            for rows in chunks:
                write(rows)
                counts["rows"] += len(rows)
                counts["predicted"] += sum(row["predicted"] is not None for row in rows)
                for row in rows:
                    if row["problem"]:
                        counts[_kind_of(row["problem"])] += 1
        write_json(self._place(number, ".json"), counts)

    def end(self, columns: Types) -> dict[str, int]:
        """Make the output of all shards; the sum of their counts."""
        total: Counter[str] = Counter()
        with replacing(self.output) as partial:
            places = [self._place(each, self.output.suffix) for each in range(self.count)]
            if self.output.suffix == ".parquet":
                _append_parquet(partial, places)
            else:
                _append(self.output.suffix, partial, columns, places)
            for each in range(self.count):
                total.update(self.counts(each))
        return dict(total)

    def remove(self) -> None:
        """The output is where it belongs."""
        shutil.rmtree(self.folder)

    def _place(self, number: int, ending: str) -> Path:
        return self.folder / f"{number:06d}{ending}"


def _kind_of(problem: str) -> str:
    """What a problem is counted as."""
    if problem.startswith(ABSENT):
        return "without_image"
    return "bad_images" if problem.startswith("image-") else "bad_rows"


Writer = AbstractContextManager[Callable[[list[Row]], object]]
"""An open file; what it gives writes some rows."""


@contextmanager
def _csv_writer(path: Path, columns: Types, head: bool, delimiter: str = ",") -> Iterator[Callable]:
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, list(columns), delimiter=delimiter)
        if head:
            writer.writeheader()
        yield writer.writerows


@contextmanager
def _jsonl_writer(path: Path, columns: Types, head: bool) -> Iterator[Callable]:
    # halves of a pair, which are no UTF-8, are written as JSON writes them
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        yield lambda rows: file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


@contextmanager
def _parquet_writer(path: Path, columns: Types, head: bool) -> Iterator[Callable]:
    """Each column in the type of its values; columns of mixed types, or without a value, are texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _arrow_type(list(samples.values()))) for name, samples in columns.items()])
    texts = [field.name for field in schema if pa.types.is_string(field.type)]

    def write(rows: list[Row]) -> None:
        cells = [row | {name: as_text(row[name]) for name in texts if row[name] is not None} for row in rows]
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


def _append(ending: str, path: Path, columns: Types, shards: list[Path]) -> None:
    """The header, and the shards as they are."""
    with WRITERS[ending](path, columns, head=True):
        pass
    with open(path, "ab") as file:
        for shard in shards:
            with open(shard, "rb") as own:
                shutil.copyfileobj(own, file)


def _append_parquet(path: Path, shards: list[Path]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, pq.read_schema(shards[0])) as file:
        for shard in shards:
            file.write_table(pq.read_table(shard))


WRITERS: dict[str, Callable[..., Writer]] = {
    ".csv": _csv_writer,
    ".tsv": partial(_csv_writer, delimiter="\t"),
    ".jsonl": _jsonl_writer,
    ".parquet": _parquet_writer,
}
"""Path, columns and whether the names of the columns come first -> what writes rows."""
