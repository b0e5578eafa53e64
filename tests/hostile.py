"""A corpus of posts that go wrong, or look as if they would: each with the code that `clfa check` must report."""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin


def encoded(format: str, mode: str = "RGB", size: tuple[int, int] = (24, 16), **options) -> bytes:
    """A small image with some structure."""
    ramp = np.arange(size[0] * size[1], dtype=np.uint32).reshape(size[1], size[0])
    if mode == "I;16":
        image = Image.fromarray((ramp * 170 % 65536).astype(np.uint16))
    else:
        image = Image.fromarray((ramp * 7 % 256).astype(np.uint8)).convert("RGB").convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def animated(format: str) -> bytes:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:], duration=100)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be of that size, and has one row."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(64)))]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body


def text_bomb() -> bytes:
    """A PNG whose comment unpacks to 80 MB."""
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 80_000_000, zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("JPEG", exif=exif)


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


FINE, ANIMATED = "", "image-animated"
IMAGES: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "rgb.jpg": (encoded("JPEG"), FINE),
    "progressive.jpg": (encoded("JPEG", progressive=True), FINE),
    "grey.jpg": (encoded("JPEG", "L"), FINE),
    "cmyk.jpg": (encoded("JPEG", "CMYK"), FINE),
    "rotated.jpg": (rotated(), FINE),
    "rgb.png": (encoded("PNG"), FINE),
    "rgba.png": (encoded("PNG", "RGBA"), FINE),
    "palette.png": (encoded("PNG", "P"), FINE),
    "palette-transparent.png": (encoded("PNG", "P", transparency=0), FINE),
    "grey-alpha.png": (encoded("PNG", "LA"), FINE),
    "one-bit.png": (encoded("PNG", "1"), FINE),
    "sixteen-bit.png": (encoded("PNG", "I;16"), FINE),
    "rgb.webp": (encoded("WEBP"), FINE),
    "rgb.gif": (encoded("GIF", "P"), FINE),
    "rgb.bmp": (encoded("BMP"), FINE),
    "one-pixel.png": (encoded("PNG", size=(1, 1)), FINE),
    "thin.png": (encoded("PNG", size=(16_384, 1)), FINE),
    "jpeg.txt": (encoded("JPEG"), FINE),
    "with a space.png": (encoded("PNG"), FINE),
    "bild-ü-😀.png": (encoded("PNG"), FINE),
    "zip-behind.jpg": (encoded("JPEG") + b"PK\x03\x04" + bytes(200), FINE),
    "bad-exif.jpg": (encoded("JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"), FINE),
    "animated.gif": (animated("GIF"), ANIMATED),
    "animated.webp": (animated("WEBP"), ANIMATED),
    "animated.png": (animated("PNG"), ANIMATED),
    "too-wide.png": (encoded("PNG", "1", size=(16_385, 1)), "image-large"),
    "too-many.png": (encoded("PNG", "1", size=(5_001, 5_000)), "image-large"),
    "bomb.png": (png_header(60_000, 60_000), "image-large"),
    "text-bomb.png": (text_bomb, "image-damaged"),
    "cut.jpg": (encoded("JPEG", size=(200, 200))[:-400], "image-damaged"),
    "half.jpg": (encoded("JPEG", size=(200, 200))[:2_000], "image-damaged"),
    "cut.png": (encoded("PNG", size=(200, 200))[:300], "image-damaged"),
    "cut.gif": (encoded("GIF", "P", size=(200, 200))[:2_000], "image-damaged"),
    "cut.webp": (encoded("WEBP", size=(200, 200))[:-40], "image-damaged"),
    "flipped.png": (flipped(encoded("PNG"), 50), "image-damaged"),
    "no-rows.png": (png_header(40, 40), "image-damaged"),
    "no-width.png": (png_header(0, 10), "image-format"),
    "empty.jpg": (b"", "image-format"),
    "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "image-format"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "image-format"),
    "scan.tiff": (encoded("TIFF"), "image-format"),
    "icon.ico": (encoded("ICO"), "image-format"),
    "paper.pdf": (encoded("PDF"), "image-format"),
    "film.mp4": (b"\x00\x00\x00\x18ftypmp42" + bytes(300), "image-format"),
    "program.jpg": (b"\x7fELF" + bytes(300), "image-format"),
    "script.gif": (b"GIF89a/*" + b"*/=1;alert(1)//" + bytes(40), "image-format"),
}
"""File -> its content and the code that is expected."""

PATHS = {
    "missing.jpg": "image-missing",
    "a\nb.jpg": "image-missing",
    "https://example.org/a.jpg": "image-url",
    "file:///etc/hostname": "image-url",
    "../outside.jpg": "image-outside",
    "/etc/hostname": "image-outside",
    "link-out.jpg": "image-outside",
    "zero.jpg": "image-outside",
    "loop.jpg": "image-path",
    "folder": "image-path",
    "pipe.jpg": "image-path",
    "nul\0.jpg": "image-path",
    "n" * 5_000: "image-path",
    "heavy.jpg": "image-large",
}
"""Cells of the column `image` that name no image of the corpus."""

TEXTS = {
    "blank": (" \t\n", "text-empty"),
    "nothing": (None, "text-empty"),
    "long": ("so lovely " * 100_000, "text-long"),
    "nul": ("lovely\0day", "text-control"),
    "surrogate": ("lovely \ud800 day", FINE),
    "right to left": ("יום נהדר \u202eday\u202c", FINE),
    "emoji": ("😀🎉❤️", FINE),
    "special tokens": ("[SEP] [CLS] [MASK] [PAD] <s> </s> <|endoftext|>", FINE),
    "marks": ("d" + "\u0301\u0327" * 200 + "ay", FINE),
    "bom": ("lovely\ufeff day", FINE),
    "formula": ('=HYPERLINK("http://example.org")', FINE),
    "markup": ("<script>alert(1)</script>", FINE),
    "number": (12.5, FINE),
}
"""Name -> text and the code that is expected."""

ROWS = {
    "no label": ({"label": ""}, "label-empty"),
    "no label either": ({"label": None}, "label-empty"),
    "split": ({"split": "eval"}, "split-unknown"),
    "heads": ({"dependencies": "0 1 2 3 4 5 6 7"}, "knowledge-heads"),
    "1.234567e+17": ({}, "id-float"),
    "label of another case": ({"label": "Yes"}, FINE),
}
"""Id -> what is changed, and the code that is expected."""

LINES = [
    (b'{"id": "cut", "text": "lovely', "file-unreadable"),
    (b'["a", "list"]', "file-unreadable"),
    (b'{"id": "latin", "text": "sch\xf6n", "image": "", "label": "yes"}', "file-encoding"),
    (b'{"text": ' + b"[" * 100_000, "file-unreadable"),
]
"""Lines that are no posts."""


def write_hostile(folder: Path) -> dict[str, str]:
    """`posts.jsonl` and its images.

    Returns:
        Place of a post (its id), or of a line (`posts.jsonl:17`), or of a class -> code, empty where nothing is wrong.
    """
    folder.mkdir(parents=True)
    images = folder / "images"
    images.mkdir()
    expected: dict[str, str] = {}
    posts: list[dict] = []

    def add(id: str, code: str, **cells) -> None:
        number = len(posts)
        label, split = ("yes", "no")[number % 2], ("train", "train", "validation", "test")[number % 4]
        base = {"id": id, "text": f"a lovely day {number}", "image": "images/rgb.jpg", "label": label, "split": split}
        posts.append(base | cells)
        expected[id] = code

    for name, (content, code) in IMAGES.items():
        (images / name).write_bytes(content() if callable(content) else content)
        add(f"image {name}", code, image=f"images/{name}")
    with open(images / "heavy.jpg", "wb") as file:
        file.truncate(20_000_001)
    (folder / "outside.jpg").write_bytes(encoded("JPEG"))
    (images / "link-out.jpg").symlink_to(folder.parent / "elsewhere.jpg")
    (folder.parent / "elsewhere.jpg").write_bytes(encoded("JPEG"))
    (images / "zero.jpg").symlink_to("/dev/zero")
    (images / "loop.jpg").symlink_to(images / "loop.jpg")
    (images / "folder").mkdir()
    os.mkfifo(images / "pipe.jpg")
    for number, (path, code) in enumerate(PATHS.items()):
        inside = "://" not in path and not path.startswith("/")
        add(f"path {number}", code, image=f"images/{path.replace('../', '../../')}" if inside else path)
    for name, (text, code) in TEXTS.items():
        add(f"text {name}", code, text=text)
    for id, (cells, code) in ROWS.items():
        add(id, code, **cells)
    for _ in range(40):  # enough of both classes in each split
        add(f"plain {len(posts)}", FINE)
    posts.append(posts[-1])  # an id twice
    with open(folder / "posts.jsonl", "wb") as file:
        for post in posts:
            file.write(json.dumps(post).encode() + b"\n")
        for number, (line, code) in enumerate(LINES, len(posts) + 1):
            expected[f"posts.jsonl:{number}"] = code
            file.write(line + b"\n")
    return expected
