"""What the parts cost: a teacher's embeddings, images from bytes to tensors, the contrastive losses."""

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clfa.config import Precision
from clfa.data.cache import Cache, fill
from clfa.data.images import open_image
from clfa.losses import info_nce, info_nce_among_all
from clfa.model.arithmetic import precisions, products
from clfa.model.modalities import KINDS
from clfa.model.teacher import load_teacher
from clfa.studies.bench.material import WORDS, photograph
from clfa.studies.bench.measure import Suite, Way, alternate
from clfa.studies.tiny import word_tokenizer, write_encoder

PAIRS = 32
BY_BF16 = "cached, fp32_by_bf16"


def teacher_suite(rounds: int, layers: int) -> Suite:
    """Milliseconds of a text and an image through CLIP ViT-B/32, random weights: one by one, and as caches are filled."""
    from transformers import CLIPConfig

    with tempfile.TemporaryDirectory() as name:
        folder, tokenizer = Path(name), word_tokenizer([f"w{number}" for number in range(WORDS)])
        sizes: dict[str, Any] = {"num_hidden_layers": layers}
        text = {**sizes, "vocab_size": len(tokenizer), "bos_token_id": 2, "eos_token_id": 3}
        config = CLIPConfig(text_config=text, vision_config={**sizes, "patch_size": 32}, projection_dim=512)
        write_encoder(folder, config, tokenizer, 224)
        teacher = load_teacher(str(folder)).to("cuda" if torch.cuda.is_available() else "cpu")
        generator = np.random.default_rng(0)
        texts = [generator.integers(0, WORDS, generator.integers(5, 40)) for _ in range(PAIRS)]
        values: dict[str, list[Any]] = {
            "text": [" ".join(f"w{word}" for word in words) for words in texts],
            "image": [photograph(generator) for _ in range(PAIRS)],
        }

        @torch.no_grad()
        def embed(kind: str, some: list) -> list[torch.Tensor]:
            return [row[None] for row in teacher.embed(kind, [KINDS[kind].decode(value) for value in some]).cpu()]

        def one_by_one() -> int:
            for kind, each in values.items():
                for value in each:
                    embed(kind, [value])
            return PAIRS

        def filled(place: str) -> int:
            """How many contents were computed."""
            return sum(
                fill(Path(place), kind, each, partial(embed, kind), f"embedding {kind}s")
                for kind, each in values.items()
            )

        def cached(precision: Precision) -> int:
            with tempfile.TemporaryDirectory(dir=folder) as place, products(precision):
                filled(place)
            return PAIRS

        with tempfile.TemporaryDirectory(dir=folder) as place:
            filled(place)

            def again() -> int:
                """The next run, or epoch, on the same posts."""
                return PAIRS + filled(place)

            ways: dict[str, Way] = {"one by one": one_by_one, "cached": partial(cached, "fp32"), "there already": again}
            if "fp32_by_bf16" in precisions(torch.device("cpu")):
                ways[BY_BF16] = partial(cached, "fp32_by_bf16")
            times = alternate(ways, rounds)
            computed = again() - PAIRS
        fastest = min([way for way in ("cached", BY_BF16) if way in times], key=lambda way: sum(times[way]))
        pairs = {
            "teacher": ("one by one", fastest),
            "teacher, fp32": ("one by one", "cached"),
            "second run": ("one by one", "there already"),
        }
        further = {"teacher is": fastest, "embedded again in a second run": computed}
        return Suite(times, pairs, {"teacher": 4.0}, further)


def image_suite(rounds: int, layers: int) -> Suite:
    """Milliseconds an image from bytes to what an encoder takes: each stage, at once, and from the cache of a training."""
    from transformers import ViTImageProcessorPil

    kind, preparer = KINDS["image"], ViTImageProcessorPil(size={"height": 224, "width": 224})
    generator = np.random.default_rng(0)
    data = [photograph(generator) for _ in range(PAIRS)]
    images = [open_image(one) for one in data]
    compact = kind.compact(preparer, images, 0)
    with tempfile.TemporaryDirectory() as name:
        fill(
            Path(name),
            "image",
            data,
            lambda some: kind.compact(preparer, [open_image(one) for one in some], 0),
            "resizing",
        )
        cache = Cache(Path(name))

        def whole() -> int:
            return len(kind.prepare(preparer, [open_image(one) for one in data], 0)["pixel_values"])

        def from_cache() -> int:
            return len(kind.expand(preparer, [cache.read(number) for number in range(len(cache))])["pixel_values"])

        def reduced() -> int:
            return sum(_at_reduced_scale(one).width > 0 for one in data)

        ways: dict[str, Way] = {
            "decode": lambda: len([open_image(one) for one in data]),
            "decode at reduced scale": reduced,
            "resize": lambda: len(kind.compact(preparer, images, 0)),
            "normalise": lambda: len(kind.expand(preparer, compact)["pixel_values"]),
            "all of it": whole,
            "from the cache": from_cache,
        }
        times = alternate(ways, rounds)
        a_second = {way: round(1_000 * len(each) / sum(each)) for way, each in times.items()}
        equal = torch.equal(
            kind.expand(preparer, compact)["pixel_values"], kind.prepare(preparer, images, 0)["pixel_values"]
        )
        small = kind.compact(preparer, [_at_reduced_scale(one) for one in data], 0)
        change = torch.cat([(a.float() - b.float()).abs().flatten() for a, b in zip(small, compact)])
        return Suite(
            times,
            {"image cache": ("all of it", "from the cache"), "reduced scale": ("decode", "decode at reduced scale")},
            {},
            {
                "images a second and core": a_second,
                "cached images are equal to the bit": equal,
                "reduced scale changes a pixel by (mean, most; of 255)": [float(change.mean()), float(change.max())],
            },
        )


def _at_reduced_scale(data: bytes):
    """As JPEG decoders can, by 1/2, 1/4, 1/8, but not below twice the sides that the encoder reads."""
    import io

    from PIL import Image

    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (448, 448))
    return image.convert("RGB")


def loss_suite(rounds: int, layers: int) -> Suite:
    """Milliseconds a post of the contrastive losses with their gradients, by batch and by number of negatives."""
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def among_batch(size: int) -> int:
        ours, theirs = (torch.randn(size, 512, device=device, requires_grad=wanted) for wanted in (True, False))
        info_nce(ours, theirs, 0.1).backward()
        return size

    everyone = {count: torch.randn(count, 512).half().to(device) for count in (10_000, 100_000, 1_000_000)}

    def among_all(count: int, size: int = 32) -> int:
        ours = torch.randn(size, 512, device=device, requires_grad=True)
        info_nce_among_all(ours, everyone[count], torch.arange(size, device=device), 0.1).backward()
        return size

    ways: dict[str, Way] = {f"batch of {size}": partial(among_batch, size) for size in (8, 32, 128, 512, 2_048)}
    ways |= {f"{count:,} negatives": partial(among_all, count) for count in everyone}
    memory = _peak()
    return Suite(alternate(ways, rounds), {}, {}, {"memory of a step with 1,000,000 negatives, MB": memory})


PEAK = """
import json, torch
from clfa.losses import info_nce_among_all
def peak():  # of this process alone; ru_maxrss begins with that of the process that started it
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1e3
def step(everyone):
    ours = torch.randn(32, 512, requires_grad=True)
    info_nce_among_all(ours, everyone, torch.arange(32), 0.1).backward()
step(torch.ones(1_000, 512).half())
before = peak()
everyone = torch.ones(1_000_000, 512, dtype=torch.float16)
filled = peak()
step(everyone)
print(json.dumps({"embeddings": filled - before, "beyond them": peak() - filled}))
"""


def _peak() -> dict[str, float]:
    """Of the embeddings, and what a step needs beyond them, in MB; in a process of its own, on a CPU. Empty where
    the system does not say."""
    if not Path("/proc/self/status").is_file():
        return {}
    done = subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)
