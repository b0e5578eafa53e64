"""The one door for images: untrusted bytes become an RGB image, or an error that says what is wrong."""

import io
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from clfa.data.places import Place, is_remote
from clfa.errors import UserError

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_IMAGE_BYTES = 20_000_000
MAX_IMAGE_PIXELS = 25_000_000
MAX_IMAGE_SIDE = 16_384
warnings.filterwarnings("ignore", "Corrupt EXIF data", module="PIL")  # the image itself is whole


def read_image(image: Path | bytes) -> bytes:
    """The bytes of an image, from a file or as they are, after they were decoded once.

    Raises:
        UserError: no such file, or see `open_image`.
    """
    if isinstance(image, bytes):
        open_image(image)
        return image
    if not image.is_file():
        if image.exists():
            raise UserError(f"{image} is no file but a folder, a pipe or a device", "image-path")
        raise UserError(f"no such file: {image}", "image-missing")
    _refuse_large(image.stat().st_size, image.name)  # before it is in memory
    data = image.read_bytes()
    open_image(data, image.name)
    return data


def safe_image(value: Any, root: Place, where: str) -> Path | bytes | None:
    """The image of a table's cell: bytes as they are, a path only if it stays inside `root`; empty means no image.

    Raises:
        UserError: the path is a URL, or leaves the folder.
    """
    if isinstance(value, dict):  # `datasets` images: {"bytes", "path"}
        value = value.get("bytes") or value.get("path")
    if value is None or value == "" or isinstance(value, bytes):
        return value or None
    refuse_url(value, f"{where}: ")
    if is_remote(root):
        raise UserError(
            f"{where}: the image {str(value)[:60]!r} is a path, and the table is in object storage: put the images into the "
            "table (Parquet), or name their folder on this machine (--images at import, --image-dir)",
            "image-outside",
        )
    try:
        path = (root / str(value)).resolve()
        path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a zero byte, links in a circle
        raise UserError(f"{where}: the image {str(value)[:60]!r} is no path: {error}", "image-path") from None
    if not path.is_relative_to(root.resolve()):
        raise UserError(
            f"{where}: the image {str(value)!r} lies outside {root}; name the folder of the images (--images at "
            "import, --image-dir), or give a path inside it",
            "image-outside",
        )
    return path


def refuse_url(value: Any, where: str = "") -> None:
    """Raises a UserError where a path would be a URL."""
    if "://" in str(value):
        raise UserError(f"{where}{value!r} is a URL; nothing is fetched, save the image and give its path", "image-url")


def open_image(data: bytes, name: str = "image") -> Image.Image:
    """Decode an untrusted image to RGB: first frame, EXIF rotation applied, transparency on white, 16 bit scaled to 8.

    Size limits are checked before decoding (20 MB, 25 megapixels, sides 1…16,384).

    Raises:
        UserError: not one of JPEG/PNG/WebP/GIF/BMP, too large, truncated or otherwise unreadable.
    """
    _refuse_large(len(data), name)
    try:
        opened = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        width, height = opened.size
        if width * height > MAX_IMAGE_PIXELS or max(width, height) > MAX_IMAGE_SIDE:
            raise UserError(
                f"{name}: {width}x{height} pixels, at most {MAX_IMAGE_PIXELS:,} pixels and sides of "
                f"{MAX_IMAGE_SIDE:,} are read; shrink the image",
                "image-large",
            )
        opened.load()
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"{name}: over {MAX_IMAGE_PIXELS:,} pixels; shrink the image", "image-large") from None
    except Exception as error:  # Pillow raises many types for bad bytes; all of them mean the same to the user
        # its message for other formats names an object in memory
        unknown = isinstance(error, UnidentifiedImageError)
        raise UserError(
            f"{name}: not a readable image{'' if unknown else f' ({error})'}; accepted: {', '.join(IMAGE_FORMATS)}, "
            "complete files",
            "image-format" if unknown else "image-damaged",
        ) from None
    with suppress(Exception):  # EXIF that cannot be read turns nothing
        ImageOps.exif_transpose(opened, in_place=True)
    return to_rgb(opened)


def media_type(data: bytes) -> str:
    """Of an image that `open_image` reads: `image/jpeg` …"""
    kind = str(Image.open(io.BytesIO(data), formats=IMAGE_FORMATS).format)
    return Image.MIME["JPEG" if kind == "MPO" else kind]  # several JPEGs in one file, as phones make them


def is_animated(data: bytes) -> bool:
    """Whether an image that `open_image` reads has several frames, of which it takes the first."""
    return bool(getattr(Image.open(io.BytesIO(data), formats=IMAGE_FORMATS), "is_animated", False))


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of a decoded image: 16 bit scaled to 8, transparency on white."""
    if image.mode.startswith("I"):  # 16 bit grey: a plain convert would clip everything to white
        image = image.point(lambda value: value / 256).convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")  # each of them costs four bytes a pixel


def _refuse_large(size: int, name: str) -> None:
    if size > MAX_IMAGE_BYTES:
        raise UserError(
            f"{name}: {size:,} bytes, at most {MAX_IMAGE_BYTES:,} are read; shrink the image", "image-large"
        )
