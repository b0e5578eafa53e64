"""Raw files, and tables of any kind, become dataset directories."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from clfa.commands.options import (
    Cleaning,
    IdColumn,
    ImageColumn,
    ImageFolder,
    MaxBad,
    NewDataset,
    OnBad,
    TextColumn,
    further_columns,
)


def import_mmsd(
    source: str,
    *,
    out: NewDataset,
    images: ImageFolder = None,
    filter: Literal["tokens", "substrings", "none"] = "tokens",
    text: Cleaning = "normalised",
    on_bad: OnBad = "fail",
    max_bad: MaxBad = 0.01,
) -> object:
    """Import MMSD, sarcasm in tweets with images (Cai, Cai and Wan 2019).

    Args:
        source: Folder with train.txt, valid2.txt and test2.txt.
        filter: Drop posts that hold a label-giving word as a token, as a substring, or not at all.

    Examples:
        clfa import mmsd MMSD --out data/mmsd
        clfa import mmsd MMSD --images none --out data/mmsd
    """
    from clfa.data.published import read_mmsd

    read = read_mmsd(Path(source), _folder(images, Path(source, "images")), filter)
    return _write("mmsd", read, out, images, text, on_bad, max_bad)


def import_mmsd2(
    source: str,
    *,
    out: NewDataset,
    images: ImageFolder = None,
    text: Cleaning = "normalised",
    on_bad: OnBad = "fail",
    max_bad: MaxBad = 0.01,
) -> object:
    """Import MMSD2.0, MMSD without label-giving words and with new labels (Qin et al. 2023).

    Args:
        source: Folder with train.json, valid.json and test.json.

    Examples:
        clfa import mmsd2 MMSD2 --out data/mmsd2
        clfa import mmsd2 MMSD2 --images none --out data/mmsd2
    """
    from clfa.data.published import read_mmsd2

    read = read_mmsd2(Path(source), _folder(images, Path(source, "images")))
    return _write("mmsd2", read, out, images, text, on_bad, max_bad)


def import_mvsa(
    source: str,
    *,
    out: NewDataset,
    images: str | None = None,
    split_dir: str | None = None,
    split: Literal["stratified", "file-order"] = "stratified",
    seed: int = 0,
    text: Cleaning = "normalised",
    on_bad: OnBad = "fail",
    max_bad: MaxBad = 0.01,
) -> object:
    """Import MVSA-Single or MVSA-Multiple, sentiment of tweets with images (Niu et al. 2016).

    Args:
        source: Folder with data and labelResultAll.txt.
        images: Folder of images; `none` for texts alone. Default: SOURCE/data.
        split_dir: Folder with train, dev and test lists.
        split: Without --split-dir: how to split 8:1:1.
        seed: Seed of a stratified split.

    Examples:
        clfa import mvsa MVSA_Single --out data/mvsa_single
        clfa import mvsa MVSA_Single --split-dir folds/fold1 --out data/mvsa_single
    """
    from clfa.data.published import read_mvsa

    lists = Path(split_dir) if split_dir else None
    read = read_mvsa(Path(source), _folder(images, Path(source, "data")), lists, split, seed)
    return _write("mvsa", read, out, images, text, on_bad, max_bad)


def import_table(
    source: str,
    *,
    out: NewDataset,
    images: str | None = None,
    id_column: IdColumn = "id",
    text_column: TextColumn = "text",
    image_column: ImageColumn = "image",
    label_column: str = "label",
    split_column: str = "split",
    knowledge_column: str = "knowledge",
    column: Sequence[str] = (),
    rare: Literal["train", "other", "drop"] = "train",
    unlabelled: Literal["refuse", "keep"] = "refuse",
    seed: int = 0,
    stream: bool = False,
    text: Cleaning = "normalised",
    on_bad: OnBad = "fail",
    max_bad: MaxBad = 0.01,
) -> object:
    """Import posts of your own: a CSV, TSV, JSONL or Parquet file, a folder of them, an image folder, or a hub data set.

    An import that was stopped, or that refused some posts, goes on when the same command is given again.

    Args:
        source: File, folder or hub name.
        images: Folder that image paths are relative to; `none` for texts alone. Default: the folder of the file.
        label_column: Column of the label.
        split_column: Column with train, validation, test.
        knowledge_column: Column with further text (caption, OCR).
        column: NAME=COLUMN keeps a further column under a name, for a modality that reads it.
        rare: Classes with fewer than 10 posts: keep them, in `train` only if the source has no splits; merge them into one
            class `other`; or `drop` them and list them in dropped.jsonl.
        unlabelled: Rows without a label: refuse them, or keep them, whatever their split, as the split `unlabelled`, which
            `data.unlabelled: unlabelled` aligns in training.
        seed: Seed of a stratified split, where the source has none. Posts with equal texts or images are in one split.
        stream: Read a hub data set from the hub in each of three passes, rather than download it first: for one that the
            disk does not hold twice.

    Examples:
        clfa import table posts.csv --out data/posts
        clfa import table posts.csv --out data/posts --label-column sentiment --images images
        clfa import table posts.csv --out data/posts --rare other
        clfa import table somebody/posts --out data/posts --stream
        clfa import table posts.csv --out data/posts --column ocr=ocr_text --column audio=clip
    """
    from clfa.data.tables import read_table

    columns = {
        "id": id_column,
        "text": text_column,
        "image": image_column,
        "label": label_column,
        "split": split_column,
        "knowledge": knowledge_column,
    }
    read = read_table(
        source,
        _folder(images, None),
        columns,
        seed,
        images != "none",
        further_columns(column),
        rare,
        unlabelled=unlabelled,
        stream=stream,
    )
    return _write("table", read, out, images, text, on_bad, max_bad)


def _folder(images: str | None, default: Path | None) -> Path | None:
    """The folder of images; `None` where there are to be none."""
    return None if images == "none" else Path(images) if images else default


def _write(
    reader: str,
    read: tuple[Any, list[str], dict[str, Any]],
    out: str,
    images: str | None,
    text: str,
    on_bad: str,
    max_bad: float,
) -> object:
    from clfa.data.writing import write_dataset

    rows, class_names, description = read
    stored = "none" if images == "none" else "embedded"
    return write_dataset(rows, out, class_names, {"reader": reader, **description}, text, stored, on_bad, max_bad)
