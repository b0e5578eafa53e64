"""The generated set "congruity": drawn scenes with short posts that praise them or complain about them.

Every scene shows one of five topics in a good or a bad state, and every post has a tone, praise or complaint. A post
is sarcastic when tone and state disagree: praise for a bad scene, or a complaint about a good one.
Topic, state and tone are balanced over all 20 combinations. The text is drawn without knowing the state and the
image without knowing the tone, so each tone and each state comes equally often with either label: text alone and
image alone are at chance, and only a model that compares the two can do better. The same seed gives the same bytes.
"""

import functools
import itertools
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageOps

TOPICS: tuple[str, ...] = ("beach", "food", "train", "garden", "phone")
STATES: tuple[str, ...] = ("good", "bad")
TONES: tuple[str, ...] = ("praise", "complaint")
SMALLEST_SIZE = 16  # pixels; a person cannot tell the states apart below it
OVERSAMPLING = 4  # drawn this many times larger, then reduced, for smooth edges
TEACHER_STREAM, POST_STREAM = 0, 1  # keeps the teacher's drawings apart from the posts' under one seed
INNERMOST = re.compile(r"([\[{])([^][{}]*)[]}]")  # a choice that holds no other choice

# In all tables {a|b} means one of the two by chance and [a|b] the first for good or praise, else the second.
# Phrases are separated by "/"; NOUN and WORD stand for a choice of the topic's nouns and of the tone's words.
NOUNS = {
    "beach": "{beach|coast|view|holiday}",
    "food": "{dish|meal|lunch|dinner}",
    "train": "{train|trip|ride|journey}",
    "garden": "{garden|yard|flower bed}",
    "phone": "{phone|device|gadget}",
}
WORD = """{[lovely|terrible]|[great|horrible]|[wonderful|dreadful]|[perfect|miserable]|[brilliant|pathetic]|[good|bad]|
    [fantastic|poor]|[superb|lousy]}"""
COMMENTS = """what a WORD NOUN / {oh|well|[wow|ugh]}, such a WORD NOUN / {the |}[best|worst] NOUN {ever|of my life} /
    i {really|just|simply} {[love|hate]|[adore|dislike]|[enjoy|regret]} this NOUN / this NOUN is {so|just|really}
    WORD / {so|really|very} [{happy|pleased}|{unhappy|annoyed}] with this NOUN / this NOUN [made|ruined] my
    {day|week} / [thanks|no thanks] for this WORD NOUN / nobody could [ask for a better|think of a worse] NOUN /
    [{five|ten}|{zero|no}] stars for this NOUN / my NOUN today, WORD as {always|ever} / this is {so|just|really} WORD
    / [everyone|nobody] should have a NOUN like this / i [so|never] want this NOUN again / i could not be
    [{happier|more pleased}|{angrier|more annoyed}] today"""
CAPTIONS = {
    "beach": """[{calm|quiet} sea|{high|wild} waves] and a [{clear|fair}|stormy] sky {at|by} the {beach|shore} / a
        [{clear|fair} sky|storm with {rain|lightning}] over the {beach|sea} and {an|one} [open|toppled] umbrella""",
    "food": """a [fresh|burnt] {dish|meal} on a {plate|table} / a [freshly baked|{black|burnt}] {dish|meal} on a plate /
        [{golden|fresh} food from the oven|{black|burnt} food with {smoke|dark smoke} over it]""",
    "train": """a train [{running|moving} on a {free|clear} track|stopped by a {tree|fallen tree} across the track] /
        a train [on the move with {light in|lit} windows|off the rails with dark windows and {smoke|dark smoke}]""",
    "garden": """[{blooming|colourful}|{wilted|withered}] flowers in a [green|{dry|dead}] garden / flowers
        [and butterflies over {green|fresh} grass|with hanging heads and fallen petals on {bare|cracked} soil]""",
    "phone": """a [{new|clean}|{broken|shattered}] phone with [a {glowing|bright} screen|{splinters|glass} around it] /
        [a {smiling|cheerful} face on|cracks across] the [{lit|intact}|{shattered|broken}] screen of a phone""",
}

# Colours are hexadecimal, with opacity as the last two of eight digits; of several, each object takes one by chance.
COLOURS = """a e85c5c fab048 5c96e0 ac6ecc f080a8 3caa9c; cloud ffffff f4f4fa; halo fff6d04c; ink 34303f; shade
    20183038; wood 86604a 7a5240; leaf 48985a 5aaa5c 3c8c64; deep 2e8cb4 3a9cc0 3486a4; shallow 8adcd8 7ccce0 98e0d0;
    sand f4deac f0d29c f6e4bc; foam f6fcfc; shine ffffffa0; gale 3c5a6c 46606a 50647c; surf 4a6c80 5a7a84 567290; wet
    b49c80 a89888 9c8c7c; rain e8f0f8b0; flash ffec78; plate fcfaf6 e8f0f4 fae6dc; rim e2dcd6 ccd8e0 e8cabc; crust
    e2a85c d89a50; sauce d8603c; cheese fcd474 f8c85c; salami cc4840 b83c44; herb 5aa048; sponge eab878 8a5a44
    f0cc8c; cherry dc3048; char 2a1c1cd8 301e18cc; soot 241c1e 2c201e; ember e0602c; smoke 6a6874b4 7c7a84b4
    5a5864b4; hill 8cb88c 7cacb0 a8a8c8 b8b078; land 96c86e dcc07a b8d490; field 5a9c5a b88a50 86ae68; ballast
    a89c94; rail 5c5a68; glass fff2b4 d2f0ff; dark 3a3c4c; warn ffc832; lamp fffae0; lush a0d470 8cc868 b4dc7c; lawn
    58a054 4c946a 6ca850; dry e2c894 d4b084 e8d4a8; dust b08c64 a07a58 c0a274; rift 7a5c40; straw 8e804c 9a8450;
    wither 966c4a 80584e a47e54 8a6a5c; heart fce05c 80482c; case 34303f f4f0f4 e0a0a8 6c8cb8; screen 8ee0ec ffd0dc
    c4f0b4 3c4c8c d8c8fc; face ffd84a; off 22222c 2c303c 5c6478 8c96a0; fleck ffffffd8"""
POOLS = {name: pool for name, *pool in (row.split() for row in COLOURS.split(";"))}
# Per backdrop: top, bottom, its own colour (sun or moon, cloud or cloth) and the light on all that is not marked "!" in
# percent of red, green, blue. Either state can be light or dark: there are fair nights and pale daylight storms.
BACKDROPS = {
    "fair": """60b2e8 d2eefa ffdd6e 100 100 100; f49278 ffdea0 fff2c4 100 90 84; b0a4e0 ffd4d2 fff6dc 96 92 100;
        1a2452 586aa4 f4f0d6 60 66 88""",
    "storm": """9cb0c4 e2eaee 76849a 100 100 100; bcaea8 f6e8d0 887a80 100 97 92; 74749c c4b8d0 56547c 92 90 100;
        2c3454 66749a 20263e 66 72 90""",
    "table": """f6d6be ecb898 fae4d0 100 100 100; b2decf 86c0b6 ccece0 100 98 96; 9ebae2 7092cc b8ceee 98 98 100;
        54527a 36365a 68668e 80 80 92; a87a5c 825a44 b88c6c 100 94 86""",
}
# Objects are shapes in percent of the image's width, y downwards: "o" oval (x, y, two radii), "c" rounded box (x, y,
# half width, half height, radius), "p" polygon, "l" line (width, points), "f" fade (from y, to y), "+" another object;
# a comma repeats the kind and colour.
OBJECTS = """sky = f top!>bottom! -20 120 / sun = o halo! 0 0 15 15, 0 0 10.5 10.5; o own! 0 0 6.5 6.5 /
    cloud = o cloud -7 1 6 4, 0 -2 8 6.5, 8 1 6 4; c cloud 0 3 13 2.2 2 / gloom = o own -12 1 8 5.5, -4 -2 9 7.5,
    6 -1 9 7, 13 2 7 5 / bolt = p flash! 0 0 6 0 2 12 8 12 -5 34 -1 18 -6 18 / sea = f deep>shallow 0 70 /
    crest = p surf -17 7 -10 1 -3 -6 2 -8.5 7 -7.5 5 -5 6 -1 10 3 17 7;
    p foam -11 2 -3 -6.5 2 -9.5 8 -8.5 9 -5 6 -6.5 3 -6 -2 -2 -6 1 /
    sand = p foam -80 0 -45 -2 -22 1 0 3 22 1 45 -2 80 1 80 60 -80 60;
    p sand -80 2 -45 0 -22 3 0 5 22 3 45 0 80 3 80 60 -80 60 / glint = c shine 0 0 4 .6 .5 /
    boat = p a -7 0 7 0 5 3 -5 3; p foam -.5 -1 -.5 -13 -6 -1, .7 -1 .7 -11 5 -1 / umbrella = l wood 1.4 0 0 0 -26;
    p a -15 -20 -13 -26 -8 -31 0 -33 8 -31 13 -26 15 -20; p foam -9.5 -20 -7.5 -28 0 -33 -3.5 -27 -4 -20,
    9.5 -20 7.5 -28 0 -33 3.5 -27 4 -20 / palm = l wood 2.6 0 0 1 -12 4 -24;
    p leaf 4 -24 -2 -30 -10 -29 -16 -22 -9 -25 -3 -25, 4 -24 10 -31 18 -29 23 -21 15 -25 9 -25,
    4 -24 -3 -24 -8 -18 -9 -11 -3 -18, 4 -24 10 -24 15 -18 16 -11 10 -18, 4 -24 1 -32 5 -38 11 -39 8 -31 /
    ball = o shade .5 3 3.6 1.2; o a 0 0 3.4 3.4; o foam 0 0 1.2 3.4 / rain = l rain .7 0 0 -3 9 /
    stripes = p own! -70 -90 -58 -90 -58 90 -70 90, -40 -90 -28 -90 -28 90 -40 90, -10 -90 2 -90 2 90 -10 90,
    20 -90 32 -90 32 90 20 90, 50 -90 62 -90 62 90 50 90 / dot = o own! 0 0 2.4 2.4 / plate = o shade 2 4 38 37;
    o plate 0 0 37 36; o rim 0 0 31 30; o plate 0 0 30 29 / cup = o shade 1 2 12 12; o a 0 0 11 11; o foam 0 0 9 9;
    o wood 0 0 7.6 7.6; o a 12 0 3.6 2.4 / pizza = o crust 0 0 28 28; o sauce 0 0 24.5 24.5; o cheese 0 0 23 23;
    o salami -11 -9 5 5, 8 -13 5 5, 14 3 5 5, 2 14 5 5, -13 7 5 5, 0 0 4.4 4.4; o herb -3 -12 3.4 1.6, 9 -4 1.6 3.4,
    -6 10 3.2 1.6, 9 10 1.8 3; l crust 1 -27 0 27 0, 1 -13 -23 13 23 / burnt_pizza = + pizza; o char 0 0 28.5 28.5;
    o soot -10 -8 8 6, 9 7 9 7, 10 -12 6 5, -9 13 6 5, -24 2 5 8, 4 -25 9 4; l ember 1 -12 2 -5 5 1 2, 1 2 -7 7 -3 /
    stand = o shade 0 18 33 7; o plate 0 15 34 7; o rim 0 14.5 26 4.6 / cake = + stand; c sponge 0 2 22 13 4;
    c foam 0 4 22 2 0; c a 0 -10 22.6 5 4.6; o a -17 -6 3.4 6, -8 -5 3.4 8, 2 -6 3.4 6, 11 -5 3.4 8, 18 -7 3.4 5;
    o cherry -12 -17 3.4 3.4, 0 -18 3.4 3.4, 12 -17 3.4 3.4; o shine -13 -18 1 1 / burnt_cake = + stand;
    p soot -24 15 -22 -4 -15 -9 -8 -3 1 -7 8 1 17 2 24 15; p char -20 13 -17 -2 -8 2 3 0 9 6 18 13;
    l ember 1.2 -15 3 -9 8 -4 5 2 10, 1 9 7 13 11; o soot -27 14 3 1.6 / smoke = o smoke 0 0 5 5, 3 -9 6.5 6,
    -2 -18 8 7, 4 -29 10 8, -1 -40 11 8 / hill = o hill 0 0 34 17 / land = f land>field 0 70 /
    tree = l wood 3 0 0 0 -12; o leaf 0 -20 9 10, -6 -15 6 6, 6 -15 6 6 / track = c ballast 0 4 80 4 0;
    l wood 2.4 -42 1 -44 7, 2.4 -30 1 -32 7, 2.4 -18 1 -20 7, 2.4 -6 1 -8 7, 2.4 6 1 4 7, 2.4 18 1 16 7, 2.4 30 1 28 7,
    2.4 42 1 40 7; l rail 1.2 -80 2 80 2 / wagon = c a 0 -14 21 11 3; c foam 0 -7 21 1.2 0; c glass! -13 -16 4.4 4.4 1,
    0 -16 4.4 4.4 1, 13 -16 4.4 4.4 1; o ink -13 -2 3.6 3.6, 13 -2 3.6 3.6; c rail 0 -25.6 19 1.4 1 /
    engine = p a -20 -3 -20 -25 8 -25 15 -21 20 -11 20 -3; c foam -1 -7 20 1.2 0; c glass! -12 -16 4.4 4.4 1,
    0 -16 4.4 4.4 1; p glass! 8 -21 13 -19.5 17 -12 8 -12; o lamp! 17.5 -6 1.8 1.8; o ink -13 -2 3.6 3.6,
    11 -2 3.6 3.6 / sign = p ink 0 -15 8.6 0 -8.6 0; p warn! 0 -13 7 -1 -7 -1; l ink 1.8 0 -9.5 0 -5; o ink 0 -3 1 1 /
    lawn = f lush>lawn 0 70 / tuft = p leaf -3 0 -4 -5 -1 -1 0 -7 1 -1 4 -5 3 0 / bloom = l leaf 1.8 0 0 .6 -12 0 -26;
    p leaf 0 -3 -8 -11 -9 -15 -2 -10, 0 -5 8 -13 9 -17 2 -12; o a 6 -29 4.2 4, 3 -24 4 4.2, -3 -24 4 4.2, -6 -29 4.2 4,
    -3 -34 4 4.2, 3 -34 4 4.2; o heart 0 -29 3.6 3.6 / tulip = l leaf 1.8 0 0 -.6 -12 0 -22;
    p leaf 0 0 -7 -11 -7 -18 -1 -8, 0 0 7 -12 7 -19 1 -8;
    p a -6 -36 -3 -31 0 -37 3 -31 6 -36 6 -26 3 -21 -3 -21 -6 -26 /
    wilted = l straw 2 0 0 -1 -13 1 -23 5 -28 9 -27 11 -21; p straw 0 -9 -6 -10 -9 -3 -7 0 -5 -7, 0 -5 4 -7 7 0 4 -4;
    o wither 11 -14 3 7, 6.8 -15.5 2.6 6, 15.2 -15.5 2.6 6; o straw 11 -21 4.6 3 / petal = o wither 0 0 2.4 1 /
    rift = l rift .9 -12 0 -6 1.4 -1 -.6 5 1.6 12 .4, .8 -1 -.6 1 -4, .8 5 1.6 4 5 / butterfly = o a -3 -1.6 3 2.4,
    3 -1.6 3 2.4, -2 1.8 2 1.8, 2 1.8 2 1.8; l ink .9 0 -3 0 3.4 / body = c shade 3 4 24 41 7; c case 0 0 23 40 7;
    c ink 0 0 21 37.6 5 / phone = c halo! 0 0 30 47 14; + body; c screen! 0 0 20 36.4 4; o face! 0 -7 14 14;
    o ink! -5 -11 1.8 2.6, 5 -11 1.8 2.6; l ink! 2 -8 -4 -5 -.6 0 .8 5 -.6 8 -4; c a! -11 20 4.4 4.4 2, 0 20 4.4 4.4 2,
    11 20 4.4 4.4 2 / broken = + body; c off! 0 0 20 36.4 4; p ink! 20 -36 4 -36 8 -24 20 -20,
    -20 24 -10 30 -12 36 -20 36; + cracks / cracks = l fleck! 1.3 3 -8 -7 -15 -13 -26 -20 -31, 1.3 3 -8 9 -20 6 -36,
    1.3 3 -8 12 -12 20 -10, 1.3 3 -8 13 4 12 14 20 24, 1.3 3 -8 1 8 6 20 2 36, 1.3 3 -8 -8 2 -12 14 -20 22,
    1.3 3 -8 -10 -8 -20 -3, .9 -7 -15 9 -20 12 -12 13 4 1 8 -8 2 -10 -8 -7 -15, .9 12 14 6 20 -12 14 -16 -5;
    p foam! 3 -8 8 -12 8 -6, 3 -8 -2 -5 0 -11 / shard = p foam! 0 -3 3 1 -2 3; p shade 0 -1 2 1 -1 2"""
# Per topic: backdrop, then back to front: object (with changed colours), how many (a~b random), x, y, scale, degrees.
SCENES = {
    "beach": """[fair; sun 1 12~88 10~24 .8~1.2 0; cloud 0~3 5~95 10~32 .6~1.1 0; sea 1 50 46 1 0; glint 6~12 0~100
        50~64 .6~1.2 0|storm; gloom 7~10 0~100 0~20 1.1~1.7 0; bolt 1~2 12~88 20~24 .7~1 -8~8;
        sea,deep=gale,shallow=surf 1 50 46 1 0]; boat 0~1 15~85 50 .8~1.2 [0|-30~30]; [sand 1 40~60 66|crest 3~5
        0~100 48~54 .8~1.1 0; crest 4~6 0~100 58~64 1.1~1.6 0; sand,sand=wet 1 40~60 71] 1 -3~3; palm 0~1 8~24 78~84
        1.1~1.5 [-8~4|20~34]; ball 0~1 12~88 84~92 .9~1.3 0; umbrella 1 [42~78 86~94 1~1.4 -12~12|30~60 81~87 1~1.3
        105~140; rain 28~44 0~106 -4~96 .8~1.4 0]""",
    "food": """table; {stripes 1 50 50 1 -40~40|dot 0~40 0~100 0~100 1 0}; cup 0~1 88~92 10~14 1 0~360; {plate 1 50
        53 1.1 0; [pizza|burnt_pizza] 1 50 53 1~1.2 0~360|[cake|burnt_cake] 1 50 56 1.1~1.4 0}; smoke [0|2~3] 32~68
        46~54 .8~1.1 -14~14""",
    "train": """fair; sun 0~1 12~88 8~20 .7~1.1 0; cloud 0~3 5~95 8~30 .6~1.1 0; hill 3~5 0~100 52 .7~1.4 0; land 1
        50 50 1 0; tree 1~4 0~100 53~58 .7~1.1 0; track 1 50 80 1 0; [wagon 1 -17 80 1 0; wagon 1 27 80 1 0; engine 1
        70 80 1 0| wagon,glass=dark 1 7 80 1 0; engine,glass=dark,lamp=dark 1 51 83 1 6~13; smoke 2~3 40~62 54~58
        .8~1.1 -20~10; tree 1 74~78 90~93 1.2~1.5 48~70; sign 0~1 18~40 96 .9~1.1 0]; tuft 2~6 0~100 92~99 1 0""",
    "garden": """fair; sun 1 12~88 8~20 .7~1.1 0; cloud 0~3 5~95 8~30 .6~1.1 0; hill 1~3 0~100 54 .7~1.4 0; tree 0~2
        5~95 56 .8~1.1 0; [lawn 1 50 52 1 0; tuft 6~12 0~100 60~98 .8~1.2 0|lawn,lush=dry,lawn=dust 1 50 52 1 0; rift
        5~8 0~100 58~98 .7~1.3 -20~20]; [{bloom|tulip}|wilted] 2 5~92 72~78 .8~1 -9~9; [{bloom|tulip}|wilted] 2 4~36
        90~96 1.1~1.4 -9~9; [{bloom|tulip}|wilted] 1~2 42~58 90~98 1.1~1.5 -9~9; [{bloom|tulip}|wilted] 2 62~92 90~98
        1.1~1.5 -9~9; [butterfly 1~3 8~92 26~48 .8~1.3 -30~30|petal 5~10 0~100 80~98 .8~1.2 -30~30]""",
    "phone": """table; {stripes 1 50 50 1 -40~40|dot 0~40 0~100 0~100 1 0}; cup 0~1 6~14 12~22 1~1.3 0~360;
        [phone|broken] 1 46~54 50 .92~1.15 -24~24; shard [0|5~9] 8~92 82~97 .9~1.6 0~360""",
}


def draw_scene(topic: str, state: str, generator: np.random.Generator, size: int = 64) -> Image.Image:
    """Draw one scene as an RGB image of ``size`` x ``size`` pixels; ``generator`` decides all that may vary.
    Raises ValueError if ``topic`` or ``state`` is not in TOPICS or STATES, or if ``size`` is below 16 pixels.
    """
    _require("topic", topic, TOPICS)
    _require("state", state, STATES)
    if size < SMALLEST_SIZE:
        raise ValueError(f"size is {size} pixels, allowed are {SMALLEST_SIZE} or more: ask for a larger image")
    side = size * OVERSAMPLING
    canvas = Image.new("RGB", (side, side))
    scene = _expand(SCENES[topic], STATES.index(state), generator)
    _paint(ImageDraw.Draw(canvas, "RGBA"), scene, side / 100, generator)
    image = canvas.resize((size, size), Image.Resampling.LANCZOS)
    image = ImageOps.mirror(image) if generator.random() < 0.5 else image
    # A random exposure per image, so that the mean colour says little about the state.
    exposure = generator.uniform(0.84, 1.06) * generator.uniform(0.96, 1.04, 3)
    return Image.fromarray(np.clip(np.asarray(image) * exposure, 0, 255).astype(np.uint8))


def scene_caption(topic: str, state: str, generator: np.random.Generator) -> str:
    """Describe, without judging it, what every drawing of ``topic`` in ``state`` shows, in lower case.
    Raises ValueError if ``topic`` or ``state`` is not in TOPICS or STATES.
    """
    _require("topic", topic, TOPICS)
    _require("state", state, STATES)
    return _say(CAPTIONS[topic], STATES.index(state), generator)


def comment(topic: str, tone: str, generator: np.random.Generator) -> str:
    """Say in lower case what a person posts about ``topic``: only the attitude, never what the scene shows.
    Raises ValueError if ``topic`` or ``tone`` is not in TOPICS or TONES.
    """
    _require("topic", topic, TOPICS)
    _require("tone", tone, TONES)
    return _say(COMMENTS.replace("NOUN", NOUNS[topic]).replace("WORD", WORD), TONES.index(tone), generator)


def captioned_drawings(count: int, seed: int, size: int = 64) -> Iterator[tuple[Image.Image, str]]:
    """Return ``count`` pairs (RGB image of ``size`` x ``size`` pixels, text) to train a teacher on.

    As with images in the wild, a third of the texts describe the scene, a third go on with ". " and a comment, and a
    third are the comment alone; comments here always fit the state, never a sarcastic one.
    The same ``seed`` gives the same pairs, and none of their images is drawn by ``posts`` under that seed.
    Raises ValueError if ``count`` or ``seed`` is negative or ``size`` is below 16 pixels.
    """
    return (_captioned(n, cell, seed, size) for n, cell in enumerate(_cells(count, seed, TEACHER_STREAM, STATES)))


def posts(count: int, seed: int, size: int = 64) -> Iterator[dict]:
    """Return ``count`` posts; each block of 20 holds every topic, state and tone together once, shuffled by ``seed``.

    A post is a dict: ``id`` (such as "congruity-000012"), ``text``, ``image`` (RGB, ``size`` x ``size`` pixels),
    ``label`` ("sarcastic" or "not_sarcastic"), ``topic``, ``state``, ``tone``. The same seed gives the same posts.
    Raises ValueError if ``count`` is no positive multiple of 20, ``seed`` is negative or ``size`` is below 16 pixels.
    """
    block = len(TOPICS) * len(STATES) * len(TONES)
    if count <= 0 or count % block:
        near = max(block, round(count / block) * block)
        raise ValueError(f"count is {count}, allowed are positive multiples of {block} (balance): ask for {near}")
    return (_post(n, cell, seed, size) for n, cell in enumerate(_cells(count, seed, POST_STREAM, STATES, TONES)))


def words() -> list[str]:
    """Return the sorted vocabulary: every word that a caption or a comment can contain, without punctuation."""
    return sorted(set(re.findall(r"\b[a-z]+\b", " ".join([*NOUNS.values(), WORD, COMMENTS, *CAPTIONS.values()]))))


def _require(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}, allowed are {', '.join(allowed)}: choose one of these")


def _cells(count: int, seed: int, stream: int, *factors: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if count < 0 or seed < 0:
        raise ValueError(f"count is {count} and seed is {seed}, allowed are 0 and more: pass no negative number")
    combinations = list(itertools.product(TOPICS, *factors))
    generator = np.random.default_rng([seed, stream])
    blocks = (generator.permutation(len(combinations)) for _ in itertools.count())
    return (combinations[k] for k in itertools.islice(itertools.chain.from_iterable(blocks), count))


def _captioned(number: int, cell: tuple[str, ...], seed: int, size: int) -> tuple[Image.Image, str]:
    topic, state = cell
    generator = np.random.default_rng([seed, TEACHER_STREAM, number])
    caption, opinion = scene_caption(topic, state, generator), comment(topic, TONES[STATES.index(state)], generator)
    return draw_scene(topic, state, generator, size), (caption, f"{caption}. {opinion}", opinion)[number % 3]


def _post(number: int, cell: tuple[str, ...], seed: int, size: int) -> dict:
    topic, state, tone = cell
    generator = np.random.default_rng([seed, POST_STREAM, number])
    text, image = comment(topic, tone, generator), draw_scene(topic, state, generator, size)
    label = "not_sarcastic" if STATES.index(state) == TONES.index(tone) else "sarcastic"
    post = {"id": f"congruity-{number:06d}", "text": text, "image": image, "label": label}
    return post | {"topic": topic, "state": state, "tone": tone}


def _say(phrases: str, side: int, generator: np.random.Generator) -> str:
    return " ".join(_expand(_choose(phrases.split("/"), generator), side, generator).split())


def _expand(text: str, side: int, generator: np.random.Generator) -> str:
    while match := INNERMOST.search(text):
        choices = match[2].split("|")
        chosen = choices[side] if match[1] == "[" else _choose(choices, generator)
        text = text[: match.start()] + chosen + text[match.end() :]
    return text


def _choose(choices: list[str], generator: np.random.Generator) -> str:
    return choices[int(generator.integers(len(choices)))]


def _paint(draw: ImageDraw.ImageDraw, scene: str, unit: float, generator: np.random.Generator) -> None:
    backdrop, *things = scene.split(";")
    *hues, red, green, blue = _choose(BACKDROPS[backdrop].split(";"), generator).split()
    light = np.array([int(red), int(green), int(blue), 100]) / 100
    zoom, shift = unit * generator.uniform(0.95, 1.1), complex(*generator.uniform(-4, 4, 2))
    for thing in ("sky 1 50 0 1 0", *things):
        names, count, *place = thing.split()
        name, *changes = names.split(",")
        pools = POOLS | {"top": hues[:1], "bottom": hues[1:2], "own": hues[2:]}
        pools |= {old: pools[new] for old, new in (change.split("=") for change in changes)}
        for _ in range(round(_number(count, generator))):
            x, y, scale, degrees = (_number(value, generator) for value in place)
            turn = zoom * scale * np.exp(1j * np.radians(degrees))
            foot = 50 * unit * (1 + 1j) + zoom * (complex(x - 50, y - 50) + shift)
            fills = {}  # one choice per colour name, so that all petals of a flower agree
            for first, last, share, width, points in _shapes(name):
                for colour in (first, last):
                    if colour not in fills:
                        pure = ImageColor.getcolor("#" + _choose(pools[colour.rstrip("!")], generator), "RGBA")
                        fills[colour] = np.array(pure) * (1 if colour.endswith("!") else light)
                fill = tuple((fills[first] + (fills[last] - fills[first]) * share).astype(int).tolist())
                pixels = (points * turn + foot).view(float).tolist()
                if width:
                    draw.line(pixels, fill, max(1, round(width * abs(turn))), "curve")
                else:
                    draw.polygon(pixels, fill)


def _number(text: str, generator: np.random.Generator) -> float:
    low, _, high = text.partition("~")
    return generator.uniform(float(low), float(high)) if high else float(low)


@functools.cache
def _shapes(name: str) -> list[tuple[str, str, float, float, np.ndarray]]:
    """Return an object's shapes: two colours, share of the second one, line width, points as complex numbers."""
    shapes = []
    for row in re.findall(rf"(?:^|/)\s*{name} = ([^/]*)", OBJECTS)[0].split(";"):
        kind, colour, *rest = row.split(None, 2)
        shapes += _shapes(colour) if kind == "+" else []
        first, last = (colour.split(">") * 2)[:2]
        for numbers in rest[0].split(",") if rest else ():
            bands, width = _outlines(kind, [float(number) for number in numbers.split()])
            shapes += [(first, last, k / len(bands), width, points) for k, points in enumerate(bands)]
    return shapes


def _outlines(kind: str, numbers: list[float]) -> tuple[list[np.ndarray], float]:
    if kind == "f":  # bands, each over the upper rim of the next one
        band = np.array([-90, 90, 90 + 6j, -90 + 6j])
        return [band + 1j * y for y in np.linspace(numbers[0], numbers[1], 30)], 0
    if kind in "oc":
        turn = np.pi * (np.arange(28) + 0.5) / 14
        x, y, wide, high, *radius = numbers
        # An oval is a stretched circle, a rounded box a circle pulled apart at its four corners.
        a, b = (radius[0], radius[0]) if radius else (wide, high)
        across, down = np.cos(turn), np.sin(turn)
        across, down = across * a + np.sign(across) * (wide - a), down * b + np.sign(down) * (high - b)
        return [x + across + 1j * (y + down)], 0
    width = numbers.pop(0) if kind == "l" else 0
    return [np.array(numbers[::2]) + 1j * np.array(numbers[1::2])], width
