"""What safety costs: checkpoints in a training, the largest images in memory and time, `clfa check` of 24,635 posts.

    python benchmarks/reliability.py --out /somewhere/with/2/GB

Writes docs/results/reliability.json. The training is the demo's CLFA on 400 posts, 9 epochs, a checkpoint after each. Images
are opened as import and training open them, each in a process of its own: the growth of its largest resident set. The posts
are generated, with JPEGs of about 30 KB, all different.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from memory import write_posts

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "reliability.json"
POSTS = 24_635
SIDE = 5_000
"""25 megapixels, the limit."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for name, measure in (("images", images), ("check", lambda: check(out)), ("checkpoints", lambda: checkpoints(out))):
        found[name] = measure()
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


def checkpoints(out: Path) -> dict[str, float]:
    """Seconds of a training, and those of its checkpoints."""
    from dataclasses import replace

    import clfa.training.train as training
    from clfa.studies import demo
    from clfa.training.teacher import train_teacher

    folder = out / f"training-{os.getpid()}"
    demo.write_encoders(folder / "encoders")
    demo.write_posts(folder / "data", 400)
    demo.write_captions(folder / "captions")
    train_teacher(replace(demo.teacher_config(folder), epochs=1))
    spent = []

    def timed(function):
        def call(*arguments):
            started = time.monotonic()
            function(*arguments)
            spent.append(time.monotonic() - started)

        return call

    training.save_checkpoint, training.save_best = timed(training.save_checkpoint), timed(training.save_best)
    started = time.monotonic()
    training.train(replace(demo.run_config(folder), output=str(folder / "run")))
    return {"seconds": time.monotonic() - started, "of checkpoints": sum(spent), "writes": len(spent)}


def images() -> dict[str, dict[str, float]]:
    """Kind of image of 25 megapixels -> seconds and bytes to open it."""
    code = (
        "import sys, time, json; from clfa.data.images import read_image\n"
        "def size(line):\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return 1024 * int(next(each for each in lines if each.startswith(line)).split()[1])\n"
        "content = sys.stdin.buffer.read(); read_image(open(sys.argv[1], 'rb').read())\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"
        "before, started = size('VmRSS'), time.monotonic()\n"
        "read_image(content)\n"
        "print(json.dumps({'seconds': time.monotonic() - started, 'bytes': size('VmHWM') - before}))"
    )
    small = RESULTS.parent / "curve.png"
    return {
        kind: json.loads(
            subprocess.run(
                [sys.executable, "-c", code, str(small)], input=content, stdout=subprocess.PIPE, check=True
            ).stdout
        )
        for kind, content in large_images()
    }


def large_images():
    """Kind and content."""
    import numpy as np
    from PIL import Image

    turned = Image.Exif()
    turned[0x0112] = 6
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8))
    picture = noise.resize((SIDE, SIDE))
    for kind, image, form, options in (
        ("JPEG", picture, "JPEG", {}),
        ("JPEG, turned by its EXIF", picture, "JPEG", {"exif": turned}),
        ("JPEG, CMYK", picture.convert("CMYK"), "JPEG", {}),
        ("PNG", picture, "PNG", {"compress_level": 6}),
        ("PNG, transparent", picture.convert("RGBA"), "PNG", {"compress_level": 6}),
        ("PNG, 16 bit", Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)), "PNG", {}),
        ("GIF", picture.convert("P"), "GIF", {}),
        ("WebP", picture, "WEBP", {"method": 0}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        yield kind, buffer.getvalue()


def check(out: Path) -> dict[str, float]:
    """Seconds of `clfa check` of a table, images included."""
    if not (out / "posts" / "posts.csv").is_file():
        write_posts(out / "posts", POSTS)
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "clfa", "check", str(out / "posts" / "posts.csv")], check=True)
    return {"posts": POSTS, "seconds": time.monotonic() - started}


if __name__ == "__main__":
    main()
