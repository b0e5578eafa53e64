"""A post, what may be in it, and the dataset directory it lives in.

A dataset directory holds `train/validation/test.parquet` (image bytes inside), `dataset.json` (labels, counts, hashes,
filters), `croissant.json` (the same for other tools) and `dropped.jsonl` (each row that was not kept, and why). Nothing is
ever dropped without a line there. Posts without a label, if they were kept, are in `unlabelled.parquet`, with null in the
column `label`.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clfa.data.atomic import read_json
from clfa.errors import UserError

SPLITS = ("train", "validation", "test")
UNLABELLED = "unlabelled"
"""The split of posts without a label, where they were kept: for alignment, never to fit or judge a classifier."""


@dataclass(frozen=True)
class Record:
    """One post. `image` is a path inside the data set until it is written, then bytes; `None` means there is none."""

    id: str
    text: str
    image: Path | bytes | None = None
    label: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    """Every further column that was named: a caption, OCR, attributes, audio; texts or bytes."""
    source: str = ""
    """Where it comes from, for messages: file and line."""


@dataclass(frozen=True)
class Dropped:
    """A row of the source that is not in the dataset directory."""

    id: str
    split: str
    reason: str
    source: str


@dataclass(frozen=True)
class Bad:
    """A row of the source that cannot be used as it is."""

    id: str
    split: str
    error: UserError
    source: str
    """File and line."""
    record: Record | None = None
    """The post without its image, where nothing but the image is wrong."""


Row = Record | Dropped | Bad
Source = Iterator[tuple[str, Row]]
"""`(split, row)` for each row of a source, in file order."""


def normalise_text(text: str) -> str:
    """Unicode NFC, runs of white space to one space, ends stripped.

    Irregular white space alone predicts the label of MMSD with 94 % on its test split, so this is the default everywhere.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


class Manifest(dict[str, Any]):
    """The content of `dataset.json`: what a dataset directory holds, and how it was made."""


def load_manifest(dataset: str | Path) -> dict[str, Any]:
    """The content of `DATASET/dataset.json`.

    Raises:
        UserError: the folder is not a dataset directory.
    """
    manifest = read_json(Path(dataset) / "dataset.json")
    if manifest is None:
        raise UserError(f"{dataset} is not a dataset directory (no dataset.json): make one with `clfa import`")
    return manifest


def labelled_splits(manifest: Mapping[str, Any]) -> list[str]:
    """Names of the splits whose posts have labels."""
    return [split for split in manifest["splits"] if split != UNLABELLED]
