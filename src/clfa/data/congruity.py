"""The generated set "congruity": drawn scenes with short posts that praise them or complain about them.

Every scene shows one of five topics in a good or a bad state, and every post has a tone, praise or complaint. A post
is sarcastic when tone and state disagree: praise for a bad scene, or a complaint about a good one.

Topic, state and tone are balanced over all 20 combinations. The text is drawn without knowing the state and the
picture without knowing the tone, so each tone comes equally often with either label, and so does each state. Text alone
and picture alone are therefore at chance; only a model that compares the two can do better.

Nothing is downloaded: the pictures are drawn with Pillow, and the same seed gives the same bytes.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageOps

TOPICS: tuple[str, ...] = ("beach", "food", "train", "garden", "phone")
STATES: tuple[str, ...] = ("good", "bad")
TONES: tuple[str, ...] = ("praise", "complaint")

SMALLEST_SIZE = 16  # pixels; a person cannot tell the states apart below it
OVERSAMPLING = 4  # drawn this many times larger, then reduced, for smooth edges
TEACHER_STREAM, POST_STREAM = 0, 1  # keeps the teacher's drawings apart from the posts' under one seed

# In all phrases {a|b} means one of a or b; NOUN and WORD stand for the choices in the two tables that follow.
NOUNS = {
    "beach": "{beach|coast|view|holiday}",
    "food": "{food|meal|lunch|dinner}",
    "train": "{train|trip|ride|journey}",
    "garden": "{garden|yard|flower bed}",
    "phone": "{phone|device|gadget}",
}
WORDS = {
    "praise": "{lovely|great|wonderful|perfect|brilliant|fantastic|good|superb}",
    "complaint": "{terrible|horrible|dreadful|miserable|pathetic|bad|poor|lousy}",
}
COMMENTS = {
    "praise": (
        "what a WORD NOUN",
        "{oh|wow|well}, {such|what} a WORD NOUN",
        "{the best|best} NOUN {ever|of my life}",
        "i {really|just|simply} {love|adore|enjoy} this NOUN",
        "this NOUN is {so|just|really} WORD",
        "{so|really|very} {happy|pleased} with this NOUN",
        "this NOUN made my {day|week}",
        "thanks for this WORD NOUN",
        "nobody could ask for a better NOUN",
        "{five|ten} stars for this NOUN",
        "my NOUN today, WORD as {always|ever}",
        "everyone should have a NOUN like this",
        "i want this NOUN again",
        "this is {so|just|really} WORD",
        "i could not be {happier|more pleased} today",
    ),
    "complaint": (
        "what a WORD NOUN",
        "{oh|ugh|well}, {such|what} a WORD NOUN",
        "{the worst|worst} NOUN {ever|of my life}",
        "i {really|just|simply} {hate|dislike|regret} this NOUN",
        "this NOUN is {so|just|really} WORD",
        "{so|really|very} {unhappy|annoyed} with this NOUN",
        "this NOUN ruined my {day|week}",
        "no thanks for this WORD NOUN",
        "nobody could think of a worse NOUN",
        "{zero|no} stars for this NOUN",
        "my NOUN today, WORD as {always|ever}",
        "nobody should have a NOUN like this",
        "i never want this NOUN again",
        "this is {so|just|really} WORD",
        "i could not be {angrier|more annoyed} today",
    ),
}
CAPTIONS = {
    ("beach", "good"): (
        "a {calm|quiet} {beach|shore} under a {clear|bright} sky",
        "{calm|still} sea and {dry|warm} sand with an open umbrella",
        "a {clear|bright} sky over the {beach|shore}, the sea is {calm|still}",
    ),
    ("beach", "bad"): (
        "{high|wild} waves in a storm at the {beach|shore}",
        "a storm with rain and {lightning|dark clouds} over the {beach|sea}",
        "{heavy|dark} clouds, rain and a broken umbrella on wet sand",
    ),
    ("food", "good"): (
        "a fresh {dish|meal} on a {plate|table}",
        "{colourful|golden} food, {freshly baked|fresh from the oven}",
        "a {freshly baked|golden} {dish|meal}, served on a plate",
    ),
    ("food", "bad"): (
        "a burnt {dish|meal} on a {plate|table}",
        "{black|burnt} food with {smoke|dark smoke} above the plate",
        "a {black|burnt} {dish|meal}, {smoke|dark smoke} over the table",
    ),
    ("train", "good"): (
        "a train {running|moving} on a {free|clear} track",
        "a train on the move, people at the {bright|lit} windows",
        "a {moving|running} train on the rails {between|in front of} hills",
    ),
    ("train", "bad"): (
        "a broken train with {smoke|dark smoke} on the track",
        "a {fallen tree|tree} {on|across} the track stops a train",
        "a {stopped|broken} train off the rails, {smoke|dark smoke} and a fallen tree",
    ),
    ("garden", "good"): (
        "{blooming|colourful} flowers in a {green|fresh} garden",
        "{tall|upright} flowers in bloom over green grass",
        "a garden in {full bloom|bloom}, butterflies above the flowers",
    ),
    ("garden", "bad"): (
        "{wilted|withered} flowers in a {dry|dead} garden",
        "{brown|dead} flowers {hanging down|with hanging heads} over dry soil",
        "a {dry|withered} garden, fallen petals on {cracked|bare} soil",
    ),
    ("phone", "good"): (
        "a phone with a {glowing|bright} screen and a {smiling|happy} face",
        "{an intact|a new} phone on a table, the screen is {lit|glowing}",
        "a {smiling|happy} face on the {clean|intact} screen of a phone",
    ),
    ("phone", "bad"): (
        "a phone with a {cracked|broken|shattered} screen",
        "a {cracked|broken} phone on a table, {splinters|pieces of glass} around it",
        "cracks across the {shattered|broken} screen of a phone",
    ),
}

# Colours are (red, green, blue) in 0 to 255, with alpha as a fourth value where a shape lets others shine through.
# Every state can be bright or dark: night is among the good skies and pale daylight among the storms.
SKIES = (  # top, bottom, light on all things below (factor per channel), sun or moon, stars
    ((96, 178, 232), (210, 238, 250), (1.0, 1.0, 1.0), (255, 221, 110), 0),
    ((244, 146, 120), (255, 222, 160), (1.0, 0.9, 0.84), (255, 242, 196), 0),
    ((176, 164, 224), (255, 212, 210), (0.96, 0.92, 1.0), (255, 246, 220), 0),
    ((26, 36, 82), (88, 106, 164), (0.58, 0.64, 0.86), (244, 240, 214), 16),
)
STORMS = (  # top, bottom, light, clouds
    ((150, 166, 182), (214, 224, 228), (0.94, 0.97, 1.0), (96, 108, 126)),
    ((176, 162, 158), (238, 222, 196), (1.0, 0.95, 0.88), (112, 100, 108)),
    ((92, 92, 128), (176, 164, 190), (0.84, 0.82, 0.95), (62, 60, 92)),
    ((36, 42, 68), (88, 100, 130), (0.6, 0.66, 0.82), (24, 28, 48)),
)
TABLES = (  # far edge, near edge, pattern
    ((246, 214, 190), (236, 184, 152), (250, 228, 208)),
    ((178, 222, 208), (134, 192, 182), (204, 236, 224)),
    ((158, 186, 226), (112, 146, 204), (184, 206, 238)),
    ((250, 226, 150), (240, 198, 110), (254, 238, 186)),
    ((84, 82, 122), (54, 54, 90), (104, 102, 146)),
    ((168, 122, 92), (130, 90, 68), (184, 140, 108)),
)
LANDS = (((150, 200, 110), (96, 160, 90)), ((222, 190, 110), (186, 146, 84)), ((196, 214, 150), (140, 176, 110)))
SOILS = {
    "good": (((140, 200, 104), (84, 154, 84)), ((170, 208, 112), (112, 168, 84)), ((104, 178, 120), (66, 134, 96))),
    "bad": (((214, 188, 142), (172, 138, 98)), ((190, 156, 120), (146, 110, 84)), ((226, 206, 160), (190, 162, 112))),
}
BRIGHT = ((232, 92, 92), (250, 176, 72), (92, 150, 224), (172, 110, 204), (240, 128, 168), (60, 170, 156))
WITHERED = ((150, 108, 74), (128, 88, 78), (164, 126, 84), (120, 92, 66))
WHITE, INK, SOOT, SMOKE = (255, 255, 255), (52, 48, 64), (46, 36, 34), (98, 96, 106, 165)
WOOD, LEAF, STRAW = (134, 92, 64), (72, 150, 88), (142, 128, 76)


def draw_scene(topic: str, state: str, generator: np.random.Generator, size: int = 64) -> Image.Image:
    """Draw one scene as an RGB picture of ``size`` x ``size`` pixels.

    Position, colours, scale, time of day, little objects and left or right come from ``generator``.

    Raises:
        ValueError: ``topic`` is not in TOPICS, ``state`` not in STATES, or ``size`` is below 16 pixels.
    """
    _require("topic", topic, TOPICS)
    _require("state", state, STATES)
    if size < SMALLEST_SIZE:
        raise ValueError(f"size is {size} pixels, allowed is {SMALLEST_SIZE} or more: ask for a larger picture")
    side = size * OVERSAMPLING
    canvas = Image.new("RGB", (side, side))
    pen = _Pen(ImageDraw.Draw(canvas, "RGBA"), np.eye(2) * side / 100, np.zeros(2))
    drawers = {"beach": _beach, "food": _food, "train": _train, "garden": _garden, "phone": _phone}
    drawers[topic](pen, state, generator)
    picture = canvas.resize((size, size), Image.Resampling.LANCZOS)
    if generator.random() < 0.5:
        picture = ImageOps.mirror(picture)
    # A random exposure per picture, so that the mean colour says little about the state.
    exposure = generator.uniform(0.82, 1.06) * generator.uniform(0.96, 1.04, 3)
    return Image.fromarray(np.clip(np.asarray(picture) * exposure, 0, 255).astype(np.uint8))


def scene_caption(topic: str, state: str, generator: np.random.Generator) -> str:
    """Describe a scene without judging it; lower case, true for every drawing of ``topic`` in ``state``.

    Raises:
        ValueError: ``topic`` is not in TOPICS or ``state`` not in STATES.
    """
    _require("topic", topic, TOPICS)
    _require("state", state, STATES)
    return _say(_pick(generator, CAPTIONS[topic, state]), generator)


def comment(topic: str, tone: str, generator: np.random.Generator) -> str:
    """Say what a person posts about ``topic``: only the attitude in lower case, never what the scene shows.

    Raises:
        ValueError: ``topic`` is not in TOPICS or ``tone`` not in TONES.
    """
    _require("topic", topic, TOPICS)
    _require("tone", tone, TONES)
    template = _pick(generator, COMMENTS[tone])
    return _say(template.replace("NOUN", NOUNS[topic]).replace("WORD", WORDS[tone]), generator)


def captioned_drawings(count: int, seed: int, size: int = 64) -> Iterator[tuple[Image.Image, str]]:
    """Yield ``count`` pairs (RGB picture of ``size`` x ``size`` pixels, text) to train a teacher on.

    The text is a caption; every second one goes on with ". " and a comment that fits the state (praise for good,
    complaint for bad), never a sarcastic one. The same ``seed`` (0 or more) gives the same pairs, and no picture of
    ``posts`` under that seed is among them.

    Raises:
        ValueError: ``count`` or ``seed`` is negative, or ``size`` is below 16 pixels (when the first pair is drawn).
    """
    _require_not_negative("count", count)
    _require_not_negative("seed", seed)
    return _captioned_drawings(count, seed, size)


def posts(count: int, seed: int, size: int = 64) -> Iterator[dict]:
    """Yield ``count`` posts, all 20 combinations of topic, state and tone once in every block of 20.

    Each post is a dict: ``id`` (such as "congruity-000012"), ``text``, ``image`` (RGB, ``size`` x ``size`` pixels),
    ``label`` ("sarcastic" or "not_sarcastic"), ``topic``, ``state`` and ``tone``. The order within a block is shuffled
    by ``seed`` (0 or more); the same seed gives the same posts.

    Raises:
        ValueError: ``count`` is not a positive multiple of 20, ``seed`` is negative, or ``size`` is below 16 pixels
            (when the first post is drawn).
    """
    block = len(TOPICS) * len(STATES) * len(TONES)
    if count <= 0 or count % block:
        near = max(block, round(count / block) * block)
        raise ValueError(
            f"count is {count}, allowed are positive multiples of {block} (one post per combination of topic, state "
            f"and tone, so that the labels stay balanced): ask for {near}"
        )
    _require_not_negative("seed", seed)
    return _posts(count, seed, size)


def words() -> list[str]:
    """Return the sorted vocabulary: every word that a caption or a comment can contain, without punctuation."""
    phrases = [*NOUNS.values(), *WORDS.values(), *itertools.chain(*COMMENTS.values(), *CAPTIONS.values())]
    return sorted(set(re.findall(r"[a-z]+", " ".join(phrases))))


def _require(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}, allowed are {', '.join(allowed)}: choose one of these")


def _require_not_negative(what: str, value: int) -> None:
    if value < 0:
        raise ValueError(f"{what} is {value}, allowed is 0 or more: pass a number that is not negative")
