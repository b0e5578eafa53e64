"""The one door for images: untrusted bytes become an RGB image, or an error that says what is wrong."""

import io
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from clfa.errors import UserError

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_IMAGE_BYTES = 20_000_000
MAX_IMAGE_PIXELS = 25_000_000
MAX_IMAGE_SIDE = 16_384


def read_image(image: Path | bytes) -> bytes:
    """The bytes of an image, from a file or as they are, after they were decoded once.

    Raises:
        UserError: no such file, or see `open_image`.
    """
    if isinstance(image, bytes):
        open_image(image)
        return image
    if not image.is_file():
        raise UserError(f"no such file: {image}")
    _refuse_large(image.stat().st_size, image.name)  # before it is in memory
    data = image.read_bytes()
    open_image(data, image.name)
    return data


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
                f"{MAX_IMAGE_SIDE:,} are read; shrink the image"
            )
        opened.load()
        image: Image.Image = ImageOps.exif_transpose(opened)
    except UserError:
        raise
    except Exception as error:  # Pillow raises many types for bad bytes; all of them mean the same to the user
        # its message for other formats names an object in memory
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise UserError(
            f"{name}: not a readable image{reason}; accepted: {', '.join(IMAGE_FORMATS)}, complete files"
        ) from None
    return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of a decoded image: 16 bit scaled to 8, transparency on white."""
    if image.mode.startswith("I"):  # 16 bit grey: a plain convert would clip everything to white
        image = image.point(lambda value: value / 256).convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _refuse_large(size: int, name: str) -> None:
    if size > MAX_IMAGE_BYTES:
        raise UserError(f"{name}: {size:,} bytes, at most {MAX_IMAGE_BYTES:,} are read; shrink the image")
