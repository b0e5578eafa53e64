"""All problems of a source, or of a dataset directory, at once (`clfa check`)."""

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from clfa.data.atomic import replacing
from clfa.data.corrections import stored_posts
from clfa.data.drawing import MIN_POSTS
from clfa.data.examine import examine, unique_ids
from clfa.data.guessing import guess_columns
from clfa.data.places import Place, place
from clfa.data.problems import Problem, problem
from clfa.data.progress import track
from clfa.data.published import MMSD2_FILES, MMSD_FILES, read_mmsd, read_mmsd2, read_mvsa
from clfa.data.records import Bad, Record, Source, load_manifest
from clfa.data.rows import stream_column
from clfa.data.tables import OPTIONS, read_table
from clfa.errors import UserError

SHOWN = 5
"""Problems of each code that are kept in a `Check`; the file holds all."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Check:
    """What `check` has found."""

    source: str
    posts: int
    counts: dict[str, int]
    """Code -> how often."""
    first: list[Problem]
    """The first few of each code."""
    errors: int
    warnings: int
    seconds: float
    file: str
    """Where all of them are listed, a JSON object a line."""

    @property
    def exit_code(self) -> int:
        """Of the command: 3 if there are errors."""
        return 3 if self.errors else 0


def check(
    source: str | Path,
    out: str | Path,
    images: str | None = None,
    columns: Mapping[str, str] | None = None,
    unlabelled: str = "refuse",
    split_dir: str | None = None,
) -> Check:
    """Look at every post as an import would, decode every image, and list all that is wrong in `out` (JSON lines).

    Args:
        source: a dataset directory, a table as `clfa import table` reads it, or the folder of MMSD, MMSD2.0 or MVSA.
        out: file to write.
        images: folder that image paths are relative to; `none` looks at texts alone.
        columns: our name -> column of a table, where it is not guessed right.
        unlabelled: whether posts without a label are refused or meant to be there (`keep`).
        split_dir: lists of splits of MVSA, see `clfa.data.published.read_mvsa`.
    """
    started, source, out = time.monotonic(), place(source), Path(out)
    seen = _Seen()
    with replacing(out) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
        for each in _problems(source, images, columns or {}, unlabelled, split_dir, seen):
            file.write(json.dumps(asdict(each), ensure_ascii=False) + "\n")
            seen.counts[each.code] += 1
            seen.severities[each.severity] += 1
            if seen.counts[each.code] <= SHOWN:
                seen.first.append(each)
    found = seen.severities
    seconds = round(time.monotonic() - started, 1)
    counts = dict(seen.counts.most_common())
    return Check(str(source), seen.posts, counts, seen.first, found["error"], found["warning"], seconds, str(out))


class _Seen:
    """What is counted on the way."""

    def __init__(self) -> None:
        self.posts = 0
        self.labels: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.severities: Counter[str] = Counter()
        self.first: list[Problem] = []


def _problems(
    source: Place, images: str | None, columns: Mapping[str, str], unlabelled: str, split_dir: str | None, seen: _Seen
) -> Iterator[Problem]:
    try:
        has_texts, count, rows = _open(source, images, columns, unlabelled, split_dir)
        examined = examine(unique_ids(rows), images != "none")
        for _, row, warnings in track(examined, f"checking {source}", count):
            seen.posts += 1
            if isinstance(row, Bad):
                yield problem(row.error.code or "file-unreadable", row.source, str(row.error), row.id)
            if isinstance(row, Record):
                seen.labels[row.label or ""] += row.label is not None
                for code in warnings:
                    if code != "text-empty" or has_texts:
                        yield problem(code, row.source, "", row.id, row.id if code == "id-float" else row.text)
    except UserError as error:  # of the whole
        yield problem(error.code or "file-unreadable", str(source), str(error))
    alike: dict[str, list[str]] = {}
    for label in sorted(filter(None, seen.labels)):
        alike.setdefault("".join(label.lower().split()), []).append(label)
        if seen.labels[label] < MIN_POSTS:
            yield problem("label-rare", str(source), f"{label!r} has {seen.labels[label]} posts", value=label)
    for labels in alike.values():
        if len(labels) > 1:
            named = ", ".join(f"{label!r} ({seen.labels[label]:,} posts)" for label in labels)
            yield problem("label-alike", str(source), f"{named}: one class or several?", value=labels[0])


def _open(
    source: Place, images: str | None, columns: Mapping[str, str], unlabelled: str, split_dir: str | None
) -> tuple[bool, int | None, Source]:
    """Whether there are texts, the number of posts where it is known, and the posts."""
    folder = None if images == "none" else Path(images) if images else None
    beside = folder or (source / "images" if images != "none" and (source / "images").is_dir() else None)
    if (source / "dataset.json").is_file():
        manifest = load_manifest(source)
        whole = [split for split in manifest["splits"] if (source / f"{split}.parquet").is_file()]
        has_texts = any(text for split in whole for text in stream_column(source, split, "text"))
        return has_texts, sum(split["rows"] for split in manifest["splits"].values()), stored_posts(source)
    if split_dir or (source / "labelResultAll.txt").is_file():
        there = folder or (source / "data" if images != "none" else None)
        return True, None, read_mvsa(source, there, Path(split_dir) if split_dir else None, "file-order")[0]
    if all((source / name).is_file() for name in MMSD_FILES.values()):
        return True, None, read_mmsd(source, beside)[0]
    if all((source / name).is_file() for name in MMSD2_FILES.values()):
        return True, None, read_mmsd2(source, beside)[0]
    guessed = guess_columns(str(source), columns)
    log.info("columns: %s", ", ".join(f"{ours} = {theirs}" for ours, theirs in guessed.items()))
    names = {name: guessed.get(name, name) for name in OPTIONS}
    embed, texts = images != "none" and "image" in guessed, "text" in guessed
    rows, _, described = read_table(
        str(source), folder, names, embed=embed, texts=texts, unlabelled=unlabelled, draw=False
    )
    return texts, described.get("rows"), rows
