"""Which rows of a dataset directory a run uses: its splits as they are, a sample of train, or folds over all rows."""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clfa.config import DataConfig
from clfa.data.drawing import text_form
from clfa.data.records import SPLITS, labelled_splits, load_manifest
from clfa.data.rows import Rows
from clfa.errors import UserError


def load_rows(data: DataConfig, split: str, seed: int = 0) -> Rows:
    """The rows of one split; `train` is all of `data.train_splits`. Without folds no other split's file is opened.

    With folds the three splits are pooled; fold `data.fold` is `test`, about a tenth of all rows `validation`, the rest
    `train`. Folds are stratified by label, and posts with equal text (see `text_form`) are never on two sides.
    `seed` is of the sample of train.

    Raises:
        UserError: no such split or fold, or a sample larger than train.
    """
    asked = data.train_splits if split == "train" else [split]
    rows = _load_fold(data, asked) if data.folds else Rows(Path(data.path), asked)
    if data.train_rows is not None and split == "train":
        rows = rows.select(_sample_rows(rows.labels, data.train_rows, seed))
    return rows


def load_unlabelled(data: DataConfig) -> Rows | None:
    """The posts of `data.unlabelled`: a split of its own, or `train`, all of it (of the fold), whose labels nobody reads.

    Raises:
        UserError: no such split, or one that chooses or judges.
    """
    if data.unlabelled in ("validation", "test"):
        raise UserError(f"data.unlabelled = {data.unlabelled}: its posts choose or judge, and are not trained on")
    if data.unlabelled is None or data.unlabelled == "train":
        return load_rows(replace(data, train_rows=None), "train") if data.unlabelled else None
    return Rows(Path(data.path), [data.unlabelled])


def source_splits(data: DataConfig, splits: list[str]) -> list[str]:
    """The files that hold the rows of these splits (all files when cross-validating)."""
    if data.folds:
        return labelled_splits(load_manifest(data.path))
    return list(dict.fromkeys(own for split in splits for own in (data.train_splits if split == "train" else [split])))


def _sample_rows(labels: NDArray, size: int, seed: int) -> list[int]:
    """Row numbers of a stratified sample, in file order."""
    from sklearn.model_selection import train_test_split

    if size == len(labels):
        return list(range(size))
    if not len(set(labels.tolist())) <= size < len(labels):
        raise UserError(f"data.train_rows = {size}: must be between the number of classes and {len(labels)}")
    try:
        chosen, _ = train_test_split(np.arange(len(labels)), train_size=size, stratify=labels, random_state=seed)
    except ValueError as error:  # the rest, or a class, is too small
        raise UserError(f"data.train_rows = {size}: no stratified sample of {len(labels)} rows: {error}") from None
    return sorted(chosen.tolist())


def _load_fold(data: DataConfig, asked: list[str]) -> Rows:
    if not set(asked) <= set(SPLITS) or not 0 <= data.fold < data.folds or data.folds < 2:
        raise UserError(f"data.fold = {data.fold}, data.folds = {data.folds}: folds ≥ 2, 0 ≤ fold < folds")
    manifest = load_manifest(data.path)
    splits = labelled_splits(manifest)
    rows = Rows(Path(data.path), splits)
    hashes = tuple(manifest["splits"][split]["sha256"] for split in splits)
    of_fold = _fold_rows(data.path, hashes, data.folds, data.fold)
    return rows.select([number for split in asked for number in of_fold[split]])


@functools.lru_cache(maxsize=10)
def _fold_rows(path: str, hashes: tuple[str, ...], folds: int, fold: int) -> dict[str, list[int]]:
    """Row numbers of each split; drawing them takes seconds, and a run asks for each of its splits.

    `hashes` are of the files, so that a data set that was imported anew is drawn anew.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    rows = Rows(Path(path), labelled_splits(load_manifest(path)))
    classes = rows.labels
    groups = np.array([text_form(text) or f"\0{number}" for number, text in enumerate(rows.texts)], dtype=object)
    outer = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    rest, test = list(outer.split(classes, classes, groups))[fold]
    # a tenth of all rows is 1 / (10 (1 - 1/K)) of what is left
    inner_folds = max(2, round(10 * (1 - 1 / folds)))
    inner = StratifiedGroupKFold(inner_folds, shuffle=True, random_state=0)
    train, validation = next(inner.split(classes[rest], classes[rest], groups[rest]))
    return {"train": rest[train].tolist(), "validation": rest[validation].tolist(), "test": test.tolist()}
