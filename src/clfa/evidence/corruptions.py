"""What happens to images and texts in the wild, in five severities each, seeded; what a model loses by it.

The images follow Hendrycks and Dietterich (2019) in kind, not in their exact strengths; sizes are relative to the shorter
side, so that a small image is not blurred away.
"""

import io
import re
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

SEVERITIES = (1, 2, 3, 4, 5)
REMAINING = (0.75, 0.55, 0.4, 0.25, 0.15)
"""Share of the brightness, or of the contrast, that is left at each severity."""
Generator = np.random.Generator


def _noise(image: Image.Image, severity: int, generator: Generator) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    return _image(pixels + generator.normal(0, 12 * severity, pixels.shape))


def _shot_noise(image: Image.Image, severity: int, generator: Generator) -> Image.Image:
    photons = 100 / severity**1.5
    return _image(generator.poisson(np.asarray(image, dtype=np.float32) / 255 * photons) / photons * 255)


def _impulse_noise(image: Image.Image, severity: int, generator: Generator) -> Image.Image:
    pixels = np.array(image)
    drawn = generator.random(pixels.shape[:2])
    pixels[drawn < 0.02 * severity] = 0
    pixels[drawn > 1 - 0.02 * severity] = 255
    return Image.fromarray(pixels)


def _motion_blur(image: Image.Image, severity: int, generator: Generator) -> Image.Image:
    length = max(2, round(0.025 * severity * min(image.size)))
    pixels = np.asarray(image, dtype=np.float32)
    padded = np.pad(pixels, ((0, 0), (length - 1, 0), (0, 0)), mode="edge")
    sums = np.pad(np.cumsum(padded, axis=1, dtype=np.float64), ((0, 0), (1, 0), (0, 0)))
    return _image((sums[:, length:] - sums[:, :-length]) / length)


def _pixelate(image: Image.Image, severity: int, generator: Generator) -> Image.Image:
    width, height = image.size
    share = (0.6, 0.4, 0.25, 0.15, 0.1)[severity - 1]
    small = image.resize((max(1, round(width * share)), max(1, round(height * share))), Image.Resampling.BOX)
    return small.resize((width, height), Image.Resampling.NEAREST)


def _jpeg(image: Image.Image, severity: int, generator: Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=(40, 25, 15, 10, 5)[severity - 1])
    return Image.open(buffer).convert("RGB")


def _rotation(image: Image.Image, severity: int, generator: Generator) -> Image.Image:
    angle = 9 * severity * (1 if generator.random() < 0.5 else -1)
    return image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=(127, 127, 127))


def _cover(image: Image.Image, severity: int, generator: Generator) -> Image.Image:
    """A grey square over 10 % × severity of the area, somewhere."""
    share = (0.1 * severity) ** 0.5
    width, height = (round(side * share) for side in image.size)
    left = int(generator.integers(image.width - width + 1))
    top = int(generator.integers(image.height - height + 1))
    result = image.copy()
    result.paste((127, 127, 127), (left, top, left + width, top + height))
    return result


def _typos(text: str, rate: float, generator: Generator) -> str:
    """Letters are replaced, doubled, left out or swapped with the next, one after the other."""
    letters = list(text)
    result: list[str] = []
    place = 0
    while place < len(letters):
        letter = letters[place]
        if letter.isalpha() and generator.random() < rate / 2:
            kind = generator.integers(4)
            if kind == 0:
                result.append(chr(ord("a") + int(generator.integers(26))))
            elif kind == 1:
                result += [letter, letter]
            elif kind == 3 and place + 1 < len(letters):
                result += [letters[place + 1], letter]
                place += 1
        else:
            result.append(letter)
        place += 1
    return "".join(result)


def _word_drop(text: str, rate: float, generator: Generator) -> str:
    words = text.split()
    kept = [word for word in words if generator.random() >= rate]
    return " ".join(kept or words[:1])


def _word_order(text: str, rate: float, generator: Generator) -> str:
    words = text.split()
    for place in range(len(words) - 1):
        if generator.random() < rate:
            words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join(words)


def _word_case(text: str, rate: float, generator: Generator) -> str:
    return " ".join(word.upper() if generator.random() < rate * 2 else word for word in text.split())


def _emoji(text: str, rate: float, generator: Generator) -> str:
    added = [chr(int(generator.integers(0x1F600, 0x1F640))) for _ in range(round(10 * rate))]
    return " ".join([text, *added])


def _hashtags(text: str, rate: float, generator: Generator) -> str:
    """Words turned into hashtags."""
    return " ".join(f"#{word}" if word[0].isalpha() and generator.random() < rate else word for word in text.split())


def _stretched(text: str, rate: float, generator: Generator) -> str:
    """Vowels stretched: sooo."""
    return re.sub(r"[aeiou](?=\w)", lambda vowel: vowel[0] * (3 if generator.random() < rate else 1), text)


def _punctuation(text: str, rate: float, generator: Generator) -> str:
    """Marks left out, and some put where none was."""
    words = re.sub(r"[.,;:!?\"'()…-]", lambda mark: "" if generator.random() < 2 * rate else mark[0], text).split()
    return " ".join(
        word + (str(generator.choice(list(",.!?"))) if generator.random() < rate / 2 else "") for word in words
    )


# name -> (RGB image, severity 1 … 5, generator) -> RGB image
IMAGE_CORRUPTIONS: dict[str, Callable[[Image.Image, int, Generator], Image.Image]] = {
    "noise": _noise,
    "shot noise": _shot_noise,
    "impulse noise": _impulse_noise,
    "blur": lambda image, severity, _: image.filter(ImageFilter.GaussianBlur(0.006 * severity * min(image.size))),
    "motion blur": _motion_blur,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
    "brightness": lambda image, severity, _: ImageEnhance.Brightness(image).enhance(1 + 0.3 * severity),
    "darkness": lambda image, severity, _: ImageEnhance.Brightness(image).enhance(REMAINING[severity - 1]),
    "low contrast": lambda image, severity, _: ImageEnhance.Contrast(image).enhance(REMAINING[severity - 1]),
    "rotation": _rotation,
    "cover": _cover,
}
# name -> (text, severity / 10: about the share of its characters or words that change, generator) -> text
TEXT_CORRUPTIONS: dict[str, Callable[[str, float, Generator], str]] = {
    "typos": _typos,
    "word drop": _word_drop,
    "word order": _word_order,
    "upper case": _word_case,
    "emoji added": _emoji,
    "hashtags": _hashtags,
    "stretched vowels": _stretched,
    "punctuation": _punctuation,
}


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))
