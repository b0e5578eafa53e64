"""Which column of a table is the text, the image, the label: by their names."""

from collections.abc import Mapping, Sequence

from clfa.data.formats import open_source
from clfa.data.tables import OPTIONS
from clfa.errors import UserError

GUESSES: dict[str, tuple[str, ...]] = {
    "text": ("text", "tweet", "post", "content", "caption", "title", "sentence", "message", "body", "review"),
    "image": ("image", "image_path", "img", "img_path", "photo", "picture", "file_name", "filename", "image_file"),
    "label": ("label", "labels", "class", "target", "sentiment", "category", "y"),
    "id": ("id", "post_id", "tweet_id"),
    "split": ("split",),
}
"""Names that columns have, the likeliest first; capitals do not count."""


def guess_columns(source: str, named: Mapping[str, str]) -> dict[str, str]:
    """Our name -> column of a source: those that are named, and others of `OPTIONS` by their name, where they are there.

    Raises:
        UserError: a named column is not there, or no column looks like a label, or none like a text or an image.
    """
    return guess_columns_of(list(dict.fromkeys(n for t in open_source(source) for n in t.names())), source, named)


def guess_columns_of(names: Sequence[str], source: str, named: Mapping[str, str]) -> dict[str, str]:
    """The same for the column names of a source."""
    unknown = [name for name in named if name not in OPTIONS]
    if unknown:
        raise UserError(f"--column {unknown[0]}=…: allowed are {', '.join(OPTIONS)}")
    listed = ", ".join(names)
    for ours, column in named.items():
        if column not in names:
            raise UserError(
                f"{source} has no column {column!r} for --column {ours}=…; it has {listed}", "column-missing"
            )
    by_lower = {name.lower(): name for name in reversed(names)}
    found = dict(named)
    for ours, guesses in GUESSES.items():
        taken = next((by_lower[each] for each in guesses if by_lower.get(each) not in (None, *found.values())), None)
        if ours not in found and taken:
            found[ours] = taken
    asked = "label" if "label" not in found else "text" if not {"text", "image"} & found.keys() else ""
    if asked:
        raise UserError(
            f"{source}: which column is the {asked}? Say --column {asked}=COLUMN; there are {listed}", "column-missing"
        )
    return found
