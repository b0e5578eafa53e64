"""What can be wrong with posts: a code for each kind of problem, which `clfa check` reports and docs/errors.md explains."""

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Kind(NamedTuple):
    """A kind of problem."""

    severity: Literal["error", "warning"]
    """An `error` keeps a post, or the whole source, out; with a `warning` it is used as it is."""
    what: str
    """What is wrong, and why it matters."""
    fix: str
    """What helps."""


@dataclass(frozen=True)
class Problem:
    """One problem of one place."""

    code: str
    severity: str
    where: str
    """File and line (`posts.csv:17`), or file and row."""
    id: str
    """Of the post; empty where it is not about one."""
    value: str
    """What was found there, its first 80 characters."""
    message: str


FILES = {
    "file-encoding": Kind("error", "A line is not UTF-8.", "Save the file as UTF-8."),
    "file-unreadable": Kind(
        "error",
        "The file, or a line of it, is not of the format that its ending or its data set promises.",
        "Write it again with the library of that format; compare the line that is named with its neighbours.",
    ),
    "file-quotes": Kind(
        "error",
        "A quote is opened and not closed, so that it swallows the separator or the lines behind it.",
        'Double each quote inside a quoted text (`""`).',
    ),
    "row-fields": Kind(
        "error",
        "A row has more or fewer fields than the header.",
        "Quote texts that contain the separator or line breaks.",
    ),
    "column-missing": Kind("error", "A column that is needed is not there.", "Name it, as the message says."),
    "split-changed": Kind(
        "error",
        "A split of a dataset directory is not the file that was imported: its SHA-256 differs from that in dataset.json.",
        "Import it again, or restore the file.",
    ),
}
"""Of whole files and their lines."""

POSTS = {
    "id-repeated": Kind("error", "Two posts of a split have the same id.", "Give each post an id of its own."),
    "id-float": Kind(
        "warning",
        "An id looks like a rounded number (`1.2e+17`): a spreadsheet or a float column has lost its last digits.",
        "Read and write the column of ids as text.",
    ),
    "split-unknown": Kind(
        "error", "The split of a post has an unknown name.", "Use train, validation and test, or leave the cell empty."
    ),
    "label-empty": Kind(
        "error",
        "A post has no label.",
        "Fill it in, delete the row, or keep such posts apart with `clfa import table … --unlabelled keep`.",
    ),
    "label-unknown": Kind("error", "A label is none of the classes.", "Correct it."),
    "label-single": Kind("error", "Fewer than two classes are left.", "Add posts of another class."),
    "label-alike": Kind(
        "warning",
        "Two classes differ in capitals or white space alone.",
        "Write them alike, unless they are two classes.",
    ),
    "label-rare": Kind(
        "warning",
        "A class has fewer than 10 posts: too few to train on and to judge.",
        "Add posts, or use `clfa import table … --rare other` or `--rare drop`.",
    ),
    "text-bytes": Kind("error", "A text is stored as bytes.", "Store the column as text (UTF-8)."),
    "text-missing": Kind("error", "The file with the text of a post is not there.", "Unpack the data set again."),
    "text-empty": Kind("warning", "A post has no text.", "Nothing, if it is meant to be an image alone."),
    "text-long": Kind(
        "warning",
        "A text has more than 10,000 characters; text encoders read the first few hundred words.",
        "Look whether a quote has swallowed other rows.",
    ),
    "text-control": Kind(
        "warning",
        "A text holds control characters, such as NUL.",
        "Look how the file was written; the characters are kept as they are.",
    ),
    "knowledge-heads": Kind(
        "error",
        "The column `dependencies` does not hold a head for each word of the text.",
        "Parse the texts again after all that changes their words.",
    ),
    "cell-mixed": Kind(
        "error", "A column holds bytes in some rows and texts in others.", "Store the column in one of the two ways."
    ),
}
"""Of what is in the cells of a post, but for images."""

IMAGES = {
    "image-missing": Kind(
        "error",
        "The image that a post names is not there.",
        "Correct the path, name the folder of the images with --images, or leave the cell empty for a post without image.",
    ),
    "image-url": Kind("error", "The image is a URL; nothing is fetched.", "Save the image and give its path."),
    "image-outside": Kind(
        "error",
        "The path of an image leads out of the folder of the images, by `..`, an absolute path or a link.",
        "Name the folder of the images with --images, or give a path inside of it.",
    ),
    "image-path": Kind(
        "error",
        "The cell is no path, or leads to a folder, a pipe or a device instead of a file.",
        "Give the path of a file.",
    ),
    "image-format": Kind(
        "error",
        "The file is no JPEG, PNG, WebP, GIF or BMP, by its content and not by its ending.",
        "Convert it; a file of text or HTML is often the answer of a server that had no image.",
    ),
    "image-damaged": Kind("error", "An image begins well and cannot be decoded to its end.", "Fetch the file again."),
    "image-large": Kind(
        "error",
        "An image has over 20 MB, 25 megapixels or 16,384 pixels in one direction; such files can be bombs.",
        "Shrink it.",
    ),
    "image-animated": Kind("warning", "An image is animated; its first frame is used.", "Nothing, if that is meant."),
}
"""Of images."""

PROBLEMS: dict[str, Kind] = FILES | POSTS | IMAGES
"""Code -> what it means."""


def problem(code: str, where: str, message: str, id: str = "", value: object = "") -> Problem:
    """A problem of a kind."""
    return Problem(code, PROBLEMS[code].severity, where, id, str(value)[:80], message)
